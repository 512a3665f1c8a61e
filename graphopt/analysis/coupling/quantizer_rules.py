"""Which dimensions the operators tie that turn floats into integers and back."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from graphopt.analysis.coupling.layouts import Layout, tie_axes
from graphopt.analysis.coupling.walk import Walk, name_of
from graphopt.analysis.operands import int_attribute, operand

__all__ = ["QUANTIZER_RULES"]

Found = Sequence[Layout | None] | None


def _linear(node: ir.Node, walk: Walk) -> Found:
    """QuantizeLinear and DequantizeLinear, opset 10 to 25: one scale, or one for each index."""
    data, axis = walk.layout(operand(node, 0)), int_attribute(node, "axis", 1)
    if data is None or axis is None:
        return None
    where = name_of(node)
    for value in node.inputs[1:]:
        scales = walk.layout(value)
        if not scales:
            continue  # one for all
        if len(scales) == len(data) > 1:
            why = "neighbours along it share a scale"
            for layout in (scales, data):
                walk.pin(layout, "blocks", why, where)
        elif data:
            tie_axes(data[axis % len(data)], scales[0], walk.ties, where)
    return [data]


def _dynamic(node: ir.Node, walk: Walk) -> Found:
    """DynamicQuantizeLinear, opset 11: its scale hangs on the largest of all elements."""
    data = walk.layout(operand(node, 0))
    for place, axis in enumerate(data or ()):
        walk.note("normalizes", node, axis, 0, place)
    return None if data is None else [data, (), ()]


QUANTIZER_RULES = {
    "DequantizeLinear": _linear,
    "DynamicQuantizeLinear": _dynamic,
    "QuantizeLinear": _linear,
}
