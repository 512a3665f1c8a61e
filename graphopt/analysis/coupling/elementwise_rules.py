"""Which dimensions operators tie that compute each element, or each channel, by itself."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from graphopt.analysis.coupling.layouts import Axis, Layout, opaque, tie_axes
from graphopt.analysis.coupling.walk import Walk, name_of
from graphopt.analysis.operands import int_attribute, operand

__all__ = ["ELEMENTWISE_RULES", "broadcast_axes"]

Found = Sequence[Layout | None] | None


def broadcast_axes(layouts: Sequence[Layout], walk: Walk, where: str) -> Layout:
    """Tie the axes that meet when shapes are broadcast; return the axes of the result.

    An axis of length 1 meets nothing. One of which only a run tells the length is taken to be as
    long as what it meets.
    """
    rank = max((len(layout) for layout in layouts), default=0)
    found: list[Axis] = []
    for place in range(-rank, 0):
        axes = [layout[place] for layout in layouts if len(layout) >= -place]
        axis: Axis = ()
        for other in axes:
            axis = tie_axes(axis, other, walk.ties, where)
        found.append(axis)
    return tuple(found)


def _broadcasting(node: ir.Node, walk: Walk) -> Found:
    given = [value for value in node.inputs if value is not None]
    layouts = [layout for layout in map(walk.layout, given) if layout is not None]
    if len(layouts) < len(given):
        return None
    return [broadcast_axes(layouts, walk, name_of(node))] * len(node.outputs)


def _first(node: ir.Node, walk: Walk) -> Found:
    """The first input gives the shape; others are scalars or change nothing about it."""
    return [walk.layout(operand(node, 0))] * len(node.outputs)


def _per_channel(node: ir.Node, walk: Walk) -> Found:
    """Every other input holds one number for each index of axis 1."""
    data = walk.layout(operand(node, 0))
    if data is None or len(data) < 2:  # noqa: PLR2004 - a batch and its channels
        return None
    for value in node.inputs[1:]:
        layout = walk.layout(value)
        if layout:
            tie_axes(data[1], layout[0], walk.ties, name_of(node))
    return [data, *[None] * (len(node.outputs) - 1)]


def _normalization(node: ir.Node, walk: Walk) -> Found:
    """Scale and bias lie along the last axes, over which a mean is taken."""
    data, axis = walk.layout(operand(node, 0)), int_attribute(node, "axis", -1)
    if data is None or axis is None:
        return None
    axis %= len(data)
    where = name_of(node)
    for value in node.inputs[1:]:
        layout = walk.layout(value)
        if layout:
            broadcast_axes([data, layout], walk, where)
    for place in range(axis, len(data)):
        walk.note("normalizes", node, data[place], 0, place)
    return [data, *[None] * (len(node.outputs) - 1)]


def _skip_normalization(node: ir.Node, walk: Walk) -> Found:
    found = _broadcasting(node, walk)
    if found is None or found[0] is None:
        return None
    walk.note("normalizes", node, found[0][-1], 0, len(found[0]) - 1)
    return [found[0], None, None, found[0]]  # between them, statistics with an axis of length 1


def _embedding(node: ir.Node, walk: Walk) -> Found:
    """com.microsoft EmbedLayerNormalization: rows of tables are added up and normalized."""
    tokens = walk.layout(operand(node, 0))
    if tokens is None:
        return None
    width: Axis = ()
    for value in node.inputs[2:7]:
        layout = walk.layout(value)
        if layout:
            width = tie_axes(width, layout[-1], walk.ties, name_of(node))
    for value in node.inputs[2:5]:
        table = walk.layout(value)
        if table:
            walk.pin_axis(
                table[0], "looked-up", "its indices are looked up by number", name_of(node)
            )
    walk.note("normalizes", node, width, 2, 1)
    whole = (*tokens, width)
    return [whole, None, whole]


def _instance_normalization(node: ir.Node, walk: Walk) -> Found:
    """A mean is taken over each channel's own positions."""
    found = _per_channel(node, walk)
    data = walk.layout(operand(node, 0))
    for place, axis in enumerate(data or ()):
        if place > 1:
            walk.note("normalizes", node, axis, 0, place)
    return found


def _group_normalization(node: ir.Node, walk: Walk) -> Found:
    """GroupNormalization, opset 18 (a scale for each group) and 21 (one for each channel).

    A mean is taken over the channels of a group: whole groups can go.
    """
    data, dims = walk.layout(operand(node, 0)), walk.dims(operand(node, 0))
    count = int_attribute(node, "num_groups", 0)
    if node.domain or data is None or dims is None or not count or not isinstance(dims[1], int):
        return None
    where = name_of(node)
    groups, inner = walk.ties.factor(count), opaque(dims[1] // count)
    channels = tie_axes(data[1], (groups, *inner), walk.ties, where)
    walk.count(node, "num_groups", groups)
    for value in node.inputs[1:]:
        layout, sizes = walk.layout(value), walk.dims(value)
        if layout and sizes:
            axis = (groups,) if sizes[0] == count else channels
            tie_axes(layout[0], axis, walk.ties, where)
    for place, axis in enumerate(data):
        if place > 1:
            walk.note("normalizes", node, axis, 0, place)
    return [(data[0], channels, *data[2:])]


def _softmax(node: ir.Node, walk: Walk) -> Found:
    data, axis = walk.layout(operand(node, 0)), int_attribute(node, "axis", -1)
    if data is None or axis is None:
        return None
    why = "what a removed index leaves is shared among the others"
    places = [axis % len(data)] if walk.shapes.version >= 13 else range(len(data))  # noqa: PLR2004
    for place in places:
        walk.pin_axis(data[place], "softmax", why, name_of(node))
    return [data]


_FIRST = (
    "Abs Acos Acosh Asin Asinh Atan Atanh Cast CastLike Ceil Celu Clip Cos Cosh Dropout "
    "Elu Erf Exp Floor Gelu HardSigmoid HardSwish Identity IsInf "
    "IsNaN LeakyRelu Log Mish Neg Not QuickGelu Reciprocal Relu Round Selu Sigmoid Sign Sin Sinh "
    "Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu"
)
_BROADCASTING = (
    "Add And BiasGelu BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Div Equal FastGelu "
    "Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod Mul Or PRelu Pow Sub Sum Where Xor"
)

ELEMENTWISE_RULES = {
    **dict.fromkeys(_FIRST.split(), _first),
    **dict.fromkeys(_BROADCASTING.split(), _broadcasting),
    "BatchNormalization": _per_channel,
    "EmbedLayerNormalization": _embedding,
    "GroupNormalization": _group_normalization,
    "InstanceNormalization": _instance_normalization,
    "LayerNormalization": _normalization,
    "LogSoftmax": _softmax,
    "RMSNormalization": _normalization,
    "SimplifiedLayerNormalization": _normalization,
    "SkipLayerNormalization": _skip_normalization,
    "SkipSimplifiedLayerNormalization": _skip_normalization,
    "Softmax": _softmax,
}
