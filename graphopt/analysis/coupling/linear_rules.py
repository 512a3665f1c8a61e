"""Which dimensions the operators that sum products tie together."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from graphopt.analysis.coupling.elementwise_rules import broadcast_axes
from graphopt.analysis.coupling.layouts import Axis, Layout, opaque, tie_axes
from graphopt.analysis.coupling.walk import Walk, name_of
from graphopt.analysis.operands import int_attribute, operand
from graphopt.ir import constant_tensor

__all__ = ["LINEAR_RULES"]

Found = Sequence[Layout | None] | None
_MATRIX_RANK = 2


def _matmul(node: ir.Node, walk: Walk) -> Found:
    left, right = walk.layout(operand(node, 0)), walk.layout(operand(node, 1))
    if left is None or right is None or min(len(left), len(right)) < _MATRIX_RANK:
        return None
    where = name_of(node)
    tie_axes(left[-1], right[-2], walk.ties, where)
    constants = [constant_tensor(value) is not None for value in node.inputs]
    walk.note("contracts", node, left[-1], 0, len(left) - 1)
    walk.note("contracts", node, right[-2], 1, len(right) - 2)
    batches = broadcast_axes([left[:-2], right[:-2]], walk, where)
    role = "computes" if any(constants) else "carries"
    walk.note(role, node, right[-1], 1, len(right) - 1)
    if not any(constants):
        for axis in batches:
            walk.note("batches", node, axis)
    return [(*batches, left[-2], right[-1])]


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
    data, weight = walk.layout(operand(node, 0)), walk.layout(operand(node, 1))
    groups, dims = int_attribute(node, "group", 1), walk.dims(node.outputs[0])
    inner, outer = walk.dims(operand(node, 1)), walk.dims(operand(node, 0))
    if data is None or weight is None or dims is None or inner is None or outer is None:
        return None
    where, channels = name_of(node), weight[0]
    if groups == 1:
        tie_axes(data[1], weight[1], walk.ties, where)
        walk.note("contracts", node, data[1], 0, 1)
        walk.note("contracts", node, weight[1], 1, 1)
        walk.note("computes", node, channels, 1, 0)
    elif inner[1] == 1 and inner[0] == groups == outer[1]:
        channels = tie_axes(weight[0], data[1], walk.ties, where)  # one kernel per channel
    else:
        why = "channels are convolved in groups"
        for axis in (data[1], weight[0], weight[1]):
            walk.pin_axis(axis, "grouped", why, where)
        walk.note("computes", node, channels, 1, 0)
    return [_convolved(node, walk, data[0], channels)]


def _convolved(node: ir.Node, walk: Walk, batch: Axis, channels: Axis) -> Layout | None:
    """Return the layout of what a convolution computes; its bias is tied to the channels."""
    dims = walk.dims(node.outputs[0])
    bias = walk.layout(operand(node, 2))
    if bias:
        tie_axes(channels, bias[0], walk.ties, name_of(node))
    return None if dims is None else (batch, channels, *(opaque(dim) for dim in dims[2:]))


def _conv_transpose(node: ir.Node, walk: Walk) -> Found:
    data, weight = walk.layout(operand(node, 0)), walk.layout(operand(node, 1))
    if data is None or weight is None:
        return None
    where = name_of(node)
    if int_attribute(node, "group", 1) != 1:
        why = "channels are convolved in groups"
        for axis in (data[1], weight[0], weight[1]):
            walk.pin_axis(axis, "grouped", why, where)
        dims = walk.dims(node.outputs[0])
        return [None if dims is None else (data[0], *(opaque(dim) for dim in dims[1:]))]
    tie_axes(data[1], weight[0], walk.ties, where)
    walk.note("contracts", node, data[1], 0, 1)
    walk.note("contracts", node, weight[0], 1, 0)
    walk.note("computes", node, weight[1], 1, 1)
    return [_convolved(node, walk, data[0], weight[1])]


LINEAR_RULES = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
}
