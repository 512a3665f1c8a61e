"""Memory to quantize with few samples and with many, by every way to take ranges.

Usage:
    python benchmarks/quantize/many_samples.py MODEL SAMPLES [--counts 64,1024] [--methods NAMES]

SAMPLES is a folder of `.npz`; where there are fewer than wanted, they are taken again. For each
method (`minmax`, `percentile`, `entropy`, `mse`) and number of samples, `quantize-static` is run
through `footprint.py`. Prints a table: all memory in MB, what processes wrote themselves, and CPU
seconds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

TOOLS = {
    "minmax": "graphopt-static",
    "percentile": "graphopt-static-percentile",
    "entropy": "graphopt-static-entropy",
    "mse": "graphopt-static-mse",
}
_HERE = Path(__file__).parent


def linked(samples: list[Path], count: int, folder: Path) -> Path:
    """Make a folder of so many links to samples, and return it."""
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:05}.npz").symlink_to(samples[number % len(samples)].resolve())
    return folder


def measured(method: str, model: Path, samples: Path, out: Path) -> dict[str, float]:
    """Return what one run took."""
    command = [sys.executable, str(_HERE / "footprint.py"), sys.executable]
    command += [str(_HERE / "quantizers.py"), TOOLS[method], str(model), str(out), str(samples)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout)
    seconds = json.loads(found["said"][-1])["cpu_s"]
    return {"bytes": found["bytes"], "own": found["own"], "cpu_s": seconds}


def main() -> None:
    """Run every method with every number of samples."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("samples", type=Path)
    parser.add_argument("--counts", default="64,1024")
    parser.add_argument("--methods", default=",".join(TOOLS))
    arguments = parser.parse_args()
    samples = sorted(arguments.samples.glob("*.npz"))
    print("| method | samples | MB | of them its own | CPU s |\n|---|---:|---:|---:|---:|")
    for method in arguments.methods.split(","):
        for count in map(int, arguments.counts.split(",")):
            with tempfile.TemporaryDirectory() as name:
                folder = linked(samples, count, Path(name) / "samples")
                took = measured(method, arguments.model, folder, Path(name) / "out.onnx")
            sizes = f"{took['bytes'] / 1e6:.0f} | {took['own'] / 1e6:.0f}"
            print(f"| {method} | {count} | {sizes} | {took['cpu_s']:.1f} |", flush=True)


if __name__ == "__main__":
    main()
