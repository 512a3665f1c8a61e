"""What an exit head sees of a stream: one row of features for each row of the batch.

``mean`` is over all positions, without those that a mask leaves out; ``first`` is the first
position, where classifiers of tokens look.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.rewrite import Change

__all__ = ["POOLS", "Pooling"]

Array = npt.NDArray[Any]

POOLS = ("both", "mean", "first")

_AXES_ARE_INPUTS = {"ReduceSum": 13, "ReduceMean": 18, "ReduceMax": 18, "ReduceMin": 18}


@dataclass(frozen=True, eq=False)
class Pooling:
    """How a stream becomes features.

    Attributes:
        stream: The stream.
        rank: Its rank, 2 to 4; the first axis is the batch.
        axis: Axis of its channels: 1 or -1.
        mask: Input of the model that marks the positions that count, or ``None``.
        pool: One of `POOLS`; images and rows have no first position.
    """

    stream: ir.Value
    rank: int
    axis: int
    mask: ir.Value | None
    pool: str

    @property
    def _spatial(self) -> tuple[int, ...]:
        return tuple(range(2, self.rank)) if self.axis == 1 else tuple(range(1, self.rank - 1))

    @property
    def _parts(self) -> tuple[str, ...]:
        if self.rank == 2:  # noqa: PLR2004 - a row of channels for each row
            return ("all",)
        if self.rank != 3 or self.axis == 1:  # noqa: PLR2004 - tokens
            return ("mean",)
        return ("mean", "first") if self.pool == "both" else (self.pool,)

    def of(self, array: Array, mask: Array | None) -> Array:
        """Return the features of one run, float64[batch, features]."""
        found = []
        for part in self._parts:
            rows = array.astype(np.float64)
            if part == "first":
                rows = rows[:, :1].sum(1)
            elif part == "mean":
                weights = np.ones(1) if mask is None else mask.astype(np.float64)[..., None]
                axes = self._spatial
                counts = np.broadcast_to(weights, rows.shape).sum(axes)
                with np.errstate(invalid="ignore", divide="ignore"):  # nothing counts: no mean
                    rows = (rows * weights).sum(axes) / counts
            found.append(rows)
        return np.concatenate(found, axis=-1)

    def emit(self, change: Change, opset: int, *, is_single: bool) -> ir.Value:
        """Create what computes the features, in single precision.

        Args:
            change: The rewrite; it places the nodes.
            opset: Of the default domain.
            is_single: The stream is of single precision already.
        """
        stream = self.stream if is_single else _single(change, self.stream)
        found = [self._part(change, stream, part, opset) for part in self._parts]
        if len(found) == 1:
            return found[0]
        return change.node("Concat", found, attributes={"axis": 1})

    def _part(self, change: Change, stream: ir.Value, part: str, opset: int) -> ir.Value:
        if part == "all":
            return stream
        if part == "first":
            place = change.initializer(np.array(0, np.int64), name="first_position")
            return change.node("Gather", [stream, place], attributes={"axis": 1})
        if self.mask is None:
            return reduced(change, "ReduceMean", stream, self._spatial, opset)
        weights = _unsqueezed(change, _single(change, self.mask), opset)
        total = reduced(change, "ReduceSum", change.node("Mul", [stream, weights]), (1,), opset)
        return change.node("Div", [total, reduced(change, "ReduceSum", weights, (1,), opset)])


def _single(change: Change, value: ir.Value) -> ir.Value:
    return change.node("Cast", [value], attributes={"to": int(ir.DataType.FLOAT)})


def _unsqueezed(change: Change, value: ir.Value, opset: int) -> ir.Value:
    if opset < 13:  # noqa: PLR2004 - since then axes are an input
        return change.node("Unsqueeze", [value], attributes={"axes": [2]})
    axes = change.initializer(np.array([2], np.int64), name="exit_axes")
    return change.node("Unsqueeze", [value, axes])


def reduced(
    change: Change, op_type: str, value: ir.Value, axes: tuple[int, ...], opset: int
) -> ir.Value:
    """Create a reduction over ``axes``, which vanish; over all where there are none."""
    if not axes:
        return change.node(op_type, [value], attributes={"keepdims": 0})
    if opset < _AXES_ARE_INPUTS[op_type]:
        return change.node(op_type, [value], attributes={"axes": list(axes), "keepdims": 0})
    held = change.initializer(np.array(axes, np.int64), name="exit_axes")
    return change.node(op_type, [value, held], attributes={"keepdims": 0})
