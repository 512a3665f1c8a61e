"""Run every command that removes or shrinks weights twice, and compare the bytes of the files.

Usage:
    python benchmarks/prune/twice.py --model model.onnx --samples samples/calibration --feeds 4

Each run is a process of its own, whose sets of text come in another order. With the extra `torch`
also `distill` and the score `gradient`. Ends with status 1 where any two files differ.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from graphopt.training import has_torch

COMMANDS = {
    "prune-heads": "prune-heads{ratio=0.25 score=obs}",
    "prune-neurons": "prune-neurons{ratio=0.25 score=wanda compensation=least-squares}",
    "random": "prune-neurons{ratio=0.25 score=random compensation=off}",
    "prune-layers": "prune-layers{score=cosine replacement=affine}",
    "prune-weights": "prune-weights{runs=4}",
    "factorize-weights": "factorize-weights",
    "cluster-weights": "cluster-weights{method=weighted}",
    "chain": "prune-heads{score=wanda compensation=off},prune-neurons,"
    "quantize-dynamic,clear-value-info",
}
TAUGHT = {
    "gradient": "prune-heads{score=gradient compensation=off}",
    "distill": "prune-neurons{score=l2 compensation=off},distill{steps=4 batch=16 minutes=0}",
}


def digest(model: Path, pipeline: str, samples: Path, folder: Path, seed: int) -> str:
    """Run a pipeline in a process of its own and return the digest of what it wrote."""
    out = folder / "out.onnx"
    arguments = ["run", str(model), "--pipeline", pipeline, "--calibration", str(samples)]
    arguments += ["--verify", "structure", "--force", "--no-progress", "-o", str(out)]
    subprocess.run(
        [sys.executable, "-m", "graphopt", *arguments],
        check=True,
        stdout=subprocess.DEVNULL,
        env=os.environ | {"PYTHONHASHSEED": str(seed)},
    )
    return hashlib.sha256(out.read_bytes()).hexdigest()


def main() -> None:
    """Run all commands twice and say which are the same."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="model to run them on")
    parser.add_argument("--samples", type=Path, required=True, help="folder of feeds")
    parser.add_argument("--feeds", type=int, default=4, help="how many of them")
    parser.add_argument("--only", nargs="*", default=["*"], help="patterns of names of commands")
    arguments = parser.parse_args()
    commands = COMMANDS | (TAUGHT if has_torch() else {})
    differ = False
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        few = folder / "few"
        few.mkdir()
        for path in sorted(arguments.samples.glob("*.npz"))[: arguments.feeds]:
            (few / path.name).write_bytes(path.read_bytes())
        for name, pipeline in commands.items():
            if not any(fnmatch.fnmatchcase(name, one) for one in arguments.only):
                continue
            text = f"@exact,{pipeline}"
            found = [digest(arguments.model, text, few, folder, seed) for seed in (1, 2)]
            is_same = len(set(found)) == 1
            differ |= not is_same
            print(f"| `{pipeline}` | {'yes' if is_same else 'NO'} | {found[0][:12]} |", flush=True)
    sys.exit(1 if differ else 0)


if __name__ == "__main__":
    main()
