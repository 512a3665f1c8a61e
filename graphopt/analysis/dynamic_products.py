"""Products of integers that end in floats: operators of ONNX, or one of ONNX Runtime.

``MatMulInteger`` gives sums of 32 bits; ``Cast`` and ``Mul`` by the product of both scales make
floats of them, and ``Add`` may add a bias. ``com.microsoft.MatMulIntegerToFloat`` is these at once,
and ``com.microsoft.DynamicQuantizeMatMul`` that and the ``DynamicQuantizeLinear`` before it. What
is rounded, and in which order, is the same. ONNX, "MatMulInteger" (opset 10),
"DynamicQuantizeLinear" (opset 11); ONNX Runtime, `ContribOperators.md`.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from graphopt.analysis.operands import operand
from graphopt.rewrite import ShapeTable

__all__ = ["DynamicProduct", "NoDynamicProduct", "check_columns", "find_dynamic_product"]

_MATRIX_RANK = 2
_SCALE_OUTPUT, _ZERO_POINT_OUTPUT = 1, 2  # of DynamicQuantizeLinear


class NoDynamicProduct(Exception):
    """It is no such product: a slug that passes document, and details."""

    def __init__(self, slug: str, why: str) -> None:
        super().__init__(why)
        self.slug, self.why = slug, why


@dataclass(frozen=True, kw_only=True, eq=False)
class DynamicProduct:
    """A product of integers up to the floats that it ends in.

    Attributes:
        integers: The left operand, 8 bits.
        scale: Of it, one number.
        zero_point: Of it; ``None``: 0.
        weight: The right operand, a matrix of 8 bits.
        weight_scale: Of it, one number or one for each column.
        weight_zero_point: Of it, likewise; ``None``: 0.
        bias: One number for each column, added last.
        last: The node that makes the floats.
        gone: Nodes that only lead there, the last first.
        floats: What the left operand is rounded from, where this product alone reads it.
    """

    integers: ir.Value
    scale: ir.Value
    zero_point: ir.Value | None
    weight: ir.Value
    weight_scale: ir.Value
    weight_zero_point: ir.Value | None
    bias: ir.Value | None
    last: ir.Node
    gone: tuple[ir.Node, ...]
    floats: ir.Value | None


def find_dynamic_product(node: ir.Node, shapes: ShapeTable) -> DynamicProduct:
    """Return what a MatMulInteger is part of.

    Raises:
        NoDynamicProduct: Its sums become something else, are read elsewhere too, or are scaled in
            another order, which rounds otherwise; or shapes are others, or not known.
    """
    integers, weight = operand(node, 0), operand(node, 1)
    assert integers is not None
    assert weight is not None
    cast = _next(node, "Cast")
    if cast.attributes.get_int("to", 0) != ir.DataType.FLOAT:
        raise NoDynamicProduct("other-type", "its sums become no 32-bit floats")
    scaled = _next(cast, "Mul")
    factor = _other(scaled, cast.outputs[0])
    scale, weight_scale = _in_order(_factors(factor, scaled), integers, shapes)
    zero_point, weight_zero_point = operand(node, 2), operand(node, 3)
    if not _is_one(zero_point, shapes):
        raise NoDynamicProduct("other-axis", "its left operand has several zero points")
    columns = check_columns(weight, weight_scale, weight_zero_point, shapes)
    bias, last = _bias(scaled, columns, shapes)
    gone = [last, scaled, cast, node] if last is not scaled else [scaled, cast, node]
    return DynamicProduct(
        integers=integers,
        scale=scale,
        zero_point=zero_point,
        weight=weight,
        weight_scale=weight_scale,
        weight_zero_point=weight_zero_point,
        bias=bias,
        last=last,
        gone=tuple(gone),
        floats=_own_floats(node, factor, scale, zero_point),
    )


def check_columns(
    weight: ir.Value | None,
    scale: ir.Value | None,
    zero_point: ir.Value | None,
    shapes: ShapeTable,
) -> int | None:
    """Return the columns of a right operand; ``None`` where their number is open.

    Raises:
        NoDynamicProduct: It is no matrix, or a scale or a zero point is neither one number nor one
            for each column.
    """
    dims = _dims(weight, shapes)
    if dims is None or len(dims) != _MATRIX_RANK:
        raise NoDynamicProduct("other-axis", "its right operand is no matrix")
    columns = dims[-1] if isinstance(dims[-1], int) else None
    for value, what in ((scale, "scale"), (zero_point, "zero point")):
        if not _is_one(value, shapes) and (columns is None or _dims(value, shapes) != (columns,)):
            raise NoDynamicProduct(
                "other-axis", f"the {what} of its right operand runs along another axis"
            )
    known = None if scale is None else shapes.of(scale)
    if known is None or known.dtype != ir.DataType.FLOAT:
        raise NoDynamicProduct("other-type", "its scale is of no 32-bit floats")
    return columns


def _next(node: ir.Node, op_type: str) -> ir.Node:
    """Return the only reader of a node, in the same graph."""
    output = node.outputs[0]
    uses = list(output.uses())
    if output.is_graph_output() or len(uses) != 1:
        raise NoDynamicProduct("not-scaled", f"what `{node.op_type}` returns is read elsewhere")
    reader = uses[0].node
    if (reader.domain, reader.op_type) != ("", op_type) or reader.graph is not node.graph:
        raise NoDynamicProduct("not-scaled", f"`{reader.op_type}` reads what it returns")
    return reader


def _other(node: ir.Node, value: ir.Value) -> ir.Value:
    """Return the other operand of a product or sum of two."""
    first, second = node.inputs
    found = second if first is value else first
    assert found is not None
    return found


def _factors(factor: ir.Value, scaled: ir.Node) -> tuple[ir.Value, ir.Value]:
    maker = factor.producer()
    if maker is not None and (maker.domain, maker.op_type) == ("", "Mul"):
        first, second = maker.inputs
        assert first is not None
        assert second is not None
        return first, second
    readers = [reader.op_type for reader, _ in scaled.outputs[0].uses()]
    if readers == ["Mul"]:
        raise NoDynamicProduct("other-order", "it is multiplied by one scale after the other")
    raise NoDynamicProduct("not-scaled", "its factor is not the product of two scales")


def _in_order(
    factors: tuple[ir.Value, ir.Value], integers: ir.Value, shapes: ShapeTable
) -> tuple[ir.Value, ir.Value]:
    """Return the scale of the left operand and that of the right one."""
    quantizer = _dynamic_quantizer(integers)
    own = None if quantizer is None else quantizer.outputs[_SCALE_OUTPUT]
    first, second = factors
    # Both orders are written. The quantizer of the left operand tells which scale is whose; without
    # one, only that of the right operand may be a vector.
    if second is own or (own is None and not _is_one(first, shapes)):
        first, second = second, first
    known = shapes.of(first)
    if not _is_one(first, shapes):
        raise NoDynamicProduct("other-axis", "its left operand has several scales")
    if known is None or known.dtype != ir.DataType.FLOAT:
        raise NoDynamicProduct("other-type", "its scale is of no 32-bit floats")
    return first, second


def _bias(
    scaled: ir.Node, columns: int | None, shapes: ShapeTable
) -> tuple[ir.Value | None, ir.Node]:
    """Return the bias that the only reader adds, and the last node."""
    try:
        reader = _next(scaled, "Add")
    except NoDynamicProduct:
        return None, scaled
    value = _other(reader, scaled.outputs[0])
    # Another Add, such as of a residual stream, is none that the fused operator takes.
    if columns is None or _dims(value, shapes) != (columns,):
        return None, scaled
    return value, reader


def _own_floats(
    node: ir.Node, factor: ir.Value, scale: ir.Value, zero_point: ir.Value | None
) -> ir.Value | None:
    """Return what is rounded to the left operand where nothing else reads a result of that."""
    integers = operand(node, 0)
    quantizer = None if integers is None else _dynamic_quantizer(integers)
    if quantizer is None or quantizer.graph is not node.graph:
        return None
    outputs = quantizer.outputs
    if (scale, zero_point) != (outputs[_SCALE_OUTPUT], outputs[_ZERO_POINT_OUTPUT]):
        return None
    private = (*outputs, factor)  # the factor keeps the scale alive
    if any(value.is_graph_output() or len(value.uses()) != 1 for value in private):
        return None
    return quantizer.inputs[0]


def _dynamic_quantizer(value: ir.Value) -> ir.Node | None:
    maker = value.producer()
    is_meant = maker is not None and (maker.domain, maker.op_type) == ("", "DynamicQuantizeLinear")
    return maker if is_meant and maker is not None and value is maker.outputs[0] else None


def _dims(value: ir.Value | None, shapes: ShapeTable) -> tuple[int | str | None, ...] | None:
    known = None if value is None else shapes.of(value)
    return None if known is None else known.dims


def _is_one(value: ir.Value | None, shapes: ShapeTable) -> bool:
    """Tell whether a value is one number, or left out."""
    return value is None or _dims(value, shapes) in ((), (1,))
