"""What a student is taught by: samples, and what its teacher computes on them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from graphopt.rewrite import Measure
from graphopt.training.array_store import ArrayStore
from graphopt.training.interpreter import TorchModel
from graphopt.training.student import TEACHER
from graphopt.training.torch_extra import require_torch

__all__ = ["comparable", "lessons", "torch_fault"]

_MOST_DIFFERENCE = 1e-3
"""Between torch and ONNX Runtime, over the largest element: kernels sum in other orders."""


def comparable(
    model: ir.Model, original: ir.Model, names: Sequence[str], measure: Measure
) -> dict[str, str | None]:
    """Return by value why a model's values cannot be compared with the original's, or ``None``.

    Both are run on the first sample.
    """
    ours = next(iter(measure.outputs(model, names)), {})
    theirs = next(iter(measure.outputs(original, names)), {})
    found: dict[str, str | None] = {}
    for name in names:
        one, other = ours.get(name), theirs.get(name)
        if one is None or other is None or one.dtype.kind != "f":
            found[name] = "it is no tensor of floats"
        elif one.shape != other.shape:
            found[name] = f"its shape is {one.shape}, that of the original's {other.shape}"
        else:
            found[name] = None if np.isfinite(other).all() else "the original's is not finite"
    return found


def torch_fault(
    model: ir.Model, computed: TorchModel, names: Sequence[str], measure: Measure
) -> str | None:
    """Return how torch and the runtime disagree on the first sample; ``None`` where they agree."""
    torch = require_torch("distillation")
    feed = next(iter(measure.feeds()), {})
    expected = next(iter(measure.outputs(model, names)), {})
    with torch.no_grad():
        found = computed(feed, names)
    for name, array in expected.items():
        other = found[name].numpy()
        if other.shape != array.shape:
            return f"`{name}` has shape {other.shape} in torch, {array.shape} in the runtime"
        largest = float(np.abs(array).max(initial=0.0))
        error = float(np.abs(other - array).max(initial=0.0))
        if not error <= _MOST_DIFFERENCE * max(largest, 1e-30):
            return f"`{name}` differs by {error:.2g} between torch and the runtime"
    return None


def lessons(
    original: ir.Model, inputs: Iterable[str], names: Sequence[str], measure: Measure, folder: Path
) -> ArrayStore:
    """Return records of all samples, with what the original computes on them.

    Args:
        original: The teacher, run in ONNX Runtime once for each sample.
        inputs: Inputs of the student.
        names: Values to compare.
        measure: Runs models on samples.
        folder: Where the records lie; an empty one.
    """
    store = ArrayStore(folder)
    known = set(inputs)
    for feed, found in zip(measure.feeds(), measure.outputs(original, names), strict=True):
        record = {name: array for name, array in feed.items() if name in known}
        store.append(record | {TEACHER + name: found[name] for name in names})
    return store
