"""How long `graphopt --help` takes, and what it imports.

Usage:
    python benchmarks/startup.py [--runs 20]

Prints the best and the median wall time beside those of `python -c pass`, and exits 1 where the
best is not below 0.25 s or a heavy library is imported.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

LIMIT_S = 0.25
HEAVY = ("onnx", "onnx_ir", "onnxruntime", "torch", "transformers", "numpy")


def seconds(command: list[str], runs: int) -> list[float]:
    """Return the wall seconds of each run of a command."""
    found = []
    for _ in range(runs):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        found.append(time.perf_counter() - start)
    return found


def heavy_imports(command: list[str]) -> list[str]:
    """Return the heavy libraries that a Python command imports."""
    done = subprocess.run(
        [command[0], "-X", "importtime", *command[1:]], check=True, capture_output=True, text=True
    )
    names = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    return sorted(names.intersection(HEAVY))


def main() -> int:
    """Measure and judge."""
    parser = argparse.ArgumentParser(description="Time `graphopt --help`.")
    parser.add_argument("--runs", type=int, default=20)
    runs = parser.parse_args().runs
    command = [sys.executable, "-m", "graphopt", "--help"]
    bare, whole = seconds([sys.executable, "-c", "pass"], runs), seconds(command, runs)
    heavy = heavy_imports(command)
    for name, values in (("python -c pass", bare), ("graphopt --help", whole)):
        print(f"{name:16} best {min(values):.3f} s, median {statistics.median(values):.3f} s")
    print(f"limit {LIMIT_S} s; heavy imports: {', '.join(heavy) or 'none'}")
    return int(bool(heavy) or min(whole) >= LIMIT_S)


if __name__ == "__main__":
    sys.exit(main())
