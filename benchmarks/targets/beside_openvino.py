"""`openvino-int8` beside `cpu-int8`: verdict, candidate, size, error, time and placement.

Usage:
    PYTHON benchmarks/targets/beside_openvino.py --zoo zoo --work work [--models resnet50,minilm]
        [--latency 4] [--rounds 60] [--out results_openvino.json] [--table results_openvino.md]

PYTHON has `onnxruntime-openvino` and `openvino` in the place of `onnxruntime`, and graphopt. For
each model both bundles are built by the default command with sixteen calibration samples, checked
by `graphopt validate`, and timed in one process, by turns with the original on either provider:
CPU time of all threads and wall time of a run on one feed, 10 % quantiles. Both providers compute
on one thread. With `--table` the table between the two marks of that page is replaced.

The exit status is 1 where a bundle is not verified.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from build_all import MODELS, _prepare_samples, machine

TARGETS = ("cpu-int8", "openvino-int8")
LOW_QUANTILE = 0.1  # what a run takes when left alone
WARM_UP_RUNS = 5
BEGIN = "<!-- made by benchmarks/targets/beside_openvino.py: begin -->"
END = "<!-- made by benchmarks/targets/beside_openvino.py: end -->"

Record = dict[str, Any]


def build(model: str, target: str, samples: Path, given: argparse.Namespace) -> Record:
    """Build and check one bundle; return what came of it."""
    import graphopt
    from graphopt.deploy import validate
    from graphopt.runtime import Worker, measure_placement
    from graphopt.targets import load_target

    result = graphopt.optimize(
        given.zoo / MODELS[model][0],
        target=target,
        calibration=str(samples),
        output=given.work / f"{model}.{target}",
        latency_budget_s=given.latency,
        repair_budget_s=30.0,
        force=True,
    )
    path, report = result.bundle.model_path, result.report
    with Worker() as worker:
        options = load_target(target).session_options()
        placement = measure_placement(path, options, first_feed(samples), worker=worker)
    return {
        "path": str(path),
        "chosen": report.chosen,
        "validated": validate(result.bundle.path).to_dict()["status"],
        "size_ratio": report.size_bytes.after / report.size_bytes.before,
        "cosine": next(gate.value for gate in report.gates if gate.name == "min_cosine"),
        "missed": [gate.name for gate in report.gates if gate.passed is False],
        "candidates": [[one.name, one.status, one.reason] for one in report.candidates],
        "placement": placement.to_dict(),
    }


def first_feed(samples: Path) -> Record:
    """Return the first sample."""
    with np.load(min(samples.glob("*.npz"))) as file:
        return dict(file)


def tiled(feed: Record, dims: str) -> Record:
    """Return a feed of the sizes in `dims`, filled with what it holds again and again."""
    for axis, size in enumerate(int(one.rpartition("=")[2]) for one in dims.split(",")):
        feed = {
            name: array.take(np.arange(size) % array.shape[axis], axis)
            for name, array in feed.items()
        }
    return feed


def time_all(
    original: Path, bundles: dict[str, Record], feed: Record, rounds: int
) -> dict[str, dict[str, list[float]]]:
    """Return, by target, milliseconds of CPU and wall time of the original and of the bundle."""
    from graphopt.runtime import Worker
    from graphopt.runtime.session import time_sessions
    from graphopt.targets import load_target

    with Worker() as worker:
        sessions = [
            worker.load(path, load_target(target).session_options())
            for target in TARGETS
            for path in (original, Path(bundles[target]["path"]))
        ]
        for session in sessions:
            session.prepare(feed)
        time_sessions([(session, WARM_UP_RUNS) for session in sessions])
        turns = [(session, 1) for _ in range(rounds) for session in sessions]
        taken = [[timing.cpu_ns / 1e6, timing.wall_ns / 1e6] for timing in time_sessions(turns)]
    low = np.quantile(np.reshape(taken, (rounds, -1, 2)), LOW_QUANTILE, axis=0).tolist()
    return {
        target: {"original": low[2 * place], "bundle": low[2 * place + 1]}
        for place, target in enumerate(TARGETS)
    }


def run(model: str, given: argparse.Namespace) -> dict[str, Record]:
    """Build, check and time one model for both targets."""
    samples = given.work / f"{model}_samples"
    path, source, dims = MODELS[model]
    _prepare_samples(given.zoo / source, samples, None)
    bundles = {target: build(model, target, samples, given) for target in TARGETS}
    feed = tiled(first_feed(samples), dims)
    times = time_all(given.zoo / path, bundles, feed, given.rounds)
    for target, one in bundles.items():
        del one["path"]  # of this machine
        one["milliseconds"] = times[target]
    return bundles


FIRST_COLUMNS = ("model", "target", "`validate`", "candidate", "size", "least cosine", "CPU ms")
TIMES = ("of the original there", "of the original on the CPU provider", "wall ms")
COLUMNS = (*FIRST_COLUMNS, *TIMES, "placement", "gates missed")


def table_text(results: Record) -> str:
    """Return the table in Markdown, with what it was made by."""
    lines = [f"{results['machine']}; a run on one thread.", ""]
    lines += ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    for model, by_target in results["models"].items():
        usual = by_target[TARGETS[0]]["milliseconds"]["original"]
        for target, one in by_target.items():
            (before, wall_before), (cpu, wall) = one["milliseconds"].values()
            parts = one["placement"]["partitions"]
            cells = [model, f"`{target}`", one["validated"], f"`{one['chosen']}`"]
            cells += [f"{one['size_ratio']:.3f}", f"{one['cosine']:.4f}", f"{cpu:.2f}"]
            cells += [f"{cpu / before:.3f}", f"{cpu / usual[0]:.3f}"]
            cells += [f"{wall:.2f} of {wall_before:.2f}"]
            cells += [f"{parts} partition{'s' * (parts != 1)}, "]
            cells[-1] += f"{one['placement']['share_off_accelerator']:.1%} elsewhere"
            lines.append("| " + " | ".join([*cells, ", ".join(one["missed"]) or "none"]) + " |")
    return "\n".join(lines)


def main() -> int:
    """Run what is asked for, write results and table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--zoo", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--models", default="resnet50,minilm")
    parser.add_argument("--latency", type=float, default=4.0, help="seconds for each candidate")
    parser.add_argument("--rounds", type=int, default=60)
    here = Path(__file__).parent
    parser.add_argument("--out", type=Path, default=here / "results_openvino.json")
    parser.add_argument("--table", type=Path, help="page whose table is replaced")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    held: Record = {"models": {}}
    if given.out.exists():
        held = json.loads(given.out.read_text(encoding="utf-8"))
    held["machine"] = machine()
    for model in given.models.split(","):
        held["models"][model] = run(model, given)
        print(table_text(held), flush=True)
        given.out.write_text(json.dumps(held, indent=1) + "\n", encoding="utf-8")
    if given.table is not None:
        page = given.table.read_text(encoding="utf-8")
        text = f"{BEGIN}\n{table_text(held)}\n{END}"
        pattern = re.escape(BEGIN) + ".*?" + re.escape(END)
        given.table.write_text(
            re.sub(pattern, lambda _: text, page, flags=re.DOTALL), encoding="utf-8"
        )
    bundles = (one for by_target in held["models"].values() for one in by_target.values())
    return int({one["validated"] for one in bundles} != {"ok"})


if __name__ == "__main__":
    sys.exit(main())
