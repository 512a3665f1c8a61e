"""The model and the data of `graphopt demo`: a residual network that reads handwritten digits.

`examples/demo_model/train.py` in the repository makes the files. The images come from the digits
data set that scikit-learn ships (Alpaydin and Kaynak, 1998), upsampled to 32x32 pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

__all__ = ["DemoFiles", "demo_files"]


@dataclass(frozen=True)
class DemoFiles:
    """Paths of the demo's files, in the installed package.

    Attributes:
        model: Float32 ONNX model; `image` (batch, 1, 32, 32) in [0, 1] to `logits` (batch, 10).
        calibration: `.npz` with 64 training images under `image` and their `__labels__`.
        evaluation: `.npz` with 360 held-out images under `image` and their `__labels__` (int64).
    """

    model: Path
    calibration: Path
    evaluation: Path


def demo_files() -> DemoFiles:
    """Return where the demo's files lie."""
    folder = Path(str(files(__name__)))
    return DemoFiles(
        model=folder / "model.onnx",
        calibration=folder / "calibration.npz",
        evaluation=folder / "evaluation.npz",
    )
