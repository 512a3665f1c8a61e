"""Which nodes run to their end on any input that can reach them."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.analysis.operands import cast_target, int_attribute, operand, transpose_permutation
from graphopt.analysis.operators import Operators
from graphopt.rewrite import ShapeTable, ValueShape

__all__ = ["CertainSuccess"]

_UNARY = frozenset(
    """
    Abs Acos Acosh Asin Asinh Atan Atanh Ceil Celu Constant Cos Cosh Elu Erf Exp Floor Gelu
    HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Log Mish Neg Not Reciprocal Relu Round Selu
    Shape Sigmoid Sign Sin Sinh Size Softplus Softsign Sqrt Tan Tanh ThresholdedRelu
    """.split()  # noqa: SIM905 - a block of names reads better
)
_BROADCASTING = frozenset(
    """
    Add And Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mul Or Sub Sum Where Xor
    """.split()  # noqa: SIM905
)
_BROADCASTING_SINCE = 8
"""The opset since which all of them broadcast, each in the same way."""

_Dims = tuple[int | str | None, ...]


class CertainSuccess:
    """Knows operators that stop a run on no input, given what is known of shapes.

    What may fail is everything else: indices out of range, shapes that do not fit.

    Args:
        operators: The operators of the model.
        shapes: What is known of its values.
    """

    def __init__(self, operators: Operators, shapes: ShapeTable) -> None:
        self._operators = operators
        self._shapes = shapes

    def of(self, node: ir.Node) -> bool:
        """Tell whether ``node`` cannot fail."""
        version = self._operators.version(node)
        if node.domain or version is None:
            return False
        if node.op_type in _UNARY:
            return True
        if node.op_type in _BROADCASTING or self._is_float_division(node):
            return version >= _BROADCASTING_SINCE and self._broadcasts(node)
        if node.op_type == "MatMul":
            return self._multiplies(node)
        return self._is_within_rank(node)

    def _is_float_division(self, node: ir.Node) -> bool:
        known = self._shapes.of(operand(node, 1))
        is_float = known is not None and known.dtype is not None and known.dtype.is_floating_point()
        return node.op_type in ("Div", "Pow") and is_float

    def _broadcasts(self, node: ir.Node) -> bool:
        dims = [self._dims(value) for value in node.inputs]
        first, *others = dims
        return all(
            first is not None and other is not None and _fit(first, other) for other in others
        ) and (len(dims) <= 2 or len(set(dims)) <= 2)  # noqa: PLR2004 - three may fit in pairs only

    def _multiplies(self, node: ir.Node) -> bool:
        left, right = (self._dims(value) for value in node.inputs)
        if left is None or right is None or min(len(left), len(right)) < 2:  # noqa: PLR2004
            return False
        return left[-1] is not None and left[-1] == right[-2] and _fit(left[:-2], right[:-2])

    def _is_within_rank(self, node: ir.Node) -> bool:
        dims = self._dims(operand(node, 0))
        if node.op_type == "Cast":
            known = self._shapes.of(operand(node, 0))
            types = (cast_target(node), None if known is None else known.dtype)
            return all(kind not in (None, ir.DataType.STRING) for kind in types)
        if dims is None:
            return False
        if node.op_type in ("Softmax", "LogSoftmax"):
            axis = int_attribute(node, "axis", 0)
            return axis is not None and -len(dims) <= axis < len(dims)
        if node.op_type == "Transpose":
            order = transpose_permutation(node, len(dims))
            return order is not None and sorted(order) == list(range(len(dims)))
        return False

    def _dims(self, value: ir.Value | None) -> _Dims | None:
        known: ValueShape | None = self._shapes.of(value)
        return None if known is None else known.dims


def _fit(one: _Dims, other: _Dims) -> bool:
    """Tell whether two shapes broadcast, whatever the sizes that are not known."""
    pairs = zip(reversed(one), reversed(other), strict=False)
    return all(1 in pair or (pair[0] is not None and pair[0] == pair[1]) for pair in pairs)
