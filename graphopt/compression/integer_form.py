"""Layers of floats between roundings, as one operator of integers each."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.analysis.operands import operand
from graphopt.analysis.operators import Operators
from graphopt.analysis.orphans import orphans
from graphopt.compression.quantized_operators import (
    FormRefused,
    Quantized,
    bias_scale,
    read_quantized,
)
from graphopt.ir import constant_array, constant_tensor
from graphopt.rewrite import Editor, ShapeTable

__all__ = ["to_integer_operator"]

_OPERATORS = {"Conv": "QLinearConv", "MatMul": "QLinearMatMul"}
_MATRIX_RANK = 2


def to_integer_operator(
    node: ir.Node, edit: Editor, shapes: ShapeTable, operators: Operators
) -> None:
    """Replace a layer between DequantizeLinear and QuantizeLinear by one operator.

    Args:
        node: The layer; its inputs 0 and 1 come from DequantizeLinear.
        edit: Where it is replaced.
        shapes: Types of values.
        operators: Of the model.

    Raises:
        FormRefused: It has no such form.
    """
    if node.op_type not in _OPERATORS:
        raise FormRefused("no-other-form", f"`{node.op_type}` has no operator of integers in ONNX")
    rounding = _only_rounding(node)
    first, second = (_dequantized(operand(node, place), shapes) for place in (0, 1))
    if not first[0].is_per_tensor:
        raise FormRefused("other-axis", "its activation has several scales")
    _check_channels(node, *second)
    result = _rounded(rounding, shapes)
    _check_types(first[0], second[0], result)
    bias = _bias(node, first[0], second[0])
    integers = [first[0].integers, second[0].integers, *([] if bias is None else [bias])]
    parameters = [*first[0].parameters, *second[0].parameters, *result.parameters]
    kept = [value for value in (*integers, *parameters) if value is not None]
    needless = orphans([rounding, node], kept, operators)
    with edit.rewrite(node, because=f"`{_OPERATORS[node.op_type]}` computes it at once") as change:
        inputs: list[ir.Value | None] = []
        for held in (first[0], second[0]):
            inputs += [held.integers, *held.stored(change)]
        inputs += [*result.stored(change), *([] if bias is None else [bias])]
        value = change.node(
            _OPERATORS[node.op_type],
            inputs,
            attributes=dict(node.attributes),
            like=rounding.outputs[0],
        )
        change.replace(rounding.outputs[0], value)
        for gone in needless:
            change.remove(gone)


def _only_rounding(node: ir.Node) -> ir.Node:
    """Return the QuantizeLinear that alone reads what a layer returns."""
    output = node.outputs[0]
    uses = list(output.uses())
    if output.is_graph_output() or len(uses) != 1:
        raise FormRefused("float-output", "not only a QuantizeLinear reads it")
    reader, place = uses[0]
    if (reader.domain, reader.op_type, place) != ("", "QuantizeLinear", 0):
        raise FormRefused("float-output", f"`{reader.op_type}` reads it")
    if reader.graph is not node.graph:
        raise FormRefused("float-output", "what rounds it is in a subgraph")
    return reader


def _dequantized(value: ir.Value | None, shapes: ShapeTable) -> tuple[Quantized, ir.Node]:
    maker = value.producer() if value is not None else None
    assert maker is not None
    if maker.attributes.get_int("block_size", 0):
        raise FormRefused("blocks", "its weight has a scale for each block")
    held = read_quantized(operand(maker, 0), operand(maker, 1), operand(maker, 2), shapes)
    return held, maker


def _rounded(node: ir.Node, shapes: ShapeTable) -> Quantized:
    if node.attributes.get_int("block_size", 0):
        raise FormRefused("blocks", "its result has a scale for each block")
    asked = node.attributes.get_int("output_dtype", 0)
    kind = ir.DataType(asked) if asked else ir.DataType.UINT8
    zero_point = operand(node, 2)
    tensor = None if zero_point is None else constant_tensor(zero_point)
    if tensor is not None:
        kind = tensor.dtype
    held = read_quantized(None, operand(node, 1), zero_point, shapes, default=kind)
    if not held.is_per_tensor:
        raise FormRefused("other-axis", "its result has several scales")
    return held


def _check_channels(node: ir.Node, held: Quantized, maker: ir.Node) -> None:
    """Refuse scales along another axis than that of the output channels."""
    if held.is_per_tensor:
        return
    assert held.integers is not None
    shape = held.integers.shape
    if shape is None:
        raise FormRefused("other-axis", "the rank of its weight is not known")
    rank = len(shape)
    axis = maker.attributes.get_int("axis", 1) % rank
    wanted = 0 if node.op_type == "Conv" else rank - 1
    if axis != wanted or (node.op_type == "MatMul" and rank != _MATRIX_RANK):
        raise FormRefused("other-axis", f"its weight has scales along axis {axis} of {rank}")
    if np.unique(held.zero_point).size > 1:
        raise FormRefused("zero-points-differ", "no kernel takes them")


def _check_types(first: Quantized, second: Quantized, result: Quantized) -> None:
    """Refuse types that ONNX Runtime's kernels do not take together."""
    kinds = [held.zero_point.dtype for held in (first, second, result)]
    if kinds[0] != kinds[2] or (kinds[0] == np.int8 and kinds[1] != np.int8):
        named = ", ".join(str(kind) for kind in kinds)
        raise FormRefused("other-type", f"activation, weight and result are of {named}")


def _bias(node: ir.Node, first: Quantized, second: Quantized) -> ir.Value | None:
    """Return the bias of a convolution in 32-bit integers; ``None`` where there is none."""
    value = operand(node, 2)
    if value is None:
        return None
    maker = value.producer()
    if maker is None or maker.op_type != "DequantizeLinear":
        raise FormRefused("float-bias", "its bias is held in floats")
    integers, scale, zero_point = (operand(maker, place) for place in range(3))
    factor: Any = None if scale is None else constant_array(scale)
    wanted = bias_scale(first, second)
    if factor is None or factor.size not in (1, wanted.size) or not np.all(factor == wanted):
        raise FormRefused("bias-scale", "no integers of that scale are added to its sums")
    offset = None if zero_point is None else constant_array(zero_point)
    if zero_point is not None and (offset is None or offset.any()):
        raise FormRefused("bias-scale", "its bias has a zero point")
    if integers is None or integers.dtype not in (None, ir.DataType.INT32):
        raise FormRefused("float-bias", "its bias is not of 32-bit integers")
    return integers
