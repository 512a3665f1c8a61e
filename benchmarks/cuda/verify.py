"""Whether `cuda-fp16` keeps its promises: numbers, speed, no floats of 32 bits, no host copies.

Usage:
    python benchmarks/cuda/verify.py --zoo zoo --samples samples [--models NAME,...]
        [--work work] [--out results.json] [--latency 10] [--rounds 200] [--batch 1]

`zoo/NAME/model.onnx` are the models, `samples/NAME/calibration/` feeds of them
(`benchmarks/quantize/prepare.py` writes them). Everywhere the bundle is built, judged on the CPU,
and looked at without running (`static.py`). On a machine with a GPU and `onnxruntime-gpu` it is
also run there: it must hold the gates of the target on the GPU, take at most 0.55 of the time of
the original in 32-bit floats on the same provider, and the graph that the runtime made of it must
have neither islands in 32-bit floats nor copies between host and GPU but those of inputs and
outputs. Times are wall times, inputs and outputs copied, by turns; products of the original keep
all 24 bits (no TF32), and the ratio with TF32 is told beside it.

The exit status is 0 where all of it was verified on a GPU, 1 where a promise is broken, 2 where
the models are not there, and 4 where nothing is broken that can be told without a GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from static import Findings, look

if TYPE_CHECKING:
    from graphopt.runtime import SessionOptions, Worker

TARGET, REFERENCE = "cuda-fp16", "cuda-fp32"
PROVIDER = "CUDAExecutionProvider"
MOST_OF_THE_TIME = 0.55
LOW_QUANTILE = 0.1  # what a run takes when left alone
WARM_UP_RUNS = 20
VERIFIED, BROKEN, MISSING, STATIC_ONLY = 0, 1, 2, 4

Feed = Mapping[str, np.ndarray[Any, Any]]


def look_at(path: Path) -> Findings:
    """Look at the graph of a file."""
    from graphopt.analysis import infer_shapes
    from graphopt.ir import load

    model = load(path)
    return look(model, infer_shapes(model))


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
    from graphopt.runtime import Worker
    from graphopt.targets import load_target

    options = load_target(TARGET).session_options()
    references = strict_and_fast(load_target(REFERENCE).session_options())
    models = {"float16": (bundle, options)} | {
        name: (original, chosen) for name, chosen in references.items()
    }
    written = given.work / "as_the_runtime_runs_it.onnx"
    with Worker() as worker:
        times = {
            str(batch): latency(models, in_batches(feed, batch), given.rounds, worker)
            for batch in sorted({given.batch, 8})
        }
        worker.load(bundle, replace(options, optimized_model_path=written)).close()
    return {"milliseconds_by_batch": times, "loaded": asdict(look_at(written))}


def build(
    name: str, model: Path, given: argparse.Namespace
) -> tuple[Path, Feed, dict[str, Any], list[str]]:
    """Build the bundle and judge its numbers; return it, a feed, the record and what is broken."""
    import graphopt

    samples = given.samples / name / "calibration"
    output = given.work / f"{name}.{TARGET}"
    result = graphopt.optimize(
        model,
        target=TARGET,
        calibration=str(samples),
        output=output,
        latency_budget_s=given.latency,
        force=True,
    )
    report = result.report
    chosen = next(one for one in report.candidates if one.name == report.chosen)
    record = {
        "model": name,
        "verified": report.not_verified is None,
        "not_verified": report.not_verified,
        "chosen": report.chosen,
        "size_ratio": report.size_bytes.after / report.size_bytes.before,
        "gates": {gate.name: gate.value for gate in report.gates},
        "placement": None if chosen.placement is None else chosen.placement.to_dict(),
        "versions": dict(report.versions),
    }
    broken = [f"{gate.name} is {gate.value}" for gate in report.gates if gate.passed is False]
    with np.load(min(samples.glob("*.npz"))) as file:
        feed = dict(file)
    return result.bundle.model_path, feed, record, broken


def verify(name: str, given: argparse.Namespace) -> dict[str, Any]:
    """Build one model, look at it, run it where that is possible, and judge."""
    model = given.zoo / name / "model.onnx"
    path, feed, record, broken = build(name, model, given)
    found = look_at(path)
    broken += found.broken()
    placement = record["placement"]
    if placement is not None and placement["operators_off"]:
        broken.append(f"the provider has no kernels for {placement['operators_off']}")
    if placement is not None and placement["copies"]:
        broken.append(f"{placement['copies']} copies between host and GPU")
    record["static"] = asdict(found)
    if record["verified"]:
        measured = run_there(path, model, feed, given)
        record |= measured
        broken += Findings(**measured["loaded"]).broken()
        times = measured["milliseconds_by_batch"][str(given.batch)]
        record["latency_ratio"] = times["float16"] / times["float32"]
        record["latency_ratio_tf32"] = times["float16"] / times["tf32"]
        if record["latency_ratio"] > MOST_OF_THE_TIME:
            ratio = f"{record['latency_ratio']:.3f}"
            broken.append(f"it takes {ratio} of the time, limit {MOST_OF_THE_TIME}")
    return {**record, "broken": broken}


def status_of(records: list[dict[str, Any]]) -> int:
    """Return the exit status; broken comes before not verified."""
    if any(record["broken"] for record in records):
        return BROKEN
    return VERIFIED if all(record["verified"] for record in records) else STATIC_ONLY


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--zoo", type=Path, required=True)
    parser.add_argument("--samples", type=Path, required=True)
    parser.add_argument("--models", default="bert_base.ts,resnet50.ts", help="default: %(default)s")
    parser.add_argument("--work", type=Path, default=Path("work"), help="default: %(default)s")
    parser.add_argument("--latency", type=float, default=10.0, help="seconds for each candidate")
    parser.add_argument("--rounds", type=int, default=200, help="timed runs of each model")
    parser.add_argument("--batch", type=int, default=1, help="at which the limit must hold")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def main() -> int:
    """Verify the models, and write what was found."""
    given = parsed()
    names = given.models.split(",")
    missing = [name for name in names if not (given.zoo / name / "model.onnx").is_file()]
    if missing:
        sys.stderr.write(f"error: `{given.zoo}` has no {', '.join(missing)}\n")
        return MISSING
    given.work.mkdir(parents=True, exist_ok=True)
    records: list[dict[str, Any]] = []
    for name in names:
        record = verify(name, given)
        records.append(record)
        if given.out is not None:  # after each one: time on a GPU may end
            given.out.write_text(json.dumps(records, indent=2) + "\n", encoding="utf-8")
        state = "broken" if record["broken"] else "verified" if record["verified"] else "static"
        sys.stderr.write(f"{name}: {state} {'; '.join(record['broken'])}\n")
    print(json.dumps(records, indent=2))
    return status_of(records)


if __name__ == "__main__":
    sys.exit(main())
