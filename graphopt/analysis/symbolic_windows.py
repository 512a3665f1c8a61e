"""Dimensions of what convolutions, pooling and look-ups by many indices make of expressions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import onnx_ir as ir

from graphopt.analysis.operands import int_attribute, operand
from graphopt.analysis.symbolic_expressions import Integer

if TYPE_CHECKING:
    from graphopt.analysis.symbolic_shapes import SymbolicShapes

__all__ = ["WINDOW_DIMS"]

_Dims = tuple[Integer, ...]
_Found = Sequence[_Dims | None] | None


def _window(node: ir.Node, known: SymbolicShapes, channels: Integer | None) -> _Found:
    """Images stay as many as they are; how large they get is left to shape inference."""
    data = known.dims(operand(node, 0))
    result = known.dims(node.outputs[0])
    if data is None or len(data) < 3 or (result is not None and len(result) != len(data)):  # noqa: PLR2004
        return None
    if result is None:
        result = tuple(
            known.symbols.of(("dim", node.outputs[0], axis), is_size=True)
            for axis in range(len(data))
        )
    return [(data[0], result[1] if channels is None else channels, *result[2:])]


def _conv(node: ir.Node, known: SymbolicShapes) -> _Found:
    weight = known.dims(operand(node, 1))
    return _window(node, known, weight[0] if weight else None)


def _pool(node: ir.Node, known: SymbolicShapes) -> _Found:
    data = known.dims(operand(node, 0))
    return _window(node, known, data[1] if data is not None and len(data) > 1 else None)


def _gather_nd(node: ir.Node, known: SymbolicShapes) -> _Found:
    data, indices = known.dims(operand(node, 0)), known.dims(operand(node, 1))
    batch = int_attribute(node, "batch_dims", 0)
    if data is None or not indices or batch is None or not isinstance(indices[-1], int):
        return None
    return [(*indices[:-1], *data[batch + indices[-1] :])]


WINDOW_DIMS: Mapping[str, Callable[[ir.Node, SymbolicShapes], _Found]] = {
    "AveragePool": _pool,
    "Conv": _conv,
    "GatherND": _gather_nd,
    "GlobalAveragePool": _pool,
    "MaxPool": _pool,
}
