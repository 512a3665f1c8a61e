"""Hold `@exact` to its promises on random models.

Usage:
    nice python benchmarks/fuzz/run.py --seconds 600 [--seed 0] [--out fuzz-failures] [--only SEED]

For every model: shape inference tells no lie, it loads, `@exact` runs without an error, the checker
accepts the result, the interface is kept, every bit of every output is kept for two sets of inputs
(the runtime's optimizations and packing disabled), a second run edits nothing, the same input gives
the same bytes, and the file does not grow. A model that breaks a promise is made smaller and
written to a folder. Exits 1 where there is one.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

import onnx
from graphs import Sample, random_model
from promises import broken_promise
from reduction import reduced
from scopes import Runtime


def report(sample: Sample, seed: int, fault: str, out: Path, runtime: Runtime) -> None:
    """Make a failing model smaller and write it."""
    kind = fault.partition(":")[0]

    def still_fails(candidate: Sample) -> bool:
        found = broken_promise(candidate, runtime)
        return found is not None and found.partition(":")[0] == kind

    small = reduced(sample, still_fails)
    fault = broken_promise(small, runtime) or fault
    text = onnx.printer.to_text(small.model)
    out.mkdir(parents=True, exist_ok=True)
    stem = out / f"{kind.replace(' ', '-')}-{seed}"
    stem.with_suffix(".onnx").write_bytes(small.model.SerializeToString())
    stem.with_suffix(".txt").write_text(f"{fault}\n\n{text}\n\n{small.feeds}\n")
    print(f"seed {seed}: {fault}\n{text}\n", flush=True)


def main() -> int:
    """Run until the time is over."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--nodes", type=int, default=24, help="the most nodes of a graph")
    parser.add_argument("--out", type=Path, default=Path("fuzz-failures"))
    parser.add_argument("--only", type=int, help="one seed, and no other")
    options = parser.parse_args()
    runtime, counts = Runtime(), Counter()
    end = time.monotonic() + options.seconds
    seed = options.seed if options.only is None else options.only
    while time.monotonic() < end:
        sample = random_model(seed, runtime, options.nodes)
        fault = "skip: no model" if sample is None else broken_promise(sample, runtime)
        counts[fault.partition(":")[0] if fault else "kept"] += 1
        if sample is not None:
            counts["nodes"] += len(sample.model.graph.node)
        if fault and not fault.startswith("skip"):
            report(sample, seed, fault, options.out, runtime)
        if options.only is not None:
            print(fault or "every promise is kept")
            break
        seed += 1
    print(f"seeds {options.seed} to {seed - 1}; crashes of the runtime {runtime.crashes}")
    print(dict(counts))
    return int(any(key not in ("kept", "skip", "nodes") for key in counts))


if __name__ == "__main__":
    sys.exit(main())
