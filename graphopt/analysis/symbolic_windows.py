"""Dimensions of what convolutions, pooling, resizing and look-ups make of expressions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import onnx_ir as ir

from graphopt.analysis.operands import int_attribute, ints_attribute, operand
from graphopt.analysis.symbolic_expressions import Integer, is_nonnegative

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


def _resize(node: ir.Node, known: SymbolicShapes) -> _Found:
    """What is resized to given sizes has them; `axes` since opset 18, `sizes` since 11."""
    data, sizes = known.dims(operand(node, 0)), known.elements(operand(node, 3))
    policy = node.attributes.get("keep_aspect_ratio_policy")
    if data is None or sizes is None or (policy is not None and policy.as_string() != "stretch"):
        return None
    items = sizes.reshape(-1).tolist()
    axes = ints_attribute(node, "axes") if "axes" in node.attributes else range(len(data))
    if axes is None or len(items) != len(axes):
        return None
    dims = list(data)
    for axis, item in zip(axes, items, strict=True):
        dims[axis] = item
    return [tuple(dims)] if all(map(is_nonnegative, dims)) else None


WINDOW_DIMS: Mapping[str, Callable[[ir.Node, SymbolicShapes], _Found]] = {
    "AveragePool": _pool,
    "Conv": _conv,
    "GatherND": _gather_nd,
    "GlobalAveragePool": _pool,
    "MaxPool": _pool,
    "Resize": _resize,
}
