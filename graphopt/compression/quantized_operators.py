"""Operators of integers, and the operators of floats that they stand for.

``QLinearConv`` and its kind compute ``y = Q(f(DQ(x), DQ(w)))`` at once: sums of integers, one
factor, one rounding. Written out, with `QuantizeLinear` and `DequantizeLinear` around the operator
of floats, the same numbers are rounded on the way to the same integers, so that a value on the very
border between two integers may come to lie on its other side. ONNX, "QuantizeLinear" (opset 10, 13,
19, 21), "QLinearConv" and "QLinearMatMul" (opset 10); ONNX Runtime, `ContribOperators.md`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis import is_annotated
from graphopt.ir import constant_array, constant_tensor
from graphopt.rewrite import Change, ShapeTable

__all__ = [
    "INTEGER_FORMS",
    "FormRefused",
    "IntegerForm",
    "Quantized",
    "bias_scale",
    "check_place",
    "constant_like",
    "form_of",
    "read_quantized",
]

_MICROSOFT = "com.microsoft"
_INTEGERS = (ir.DataType.UINT8, ir.DataType.INT8)


class FormRefused(Exception):
    """A layer has no other form: a documented slug, and details."""

    def __init__(self, slug: str, why: str) -> None:
        super().__init__(why)
        self.slug, self.why = slug, why


def check_place(node: ir.Node, inside: Collection[ir.Node]) -> None:
    """Refuse an operator that stands where its form cannot be changed.

    Args:
        node: The operator.
        inside: Nodes of functions.

    Raises:
        FormRefused: It is one of those, or annotations name what it or its readers touch.
    """
    if node in inside:
        raise FormRefused("inside-function", "its operators are those of a function")
    readers = [reader for output in node.outputs for reader, _ in output.uses()]
    touched = [*node.inputs, *node.outputs, *(value for one in readers for value in one.outputs)]
    if any(value is not None and is_annotated(value) for value in touched):
        raise FormRefused("annotated", "annotations would name what is not there")


@dataclass(frozen=True)
class IntegerForm:
    """Which inputs of an operator of integers mean what.

    Attributes:
        float_type: The operator of floats that it stands for.
        operands: Integers, scale and zero point of each operand.
        result: Scale and zero point of the result; left out, it is in floats.
        bias: 32-bit integers, whose scale is the product of those of both operands.
    """

    float_type: str
    operands: tuple[tuple[int, int, int], ...]
    result: tuple[int, int]
    bias: int | None = None


_ONE = ((0, 1, 2),)
_TWO = ((0, 1, 2), (3, 4, 5))
INTEGER_FORMS: Mapping[tuple[str, str], IntegerForm] = {
    ("", "QLinearConv"): IntegerForm("Conv", _TWO, (6, 7), bias=8),
    ("", "QLinearMatMul"): IntegerForm("MatMul", _TWO, (6, 7)),
    (_MICROSOFT, "QGemm"): IntegerForm("Gemm", _TWO, (7, 8), bias=6),
    (_MICROSOFT, "QLinearAdd"): IntegerForm("Add", _TWO, (6, 7)),
    (_MICROSOFT, "QLinearMul"): IntegerForm("Mul", _TWO, (6, 7)),
    (_MICROSOFT, "QLinearAveragePool"): IntegerForm("AveragePool", _ONE, (3, 4)),
    (_MICROSOFT, "QLinearGlobalAveragePool"): IntegerForm("GlobalAveragePool", _ONE, (3, 4)),
    (_MICROSOFT, "QLinearLeakyRelu"): IntegerForm("LeakyRelu", _ONE, (3, 4)),
    (_MICROSOFT, "QLinearSigmoid"): IntegerForm("Sigmoid", _ONE, (3, 4)),
}


def form_of(node: ir.Node) -> IntegerForm | None:
    """Return what the inputs of an operator of integers mean; ``None`` where it is not known."""
    if (node.domain, node.op_type) == (_MICROSOFT, "QLinearConcat"):
        triples = tuple((first, first + 1, first + 2) for first in range(2, len(node.inputs), 3))
        return IntegerForm("Concat", triples, (0, 1))
    return INTEGER_FORMS.get((node.domain, node.op_type))


@dataclass(frozen=True, eq=False)
class Quantized:
    """Integers with what they mean: ``(integers - zero_point) * scale``.

    Attributes:
        integers: 8-bit; ``None`` where they are yet to be made.
        scale: float32, ``()`` or ``(channels,)``.
        zero_point: 8-bit, of the shape of `scale`.
        parameters: The values that held scale and zero point.
    """

    integers: ir.Value | None
    scale: npt.NDArray[np.float32]
    zero_point: npt.NDArray[Any]
    parameters: tuple[ir.Value | None, ir.Value | None]

    @property
    def is_per_tensor(self) -> bool:
        """Whether all elements have one scale and zero point."""
        return not self.scale.ndim

    def stored(self, change: Change) -> list[ir.Value]:
        """Return scale and zero point as constants of exactly these shapes."""
        arrays = (self.scale, self.zero_point)
        pairs = zip(self.parameters, arrays, ("scale", "zero_point"), strict=True)
        name = self.integers.name if self.integers is not None else "result"
        return [
            constant_like(change, value, array, f"{name}_{kind}") for value, array, kind in pairs
        ]


def constant_like(
    change: Change, value: ir.Value | None, array: npt.NDArray[Any], name: str
) -> ir.Value:
    """Return ``value`` where it holds ``array`` in that very shape, else a new constant."""
    held = None if value is None else constant_array(value)
    if value is not None and held is not None and held.shape == array.shape:
        return value
    return change.initializer(array, name=name)


def read_quantized(
    integers: ir.Value | None,
    scale: ir.Value | None,
    zero_point: ir.Value | None,
    shapes: ShapeTable,
    *,
    default: ir.DataType | None = None,
) -> Quantized:
    """Return integers with their constant scale and zero point.

    Args:
        integers: ``None`` for those that are yet to be made.
        scale: Its scale, of at most one axis.
        zero_point: Its zero point; where it is left out, 0 of the type of the integers.
        shapes: Types of values.
        default: That type where `integers` is ``None``.

    Raises:
        FormRefused: One is no constant, not of 8 bits, or not of 32-bit floats.
    """
    if scale is None or (zero_point is not None and constant_tensor(zero_point) is None):
        raise FormRefused("computed-scale", "its zero point is no constant")
    factor = constant_array(scale)
    if factor is None:
        raise FormRefused("computed-scale", f"its scale `{scale.name}` is no constant")
    if factor.dtype != np.float32:
        raise FormRefused("other-type", f"its scale is of {factor.dtype}")
    kind = default if integers is None else _type_of(integers, zero_point, shapes)
    if kind not in _INTEGERS:
        raise FormRefused("other-type", f"its integers are of {kind}, not of 8 bits")
    offset = np.zeros((), kind.numpy()) if zero_point is None else constant_array(zero_point)
    assert offset is not None
    if offset.dtype != kind.numpy():
        raise FormRefused("other-type", f"its zero point is of {offset.dtype}")
    shape = np.broadcast_shapes(_plain(factor).shape, _plain(offset).shape)
    if len(shape) > 1:
        raise FormRefused("other-axis", f"its scale has the shape {factor.shape}")
    return Quantized(
        integers=integers,
        scale=np.array(np.broadcast_to(_plain(factor), shape)),
        zero_point=np.array(np.broadcast_to(_plain(offset), shape)),
        parameters=(scale, zero_point),
    )


def _plain(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return an array of one element as a scalar."""
    return array.reshape(()) if array.size == 1 else array


def _type_of(
    integers: ir.Value, zero_point: ir.Value | None, shapes: ShapeTable
) -> ir.DataType | None:
    tensor = constant_tensor(integers if zero_point is None else zero_point)
    if tensor is not None:
        return tensor.dtype
    known = shapes.of(integers)
    return integers.dtype if known is None else known.dtype


def bias_scale(first: Quantized, second: Quantized) -> npt.NDArray[np.float32]:
    """Return what a bias of 32-bit integers is multiplied by: the product of both scales."""
    product: npt.NDArray[np.float32] = np.asarray(first.scale * second.scale, np.float32)
    return product
