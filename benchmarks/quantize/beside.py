"""Measure quantized files of one graph beside the original and each other, in one process.

Usage:
    python benchmarks/quantize/beside.py --zoo zoo --samples samples --model NAME [--rounds 100] \
        FILE ...

`run.py` measures each candidate in a process of its own, so that two of them meet different hours
of a busy machine. Here every round runs all of them once, in an order drawn anew each time: who
always runs after the original, which leaves nothing in the caches, would pay for that. One thread,
CPU time; ratios of the fastest rounds, of the tenth and of the fiftieth percentile.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
from run import Case, sqnr_db

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "optimize"))
from measure import open_session, size_bytes

QUANTILES = (0.0, 0.1, 0.5)


def main() -> None:
    """Run all files in turns and print a row for each."""
    parser = argparse.ArgumentParser(description="Quantized files beside each other.")
    parser.add_argument("--zoo", type=Path, required=True)
    parser.add_argument("--samples", type=Path, required=True)
    parser.add_argument("--model", required=True, help="name of the graph in the zoo")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    arguments = parser.parse_args()
    case = Case(arguments.zoo, arguments.samples, arguments.model)
    sessions = {path: open_session(path, 1) for path in (case.model, *arguments.files)}
    outputs = {
        path: [session.run(None, dict(feed))[0] for feed in case.evaluation]
        for path, session in sessions.items()
    }
    spent: dict[Path, list[float]] = {path: [] for path in sessions}
    order, draw = list(sessions), np.random.default_rng(0)
    for _ in range(arguments.rounds):
        for path in [order[place] for place in draw.permutation(len(order))]:
            before = time.process_time()
            sessions[path].run(None, dict(case.timed))
            spent[path].append(1000 * (time.process_time() - before))
    original = np.quantile(spent[case.model], QUANTILES)
    for path in arguments.files:
        found = np.quantile(spent[path], QUANTILES)
        row = {
            "file": str(path),
            "cpu_ms": [round(float(one), 3) for one in found],
            "ratio": [round(float(one), 4) for one in found / original],
            "sqnr_db": round(sqnr_db(outputs[case.model], outputs[path]), 2),
            "size_ratio": round(size_bytes(path) / size_bytes(case.model), 4),
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
