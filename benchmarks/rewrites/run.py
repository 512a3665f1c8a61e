"""What single rewrites are worth: paired latency of small graphs before and after.

Usage:
    python benchmarks/rewrites/run.py [--budget 6] [--repeats 2] [--only TEXT] [--threads 1]

Prints a Markdown table: how many times faster the graph is after the rewrite, by wall and by CPU
time (low quantiles of interleaved runs under the runtime's default settings), each repeat. What
graphopt rewrites is run through the pipeline that does it; what it leaves alone is written out in
`cases.py`. Outputs are compared first; a case that computes something else stops the script.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
from pathlib import Path

import numpy as np
import onnx
from cases import CASES, Case

from graphopt.ir import load, save
from graphopt.pipeline import Pipeline
from graphopt.runtime import SessionOptions, Worker, cpu_name, measure_latency, runtime_version

PLAIN = SessionOptions(optimization="disabled")


def write(case: Case, folder: Path) -> tuple[Path, Path]:
    """Write the models before and after, and return where."""
    before, after = folder / "before.onnx", folder / "after.onnx"
    onnx.save(case.model(case.before), before)
    if case.after:
        onnx.save(case.model(case.after), after)
        return before, after
    model = load(before)
    edits = Pipeline.parse(case.pipeline).run(model, verify="structure").ledger.edits
    if not edits:
        raise SystemExit(f"`{case.pipeline}` has nothing to do for {case.name}")
    save(model, after)
    return before, after


def check(case: Case, before: Path, after: Path) -> None:
    """Stop where the two compute something else."""
    feeds = case.feeds()
    with Worker() as worker:
        expected, found = (worker.load(path, PLAIN).run(feeds) for path in (before, after))
    for name, array in expected.items():
        bound = 1e-4 * float(np.abs(array).max())
        if not np.allclose(found[name], array, rtol=0, atol=bound):
            raise SystemExit(f"{case.name}: `{name}` differs")


def measured(case: Case, arguments: argparse.Namespace) -> str:
    """Return the row of one case."""
    with tempfile.TemporaryDirectory() as folder:
        before, after = write(case, Path(folder))
        check(case, before, after)
        found = [
            measure_latency(
                before,
                after,
                case.feeds(),
                options=SessionOptions(threads=arguments.threads),
                budget_s=arguments.budget,
                seed=seed,
            )
            for seed in range(arguments.repeats)
        ]
    wall = ", ".join(f"{1 / one.ratio:.2f}" for one in found)
    cpu = ", ".join(f"{1 / one.cpu_ratio:.2f}" for one in found)
    return f"| {case.name} | {case.done_by or 'nobody'} | {wall} | {cpu} |"


def main() -> None:
    """Measure every case that is asked for."""
    parser = argparse.ArgumentParser(description="What single rewrites are worth.")
    parser.add_argument("--budget", type=float, default=6.0, help="seconds per case and repeat")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="", help="cases whose name holds this text")
    arguments = parser.parse_args()
    print(f"{cpu_name()}, python {platform.python_version()}, onnxruntime {runtime_version()}\n")
    print("| rewrite | done by | times faster, wall | times faster, CPU |\n|---|---|---|---|")
    for case in CASES:
        if arguments.only.lower() in case.name.lower():
            print(measured(case, arguments), flush=True)


if __name__ == "__main__":
    main()
