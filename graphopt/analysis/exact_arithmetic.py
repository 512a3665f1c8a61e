"""Arithmetic on constants that has one result, bit for bit, whoever computes it.

The standard for floating-point numbers leaves no freedom in a single sum, product or quotient, nor
in the root of one number; of long arrays some libraries approximate roots. What is no finite number
is left to the runtime, as the sign and the payload of NaN are not settled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.analysis.operands import cast_target, int_attribute

__all__ = ["computed"]

Array = np.ndarray[Any, Any]


def computed(node: ir.Node, inputs: Sequence[Array]) -> Array | None:
    """Return the only output of ``node`` where it has no other possible value.

    Args:
        node: A node of the default domain.
        inputs: The values of its inputs, none left out.
    """
    if node.domain or len(node.outputs) != 1:
        return None
    if any(given.dtype.name not in _TYPES for given in inputs):
        return None
    with np.errstate(all="ignore"):  # whole numbers overflow in one way; the rest is looked at
        result = _result(node, inputs)
    if result is None or (result.dtype.kind == "f" and not np.isfinite(result).all()):
        return None
    return np.asarray(result)


_TYPES = frozenset({"bool", "float32", "float64", "int32", "int64"})


def _result(node: ir.Node, inputs: Sequence[Array]) -> Array | None:
    if node.op_type == "Cast":
        return _cast(inputs[0], cast_target(node))
    is_integer_remainder = node.op_type == "Mod" and int_attribute(node, "fmod", 0) == 0
    if node.attributes and not is_integer_remainder:
        return None  # opsets before 7 say by attributes how operands are aligned
    if node.op_type in _PAIRS:
        return _pair(node.op_type, *inputs)
    data = inputs[0] if inputs else np.empty(0)
    if node.op_type == "Sqrt" and data.size == 1 and data.dtype.kind == "f":
        return np.sqrt(data)
    return np.logical_not(data) if node.op_type == "Not" and data.dtype == np.bool_ else None


def _pair(operator: str, first: Array, second: Array) -> Array | None:
    kind = first.dtype.kind
    # NumPy adds booleans as `or`, and divides integers into floats.
    is_unusual = (kind == "b" and operator != "Equal") or (kind == "i" and operator == "Div")
    is_remainder = operator == "Mod" and (kind != "i" or not (second > 0).all())
    if first.dtype != second.dtype or is_unusual or is_remainder:
        return None
    try:
        return _PAIRS[operator](first, second)
    except ValueError:  # shapes that do not fit each other
        return None


def _cast(data: Array, target: ir.DataType | None) -> Array | None:
    """Convert numbers where every one of them exists in the other type."""
    if target is None or target.numpy().name not in _TYPES:
        return None
    found = data.astype(target.numpy())
    is_zero_signed = data.dtype.kind == "f" and bool(np.signbit(data[data == 0]).any())
    if found.dtype.kind != "f" and is_zero_signed:
        return None
    return found if np.array_equal(found.astype(data.dtype), data) else None


_PAIRS: dict[str, Callable[[Array, Array], Array]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Mod": np.mod,
    "Equal": np.equal,
}
