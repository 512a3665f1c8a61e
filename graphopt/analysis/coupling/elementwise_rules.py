"""Which dimensions operators tie that compute each element, or each channel, by itself."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from graphopt.analysis.coupling.layouts import Axis, Layout, tie_axes
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
    return [found[0] if len(output.name or "") else None for output in node.outputs]


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
    "Abs Acos Acosh Asin Asinh Atan Atanh BiasGelu Cast CastLike Ceil Celu Clip Cos Cosh Dropout "
    "DynamicQuantizeLinear Elu Erf Exp FastGelu Floor Gelu HardSigmoid HardSwish Identity IsInf "
    "IsNaN LeakyRelu Log Mish Neg Not QuickGelu Reciprocal Relu Round Selu Sigmoid Sign Sin Sinh "
    "Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu"
)
_BROADCASTING = (
    "Add And BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual "
    "Less LessOrEqual Max Mean Min Mod Mul Or PRelu Pow Sub Sum Where Xor"
)

ELEMENTWISE_RULES = {
    **dict.fromkeys(_FIRST.split(), _first),
    **dict.fromkeys(_BROADCASTING.split(), _broadcasting),
    "BatchNormalization": _per_channel,
    "BiasGelu": _broadcasting,
    "InstanceNormalization": _per_channel,
    "LayerNormalization": _normalization,
    "LogSoftmax": _softmax,
    "RMSNormalization": _normalization,
    "SimplifiedLayerNormalization": _normalization,
    "SkipLayerNormalization": _skip_normalization,
    "SkipSimplifiedLayerNormalization": _skip_normalization,
    "Softmax": _softmax,
}
