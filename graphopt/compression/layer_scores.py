"""How much sub-layers do to their stream, and how much the outputs of the model miss them.

Block influence (Men et al. 2024, equation 1) is ``1 - E[cos(x, y)]`` over the rows of the stream
before and behind a block. It costs one run of the samples for all blocks; a trial costs one run for
each, and sees what the layers behind make of the difference.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis import mask_inputs
from graphopt.compression.layer_removal import Candidate, channel_axis
from graphopt.rewrite import Held, Measure

__all__ = ["LAYER_SCORES", "MEASURED_LAYER_SCORES", "output_error", "stream_scores"]

Array = npt.NDArray[Any]

LAYER_SCORES = ("cosine", "change", "trial", "random")
MEASURED_LAYER_SCORES = frozenset({"cosine", "change", "trial"})


@dataclass
class _Sums:
    """Sums over the rows of a stream."""

    rows: int = 0
    cosine: float = 0.0
    moved: float = 0.0
    energy: float = 0.0

    def add(self, before: Array, after: Array) -> None:
        """Count rows ``(rows, channels)`` of the stream before and behind a block."""
        x, y = before.astype(np.float64), after.astype(np.float64)
        lengths = np.sqrt((x * x).sum(-1) * (y * y).sum(-1))
        told = lengths > 0.0  # a row of zeros has no direction
        self.rows += int(told.sum())
        self.cosine += float(((x * y).sum(-1)[told] / lengths[told]).sum())
        self.moved += float(((y - x) ** 2).sum())
        self.energy += float((x * x).sum())


def stream_scores(
    model: ir.Model, measure: Measure, asked: Sequence[Candidate], score: str
) -> list[float]:
    """Return for each candidate how much it changes the stream; NaN where that was not measured.

    Args:
        model: The model with all of them.
        measure: Runs it.
        asked: The candidates.
        score: ``cosine``: ``1 - E[cos]`` over rows; ``change``: ``E|y - x|^2 / E|x|^2``.
    """
    sums = [_Sums() for _ in asked]
    masks = [name for name in mask_inputs(model) if _rank(model, name) == 2]  # noqa: PLR2004
    names = [value.name or "" for one in asked for value in (one.entry, one.leave)]
    for values in measure.outputs(model, list(dict.fromkeys([*names, *masks]))):
        mask = values[masks[0]] if len(masks) == 1 else None
        for one, total in zip(asked, sums, strict=True):
            ends = _rows(one, values, mask)
            if ends is not None:
                total.add(*ends)
    if score == "cosine":
        return [1.0 - one.cosine / one.rows if one.rows else math.nan for one in sums]
    return [one.moved / one.energy if one.energy else math.nan for one in sums]


def _rank(model: ir.Model, name: str) -> int:
    shape = next(value.shape for value in model.graph.inputs if value.name == name)
    return 0 if shape is None else len(shape)


def _rows(
    one: Candidate, values: Mapping[str, Array], mask: Array | None
) -> tuple[Array, Array] | None:
    """Return the rows of a stream before and behind, without those that padding fills."""
    before, after = values[one.entry.name or ""], values[one.leave.name or ""]
    if before.shape != after.shape or not before.ndim:
        return None
    axis = channel_axis(one.layers[0])
    found = tuple(np.moveaxis(array, axis, -1) for array in (before, after))
    if mask is not None and axis == -1 and mask.shape == before.shape[:-1]:
        return found[0][mask != 0], found[1][mask != 0]
    return found[0].reshape(-1, found[0].shape[-1]), found[1].reshape(-1, found[1].shape[-1])


def output_error(
    measure: Measure, model: ir.Model, original: ir.Model, held: Held | None = None
) -> float:
    """Return ``E|y - y0|^2 / E|y0|^2``, the mean over outputs; NaN where none can be compared.

    Args:
        measure: Runs both.
        model: Computes ``y``.
        original: Computes ``y0``.
        held: What was held of the original, such as its outputs.
    """
    names = [value.name or "" for value in original.graph.outputs]
    pairs = [(name, name) for name in names]
    errors = []
    for found in measure.cross(model, original, pairs, products=False, held=(None, held)):
        if found is not None and found.error is not None:
            energy, error = float(found.second.second.sum()), float(found.error.sum())
            # An output of zeros is no reason to judge nothing: it is right, or it is not.
            errors.append(error / energy if energy else (math.inf if error else 0.0))
    return float(np.mean(errors)) if errors else math.nan
