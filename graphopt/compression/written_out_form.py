"""Operators of integers, written out as operators of floats between their roundings."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from graphopt.analysis.operands import operand
from graphopt.compression.quantized_operators import (
    FormRefused,
    IntegerForm,
    Quantized,
    bias_scale,
    form_of,
    read_quantized,
)
from graphopt.ir import constant_tensor, opset_version
from graphopt.rewrite import Change, Editor, ShapeTable

__all__ = ["to_float_operator"]

_CHANNELS_OPSET = 13
_OPTIONAL_BIAS_OPSET = 11
_WITH_CHANNELS = frozenset({"Conv", "Gemm", "MatMul"})


def to_float_operator(node: ir.Node, edit: Editor, shapes: ShapeTable) -> None:
    """Replace an operator of integers by one of floats between its roundings.

    Raises:
        FormRefused: It has no such form.
    """
    form = form_of(node)
    if form is None:
        raise FormRefused(
            "no-other-form", f"`{node.op_type}` is not known as an operator of floats"
        )
    read = [
        read_quantized(operand(node, first), operand(node, second), operand(node, third), shapes)
        for first, second, third in form.operands
    ]
    result = _result(node, form, shapes)
    _check(node, form, read, result, opset_version(edit.model))
    with edit.rewrite(node, because=f"`{form.float_type}` between its roundings") as change:
        floats = [
            _dequantized(change, held, _axis(node, form, place)) for place, held in enumerate(read)
        ]
        bias = None if form.bias is None else operand(node, form.bias)
        if bias is not None:
            floats.append(_dequantized_bias(change, bias, read[0], read[1]))
        is_float = result is None
        value = change.node(
            form.float_type,
            floats,
            attributes=_attributes(node),
            like=node.outputs[0] if is_float else None,
        )
        if result is not None:
            value = change.node(
                "QuantizeLinear", [value, *result.stored(change)], like=node.outputs[0]
            )
        change.replace(node.outputs[0], value)
        change.remove(node)


def _result(node: ir.Node, form: IntegerForm, shapes: ShapeTable) -> Quantized | None:
    """Return how the result is rounded; ``None`` where it is not."""
    scale, zero_point = (operand(node, index) for index in form.result)
    if scale is None and node.op_type == "QGemm":
        return None
    known = shapes.of(node.outputs[0])
    kind = node.outputs[0].dtype if known is None else known.dtype
    found = read_quantized(None, scale, zero_point, shapes, default=_type(zero_point) or kind)
    if not found.is_per_tensor:
        raise FormRefused("other-axis", "its result has several scales")
    return found


def _type(value: ir.Value | None) -> ir.DataType | None:
    tensor = None if value is None else constant_tensor(value)
    return tensor.dtype if tensor is not None else None


def _check(
    node: ir.Node,
    form: IntegerForm,
    read: list[Quantized],
    result: Quantized | None,
    opset: int,
) -> None:
    """Refuse what the operator of floats cannot say."""
    with_channels = [place for place, held in enumerate(read) if not held.is_per_tensor]
    if with_channels and (form.float_type not in _WITH_CHANNELS or with_channels != [1]):
        raise FormRefused("other-axis", f"operand {with_channels[0]} has several scales")
    if with_channels and opset < _CHANNELS_OPSET:
        raise FormRefused("old-opset", f"scales for each channel need opset {_CHANNELS_OPSET}")
    if node.attributes.get_int("channels_last", 0):
        raise FormRefused("no-other-form", "its channels come last")
    if form.float_type == "AveragePool" and _divides_wrongly(node):
        raise FormRefused("wrong-kernel", "the runtime divides sums at the border by too much")
    if form.float_type == "Gemm":
        if node.attributes.get_float("alpha", 1.0) != 1.0:
            raise FormRefused("no-other-form", "its `alpha` is part of the scale of the bias")
        if operand(node, 6) is None and opset < _OPTIONAL_BIAS_OPSET:
            raise FormRefused("old-opset", "a Gemm without a bias needs opset 11")
    if result is None and form.float_type != "Gemm":
        raise FormRefused("computed-scale", "the scale of its result is left out")


def _divides_wrongly(node: ir.Node) -> bool:
    """Tell whether windows may reach beyond the padding, which then counts in integers alone.

    In floats the runtime leaves it out, as the operator has it: the results would be others.
    """
    names = ("ceil_mode", "count_include_pad")
    return all(node.attributes.get_int(name, 0) for name in names)


def _axis(node: ir.Node, form: IntegerForm, place: int) -> int:
    """Return the axis of output channels of an operand."""
    if form.float_type == "Conv":
        return 0
    is_gemm = form.float_type == "Gemm" and place == 1
    return 0 if is_gemm and (node.attributes.get_int("transB") or 0) else -1


def _attributes(node: ir.Node) -> dict[str, Any]:
    return {
        name: attribute for name, attribute in node.attributes.items() if name != "channels_last"
    }


def _dequantized(change: Change, held: Quantized, axis: int) -> ir.Value:
    attributes = {} if held.is_per_tensor else {"axis": axis}
    return change.node(
        "DequantizeLinear", [held.integers, *held.stored(change)], attributes=attributes
    )


def _dequantized_bias(
    change: Change, bias: ir.Value, first: Quantized, second: Quantized
) -> ir.Value:
    """Return a bias of 32-bit integers in floats; it has no zero point."""
    scale = bias_scale(first, second)
    name = f"{bias.name}_scale"
    attributes = {"axis": -1} if scale.ndim else {}
    value = change.initializer(scale, name=name)
    return change.node("DequantizeLinear", [bias, value], attributes=attributes)
