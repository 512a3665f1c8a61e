"""How fast onnxruntime multiplies in 8 bits here, pinned to a core or not.

Usage:
    [taskset -c 0] python benchmarks/integer_rate.py [--rows 512] [--pin]

Prints T multiply-accumulates a second of ``MatMulInteger`` with constant weights of 1024 x 1024 on
one thread: the fastest of a dozen samples.
"""

from __future__ import annotations

import argparse
import os

from graphopt.runtime import Worker, usable_cores
from graphopt.runtime.integer_rate import integer_rate


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=512, help="rows of activations, at most 512")
    parser.add_argument("--pin", action="store_true", help="hold to a core after the import")
    given = parser.parse_args()
    with Worker() as worker:
        worker.info()  # it has imported the runtime now
        if given.pin:
            os.sched_setaffinity(worker.pid, {0})
        rate = integer_rate(worker, threads=1, rows=given.rows)
    print(f"{usable_cores()} usable cores: {rate / 1e12:.2f}")


if __name__ == "__main__":
    main()
