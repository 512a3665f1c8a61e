"""Quantize one model with ONNX Runtime's own tools, called as their documentation does.

Usage:
    python benchmarks/optimize/peers.py dynamic|static MODEL OUT [SAMPLES]

Runs as a process of its own, so that time and memory are counted from start to end.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


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


def main() -> None:
    """Run one quantizer."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_dynamic, quantize_static

    kind, model, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    if kind == "dynamic":
        quantize_dynamic(model, out, per_channel=True)
        return
    CalibrationDataReader.register(FolderReader)
    quantize_static(model, out, FolderReader(Path(sys.argv[4])), per_channel=True)


if __name__ == "__main__":
    main()
