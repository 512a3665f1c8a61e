"""Where the time of models goes: the nodes that ONNX Runtime runs, by kind, from its profiler.

Usage:
    python benchmarks/quantize/node_times.py --feed FEED.npz [--rounds 40] [--nodes N] MODEL ...

The models take the same input and run in turns on one thread, as loaded by default. Each node
counts with its fastest round, in microseconds of wall time; `run` is the fastest whole run, in CPU
time with the profiler on. Kinds of operators are in order of the first model's time.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import onnxruntime as ort

Nodes = dict[str, tuple[str, float]]


def open_profiled(path: Path, folder: str) -> ort.InferenceSession:
    """Open a model on one thread with the profiler on."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_profiling = True
    options.profile_file_prefix = str(Path(folder) / "profile")
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def node_times(profile: str) -> Nodes:
    """Return kind and fastest time in microseconds of each node of a profile."""
    found: Nodes = {}
    for event in json.loads(Path(profile).read_text(encoding="utf-8")):
        if event.get("cat") != "Node" or not event["name"].endswith("_kernel_time"):
            continue
        name = event["name"].removesuffix("_kernel_time")
        kind = event["args"]["op_name"]
        found[name] = (kind, min(event["dur"], found.get(name, (kind, np.inf))[1]))
    return found


def by_kind(nodes: Nodes) -> dict[str, tuple[int, float]]:
    """Return how many nodes of each kind there are, and their time in microseconds."""
    sums: dict[str, tuple[int, float]] = defaultdict(lambda: (0, 0.0))
    for kind, spent in nodes.values():
        sums[kind] = sums[kind][0] + 1, sums[kind][1] + spent
    return dict(sums)


def show(tables: list[Nodes], runs: list[float], slowest: int) -> None:
    """Print kinds side by side, then the slowest nodes of each model."""
    kinds = [by_kind(table) for table in tables]
    names = sorted(
        {name for kind in kinds for name in kind},
        key=lambda name: [-kind.get(name, (0, 0.0))[1] for kind in kinds],
    )
    print("run".ljust(36), *(f"{'':5}{1e6 * run:9.0f}" for run in runs))
    print(
        "all nodes".ljust(36), *(f"{len(t):5}{sum(s for _, s in t.values()):9.0f}" for t in tables)
    )
    for name in names:
        row = (kind.get(name, (0, 0.0)) for kind in kinds)
        print(name.ljust(36), *(f"{count:5}{spent:9.0f}" for count, spent in row))
    for number, table in enumerate(tables):
        for name, (kind, spent) in sorted(table.items(), key=lambda item: -item[1][1])[:slowest]:
            print(f"model {number}: {spent:7.0f} {kind} {name}")


def main() -> None:
    """Run the models in turns and print where their time goes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL")
    parser.add_argument("--feed", type=Path, required=True, help="an .npz of the inputs")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--nodes", type=int, default=0, help="slowest nodes shown of each model")
    arguments = parser.parse_args()
    feed = dict(np.load(arguments.feed))
    with tempfile.TemporaryDirectory() as folder:
        sessions = [open_profiled(path, folder) for path in arguments.models]
        runs = [float("inf")] * len(sessions)
        for _ in range(arguments.rounds):
            for number, session in enumerate(sessions):
                before = time.process_time()
                session.run(None, feed)
                runs[number] = min(runs[number], time.process_time() - before)
        show([node_times(session.end_profiling()) for session in sessions], runs, arguments.nodes)


if __name__ == "__main__":
    sys.exit(main())
