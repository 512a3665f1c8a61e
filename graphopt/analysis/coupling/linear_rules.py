"""Which dimensions the operators that sum products tie together."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from graphopt.analysis.coupling.elementwise_rules import broadcast_axes
from graphopt.analysis.coupling.layouts import Axis, Layout, opaque, tie_axes
from graphopt.analysis.coupling.walk import Walk, name_of
from graphopt.analysis.operands import int_attribute, operand
from graphopt.analysis.symbolic_expressions import Integer

__all__ = ["LINEAR_RULES"]

Found = Sequence[Layout | None] | None
_MATRIX_RANK = 2


def _matmul(node: ir.Node, walk: Walk) -> Found:
    return _product(node, walk, (False, False))


def _fused_matmul(node: ir.Node, walk: Walk) -> Found:
    """com.microsoft FusedMatMul, with operands that may be transposed."""
    # These move an axis of the batch between rows and columns.
    if int_attribute(node, "transBatchA", 0) or int_attribute(node, "transBatchB", 0):
        return None
    flips = int_attribute(node, "transA", 0), int_attribute(node, "transB", 0)
    return None if None in flips else _product(node, walk, (bool(flips[0]), bool(flips[1])))


def _product(node: ir.Node, walk: Walk, flips: tuple[bool, bool]) -> Found:
    left, right = walk.layout(operand(node, 0)), walk.layout(operand(node, 1))
    if left is None or right is None or min(len(left), len(right)) < _MATRIX_RANK:
        return None
    where = name_of(node)
    inner, rows = _places(len(left), is_flipped=flips[0], inner=-1)
    other, columns = _places(len(right), is_flipped=flips[1], inner=-2)
    tie_axes(left[inner], right[other], walk.ties, where)
    weights = [walk.is_weight(value) for value in node.inputs]
    walk.note("contracts", node, left[inner], 0, inner)
    walk.note("contracts", node, right[other], 1, other)
    batches = broadcast_axes([left[:-2], right[:-2]], walk, where)
    walk.note("computes" if any(weights) else "carries", node, right[columns], 1, columns)
    if weights[0]:
        walk.note("computes", node, left[rows], 0, rows)
    # A product of two activations is made once for each head.
    if not any(weights):
        for axis in batches:
            walk.note("batches", node, axis)
    return [(*batches, left[rows], right[columns])]


def _places(rank: int, *, is_flipped: bool, inner: int) -> tuple[int, int]:
    """Return which axis is summed over and which stays, of the last two; ``inner``: unflipped."""
    places = rank + inner, rank - 3 - inner
    return places[::-1] if is_flipped else places


def _gemm(node: ir.Node, walk: Walk) -> Found:
    left, right = walk.layout(operand(node, 0)), walk.layout(operand(node, 1))
    flips = int_attribute(node, "transA", 0), int_attribute(node, "transB", 0)
    if left is None or right is None or None in flips:
        return None
    rows, inner = (left[1], left[0]) if flips[0] else (left[0], left[1])
    other, columns = (right[1], right[0]) if flips[1] else (right[0], right[1])
    where = name_of(node)
    tie_axes(inner, other, walk.ties, where)
    walk.note("contracts", node, inner, 0, 0 if flips[0] else 1)
    walk.note("contracts", node, other, 1, 1 if flips[1] else 0)
    walk.note("computes", node, columns, 1, 0 if flips[1] else 1)
    bias = walk.layout(operand(node, 2))
    if bias is None:
        return [(rows, columns)]
    return [broadcast_axes([(rows, columns), bias], walk, where)]


def _conv(node: ir.Node, walk: Walk) -> Found:
    """Conv, and FusedConv of com.microsoft, which may add a fourth operand."""
    data, weight = walk.layout(operand(node, 0)), walk.layout(operand(node, 1))
    sizes = walk.dims(operand(node, 1))
    groups, count = int_attribute(node, "group", 1), _number(sizes, 1)
    outer = _number(sizes, 0)
    if data is None or weight is None or not groups or count is None or outer is None:
        return None
    where, channels = name_of(node), weight[0]
    if groups == 1:
        tie_axes(data[1], weight[1], walk.ties, where)
        walk.note("contracts", node, data[1], 0, 1)
    elif count == 1 and outer == groups:
        channels = tie_axes(weight[0], data[1], walk.ties, where)  # one kernel per channel
        for factor in weight[0]:
            walk.count(node, "group", factor)
    else:
        parts = _grouped_axes(node, walk, data[1], groups, count)
        tie_axes(parts[1], weight[1], walk.ties, where)
        channels = tie_axes(weight[0], (*parts[0], *opaque(outer // groups)), walk.ties, where)
    if groups == 1 or count > 1:
        walk.note("contracts", node, weight[1], 1, 1)
        walk.note("computes", node, channels, 1, 0)
    found = _convolved(node, walk, data[0], channels)
    added = walk.layout(operand(node, 3))
    return [
        found if found is None or added is None else broadcast_axes([found, added], walk, where)
    ]


def _number(dims: Sequence[Integer] | None, place: int) -> int | None:
    size = dims[place] if dims is not None and len(dims) > place else None
    return size if isinstance(size, int) else None


def _grouped_axes(
    node: ir.Node, walk: Walk, channels: Axis, groups: int, size: int
) -> tuple[Axis, Axis]:
    """Return the groups of a convolution and the channels within one, tied to what enters.

    A whole group can go, with what it computes; or the same channel of every group.
    """
    outer = walk.ties.factor(groups)
    inner = (walk.ties.factor(size),) if size > 1 else ()
    tie_axes(channels, (outer, *inner), walk.ties, name_of(node))
    walk.count(node, "group", outer)
    return (outer,), inner


def _convolved(node: ir.Node, walk: Walk, batch: Axis, channels: Axis) -> Layout | None:
    """Return the layout of what a convolution computes; its bias is tied to the channels."""
    dims = walk.dims(node.outputs[0])
    bias = walk.layout(operand(node, 2))
    if bias:
        tie_axes(channels, bias[0], walk.ties, name_of(node))
    return None if dims is None else (batch, channels, *(opaque(dim) for dim in dims[2:]))


def _conv_transpose(node: ir.Node, walk: Walk) -> Found:
    data, weight = walk.layout(operand(node, 0)), walk.layout(operand(node, 1))
    sizes, groups = walk.dims(operand(node, 1)), int_attribute(node, "group", 1)
    count = _number(sizes, 0)
    if data is None or weight is None or not groups or count is None:
        return None
    where, channels = name_of(node), weight[1]
    tie_axes(data[1], weight[0], walk.ties, where)
    walk.note("contracts", node, data[1], 0, 1)
    walk.note("contracts", node, weight[0], 1, 0)
    walk.note("computes", node, weight[1], 1, 1)
    if groups > 1:
        outer, _ = _grouped_axes(node, walk, weight[0], groups, count // groups)
        channels = (*outer, *weight[1])
    return [_convolved(node, walk, data[0], channels)]


LINEAR_RULES = {
    "FusedConv": _conv,
    "FusedGemm": _gemm,
    "FusedMatMul": _fused_matmul,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
}
