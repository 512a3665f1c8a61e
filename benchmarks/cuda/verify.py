"""Whether `cuda-fp16` keeps its promises: numbers, speed, no floats of 32 bits, no host copies.

Usage:
    python benchmarks/cuda/verify.py --work work [--zoo zoo] [--models NAME,...]
        [--out results.json] [--table results.md] [--torch PYTHON]
        [--latency 10] [--rounds 200] [--batch 1]

`ZOO/NAME/model.onnx` with its `spec.json` are the models; what is not there is written first by
`models.py` (`--torch` names an interpreter that has torch and transformers). Everywhere the bundle
is built, judged on the CPU, and looked at without running (`static.py`). On a machine with a GPU
and `onnxruntime-gpu` it is also run there: it must hold the gates of the target on the GPU, take at
most 0.55 of the time of the original in 32-bit floats on the same provider, and the graph that the
runtime made of it must have neither islands in 32-bit floats nor copies between host and GPU but
those of inputs and outputs. Times are wall times, inputs and outputs copied, by turns; products of
the original keep all 24 bits (no TF32), and the ratio with TF32 is told beside it. Each point is
printed with its verdict: PASS, FAIL, or OPEN where it takes a GPU; `--table` writes them between
the marks of a page.

The exit status is 0 where all of it passed on a GPU, 1 where a point failed, 2 where the models
are not there, and 4 where nothing failed that can be told without a GPU.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "simplify"))
sys.path.insert(0, str(Path(__file__).resolve().parent))
from feeds import make_feed
from points import FAIL, PASS, points_of, table_text
from static import Findings, look

if TYPE_CHECKING:
    from graphopt.runtime import SessionOptions, Worker

PROVIDER = "CUDAExecutionProvider"
LOW_QUANTILE = 0.1  # what a run takes when left alone
WARM_UP_RUNS = 20
LARGE_BATCH = 8  # at which a GPU has work enough
SAMPLES = 8
VERIFIED, BROKEN, MISSING, STATIC_ONLY = 0, 1, 2, 4
BEGIN = "<!-- made by benchmarks/cuda/verify.py: begin -->"
END = "<!-- made by benchmarks/cuda/verify.py: end -->"

Feed = Mapping[str, np.ndarray[Any, Any]]


def look_at(path: Path) -> tuple[Findings, int]:
    """Look at the graph of a file; return what was found, and how many nodes there are."""
    from graphopt.analysis import infer_shapes
    from graphopt.ir import load, nodes

    model = load(path)
    return look(model, infer_shapes(model)), sum(1 for _ in nodes(model))


def in_batches(feed: Feed, batch: int) -> dict[str, np.ndarray[Any, Any]]:
    """Repeat a feed of one along its first axis."""
    return {name: np.repeat(array, batch, axis=0) for name, array in feed.items()}


def strict_and_fast(options: SessionOptions) -> dict[str, SessionOptions]:
    """Return the options of the original without and with TF32."""
    return {
        name: replace(
            options,
            providers=tuple(
                (one, {**given, "use_tf32": bit} if one == PROVIDER else given)
                for one, given in options.providers
            ),
        )
        for name, bit in (("float32", "0"), ("tf32", "1"))
    }


def latency(
    models: Mapping[str, tuple[Path, SessionOptions]], feed: Feed, rounds: int, worker: Worker
) -> dict[str, float]:
    """Return milliseconds of a run of each model, measured by turns."""
    from graphopt.runtime.session import time_sessions

    sessions = {name: worker.load(path, options) for name, (path, options) in models.items()}
    for session in sessions.values():
        session.prepare(feed)
    time_sessions([(session, WARM_UP_RUNS) for session in sessions.values()])
    turns = [(session, 1) for _ in range(rounds) for session in sessions.values()]
    taken = np.array([timing.wall_ns / 1e6 for timing in time_sessions(turns)])
    low = np.quantile(taken.reshape(rounds, len(sessions)), LOW_QUANTILE, axis=0)
    for session in sessions.values():
        session.close()
    return dict(zip(sessions, map(float, low), strict=True))


def run_there(
    bundle: Path, original: Path, feed: Feed, given: argparse.Namespace
) -> dict[str, Any]:
    """Measure on the GPU: times, and what the runtime made of the model."""
    from graphopt.runtime import Worker, measure_placement
    from graphopt.targets import load_target

    options = load_target(given.target).session_options()
    references = strict_and_fast(load_target(given.reference).session_options())
    models = {"float16": (bundle, options)} | {
        name: (original, chosen) for name, chosen in references.items()
    }
    written = given.work / "as_the_runtime_runs_it.onnx"
    with Worker() as worker:
        times = {
            str(batch): latency(models, in_batches(feed, batch), given.rounds, worker)
            for batch in sorted({given.batch, LARGE_BATCH})
        }
        worker.load(bundle, replace(options, optimized_model_path=written)).close()
        placement = measure_placement(bundle, options, feed, worker=worker)
    chosen = times[str(given.batch)]
    return {
        "batch": given.batch,
        "milliseconds_by_batch": times,
        "latency_ratio": chosen["float16"] / chosen["float32"],
        "placement": placement.to_dict(),
        "loaded": asdict(look_at(written)[0]),
    }


def write_samples(spec: Mapping[str, Any], folder: Path) -> Feed:
    """Write seeded inputs at the sizes of a spec; return the first."""
    folder.mkdir(parents=True, exist_ok=True)
    feeds = [make_feed(spec, {}, seed) for seed in range(SAMPLES)]
    for number, feed in enumerate(feeds):
        np.savez(folder / f"{number:03d}.npz", **feed)
    return feeds[0]


def build(name: str, samples: Path, given: argparse.Namespace) -> tuple[Path, dict[str, Any]]:
    """Build the bundle and judge its numbers; return its model and the record."""
    import graphopt

    result = graphopt.optimize(
        given.zoo / name / "model.onnx",
        target=given.target,
        calibration=str(samples),
        output=given.work / f"{name}.bundle",
        latency_budget_s=given.latency,
        force=True,
    )
    report = result.report
    chosen = next(one for one in report.candidates if one.name == report.chosen)
    findings, count = look_at(result.bundle.model_path)
    return result.bundle.model_path, {
        "model": name,
        "machine": machine(),
        "versions": dict(report.versions),
        "verified": report.not_verified is None,
        "not_verified": report.not_verified,
        "chosen": report.chosen,
        "nodes": count,
        "size_ratio": report.size_bytes.after / report.size_bytes.before,
        "gates": [asdict(gate) for gate in report.gates],
        "placement": None if chosen.placement is None else chosen.placement.to_dict(),
        "static": asdict(findings),
    }


def machine() -> str:
    """Return the processor and the GPU in words."""
    try:
        words = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        found = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
        gpu = "; ".join(found.stdout.strip().splitlines())
    except (OSError, subprocess.SubprocessError):
        gpu = "no GPU"
    return f"{platform.system()} {platform.machine()}, {gpu}"


def verify(name: str, given: argparse.Namespace) -> dict[str, Any]:
    """Build one model, look at it, and run it where that is possible."""
    folder = given.zoo / name
    spec = json.loads((folder / "spec.json").read_text(encoding="utf-8"))
    samples = given.work / f"{name}.samples"
    feed = write_samples(spec, samples)
    path, record = build(name, samples, given)
    if record["verified"]:
        record |= run_there(path, folder / "model.onnx", feed, given)
    return record


def status_of(records: list[dict[str, Any]]) -> int:
    """Return the exit status; what failed comes before what is open."""
    verdicts = {point.verdict for record in records for point in points_of(record)}
    if FAIL in verdicts:
        return BROKEN
    return VERIFIED if verdicts == {PASS} else STATIC_ONLY


def make_missing(names: list[str], given: argparse.Namespace) -> str | None:
    """Write the models that are not there; return why that failed."""
    missing = [name for name in names if not (given.zoo / name / "model.onnx").is_file()]
    if not missing:
        return None
    script = Path(__file__).with_name("models.py")
    words = [given.torch, str(script), str(given.zoo), *missing]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return None
    last = (done.stderr.strip().splitlines() or ["no output"])[-1]
    return f"`{given.zoo}` has no {', '.join(missing)}, and `{' '.join(words)}` fails: {last}"


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--zoo", type=Path, help="default: WORK/zoo")
    parser.add_argument("--models", default="bert_base,resnet50", help="default: %(default)s")
    parser.add_argument("--torch", default=sys.executable, help="Python that writes the models")
    parser.add_argument("--target", default="cuda-fp16", help="a name, or a target file")
    parser.add_argument("--reference", default="cuda-fp32", help="whose session the original has")
    parser.add_argument("--latency", type=float, default=10.0, help="seconds for each candidate")
    parser.add_argument("--rounds", type=int, default=200, help="timed runs of each model")
    parser.add_argument("--batch", type=int, default=1, help="at which the limit must hold")
    parser.add_argument("--out", type=Path, help="everything that was found, as JSON")
    parser.add_argument("--table", type=Path, help="page whose table is replaced")
    given = parser.parse_args()
    given.zoo = given.zoo or given.work / "zoo"
    return given


def main() -> int:
    """Verify the models, and write what was found."""
    given = parsed()
    names = given.models.split(",")
    given.work.mkdir(parents=True, exist_ok=True)
    if why := make_missing(names, given):
        sys.stderr.write(f"error: {why}\n")
        return MISSING
    records: list[dict[str, Any]] = []
    for name in names:
        records.append(verify(name, given))
        for point in points_of(records[-1]):
            print(f"{point.verdict}  {name}: {point.name}: {point.found}", flush=True)
        if given.out is not None:  # after each one: time on a GPU may end
            given.out.write_text(json.dumps(records, indent=2) + "\n", encoding="utf-8")
    if given.table is not None:
        page = given.table.read_text(encoding="utf-8")
        text = f"{BEGIN}\n{table_text(records)}\n{END}"
        pattern = re.escape(BEGIN) + ".*?" + re.escape(END)
        given.table.write_text(
            re.sub(pattern, lambda _: text, page, flags=re.DOTALL), encoding="utf-8"
        )
    return status_of(records)


if __name__ == "__main__":
    sys.exit(main())
