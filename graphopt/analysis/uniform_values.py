"""Tensors that hold one number everywhere, however large they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis.operands import cast_target, operand
from graphopt.ir import constant_array

__all__ = ["Scalar", "UniformValues"]

_MAX_DEPTH = 16
_SHAPE_ONLY = frozenset(
    {"Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Tile"}
    | {"Transpose", "Unsqueeze"}
)
"""Operators whose every output element is one of their first input."""

Scalar = npt.NDArray[Any]


class UniformValues:
    """Tells of values whether all their elements are one number, whatever the sizes."""

    def __init__(self) -> None:
        self._known: dict[ir.Value, Scalar | None] = {}

    def of(self, value: ir.Value | None, depth: int = 0) -> Scalar | None:
        """Return the element, without dimensions, or ``None`` where they may differ."""
        if value is None or depth > _MAX_DEPTH:
            return None
        if value not in self._known:
            self._known[value] = self._found(value, depth)
        return self._known[value]

    def _found(self, value: ir.Value, depth: int) -> Scalar | None:
        constant = constant_array(value, 1)
        if constant is not None:
            return constant.reshape(()) if _is_plain(constant) and constant.size else None
        node = value.producer()
        if node is None or node.domain or len(node.outputs) != 1:
            return None
        if node.op_type == "ConstantOfShape":
            return _fill_value(node)
        if node.op_type not in _SHAPE_ONLY and node.op_type not in ("Cast", "Not"):
            return None
        element = self.of(operand(node, 0), depth + 1)
        if element is None or node.op_type in _SHAPE_ONLY:
            return element
        return np.logical_not(element) if node.op_type == "Not" else _converted(node, element)


def _is_plain(array: npt.NDArray[Any]) -> bool:
    """Tell whether numpy itself, and not an extension of it, knows the type."""
    return array.dtype.kind in "fiub" and array.dtype.isbuiltin != _REGISTERED


def _fill_value(node: ir.Node) -> Scalar | None:
    attribute = node.attributes.get("value")
    if attribute is None:
        return np.zeros((), np.float32)
    if attribute.is_ref():
        return None
    array = attribute.as_tensor().numpy()
    return array.reshape(()) if array.size == 1 and _is_plain(array) else None


def _converted(node: ir.Node, element: Scalar) -> Scalar | None:
    """Return what a Cast makes of the element, where that is exact in every implementation."""
    target = cast_target(node)
    if target is None or target == ir.DataType.STRING:
        return None
    if target == ir.DataType.BOOL:
        return np.asarray(element != 0)
    dtype = target.numpy()
    if dtype.kind not in "fiu" or not bool(np.isfinite(element)):
        return None
    if dtype.kind != "f" and not np.iinfo(dtype).min <= float(element) <= np.iinfo(dtype).max:
        return None
    if dtype.isbuiltin == _REGISTERED or abs(float(element)) >= _EXACT:
        return None
    converted = element.astype(dtype)
    return converted if float(converted) == float(element) else None


# Whole numbers up to here are exact in 32-bit floats.
_EXACT = 2.0**24
_REGISTERED = 2
"""What `isbuiltin` says of types that numpy does not bring itself, such as bfloat16."""
