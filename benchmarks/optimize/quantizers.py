"""Quantize one model in a process of its own, and print what the call took.

Usage:
    python benchmarks/optimize/quantizers.py KIND MODEL OUT SAMPLES

KIND: onnxruntime-dynamic, onnxruntime-static (called as their documentation does), graphopt-static.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Call = Callable[[], object]


class FolderReader:
    """Hands the feeds of a folder of `.npz` files to `quantize_static`, in order of name."""

    def __init__(self, folder: Path) -> None:
        self._feeds = self._read(folder)

    @staticmethod
    def _read(folder: Path) -> Iterator[dict[str, NDArray[Any]]]:
        for path in sorted(folder.glob("*.npz")):
            yield dict(np.load(path))

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """Return the next feed, or nothing at the end."""
        return next(self._feeds, None)

    def __iter__(self) -> Iterator[dict[str, NDArray[Any]]]:
        """Yield the feeds that are left."""
        return self._feeds


def onnxruntime_dynamic(model: Path, out: Path, _: Path) -> Call:
    """Return the call of ONNX Runtime's dynamic quantizer."""
    from onnxruntime.quantization import quantize_dynamic

    return lambda: quantize_dynamic(model, out, per_channel=True)


def onnxruntime_static(model: Path, out: Path, samples: Path) -> Call:
    """Return the call of ONNX Runtime's static quantizer."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    CalibrationDataReader.register(FolderReader)
    return lambda: quantize_static(model, out, FolderReader(samples), per_channel=True)


def graphopt_static(model: Path, out: Path, samples: Path) -> Call:
    """Return the call of graphopt's static quantizer; its worker starts and ends inside."""
    import graphopt
    from graphopt.runtime import shared_worker

    run = graphopt.run_pipeline

    def call() -> None:
        run(
            model,
            "quantize-static",
            out,
            target="cpu-int8",
            calibration=samples,
            verify="off",
            force=True,
        )
        shared_worker().close()

    return call


QUANTIZERS: dict[str, Callable[[Path, Path, Path], Call]] = {
    "onnxruntime-dynamic": onnxruntime_dynamic,
    "onnxruntime-static": onnxruntime_static,
    "graphopt-static": graphopt_static,
}


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of the children that have ended."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def main() -> None:
    """Run one quantizer and print what the call took, imports left out."""
    kind, model, out, samples = sys.argv[1], *map(Path, sys.argv[2:5])
    call = QUANTIZERS[kind](model, out, samples)
    cpu, wall = cpu_seconds(), time.perf_counter()
    call()
    print(json.dumps({"wall_s": time.perf_counter() - wall, "cpu_s": cpu_seconds() - cpu}))


if __name__ == "__main__":
    main()
