"""`@exact` of two source trees on the same graphs, by turns: what a change saves on a busy machine.

Usage:
    python benchmarks/simplify/beside.py OTHER --zoo zoo --models segformer_b0.ts,minilm.ts
        [--repeats 7]

OTHER is a folder that holds another `graphopt`, for example of `git archive`. Each run is a process
of its own, and what it does before the clock starts is the same: see `peers.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent


def cpu_seconds(tree: Path, model: Path, folder: Path) -> float:
    """Return the CPU time from the model's path to the saved file, with the package of ``tree``."""
    out = folder / "out.onnx"
    out.unlink(missing_ok=True)  # to replace a file waits for the disk
    command = [sys.executable, str(HERE / "peers.py"), "graphopt:@exact", str(model), str(out)]
    environment = os.environ | {"PYTHONPATH": str(tree)}
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=folder, env=environment
    )
    line = next(text for text in done.stdout.splitlines() if text.startswith("RESULT "))
    return float(json.loads(line.removeprefix("RESULT "))["cpu_s"])


def main() -> None:
    """Time both trees and print one line for each graph."""
    parser = argparse.ArgumentParser(description="Time @exact of two source trees by turns.")
    parser.add_argument("other", type=Path)
    parser.add_argument("--zoo", type=Path, required=True)
    parser.add_argument("--models", required=True)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    trees = (arguments.other.resolve(), HERE.parents[1])
    for name in arguments.models.split(","):
        model = (arguments.zoo / name / "model.onnx").resolve()
        pairs = []
        with tempfile.TemporaryDirectory() as folder:
            for turn in range(arguments.repeats):
                order = trees if turn % 2 else trees[::-1]
                spent = {tree: cpu_seconds(tree, model, Path(folder)) for tree in order}
                pairs.append((spent[trees[0]], spent[trees[1]]))
        ratio = statistics.median(ours / other for other, ours in pairs)
        other, ours = (min(times) * 1e3 for times in zip(*pairs, strict=True))
        print(f"{name}: other {other:.0f} ms, this {ours:.0f} ms, median of ratios {ratio:.3f}")


if __name__ == "__main__":
    main()
