"""A build step: make the bundle of a model, or fail and leave the old one where it is.

    python build_model.py MODEL --samples FILE --target NAME_OR_FILE --output DIRECTORY

The exit status is graphopt's: 0 done, 1 a gate fails, 2 something given is wrong.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import graphopt


def main() -> int:
    """Run the step and return its exit status."""
    given = _arguments()
    try:
        made = graphopt.optimize(
            given.model,
            target=given.target,
            calibration=given.samples,
            gates={"min_cosine": 0.98},  # this product's own limit; the target sets the others
            latency_budget_s=None if given.no_latency else 10.0,
        )
        # Raises where a gate fails: a build must not ship what misses its goals.
        bundle = made.bundle.save(given.output, force=True)
    except graphopt.GraphoptError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    print(made)
    # What is shipped has just been made here, but a check of the files costs little.
    return graphopt.validate(bundle.path).exit_code


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--samples", type=Path, required=True, help="calibration samples, `.npz`")
    parser.add_argument("--target", default="cpu-int8", help="name of a target, or its file")
    parser.add_argument("--output", type=Path, required=True, help="directory of the bundle")
    parser.add_argument("--no-latency", action="store_true", help="for build machines under load")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
