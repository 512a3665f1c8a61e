"""Elements of small integer tensors that follow from shapes, as numbers and symbols.

The arithmetic that exporters write around Shape: where ``x`` has shape (batch, 12, 64), the
elements of ``Concat(Gather(Shape(x), 0), [768])`` are ``("batch", 768)``.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.analysis.operands import (
    cast_target,
    int_attribute,
    ints_operand,
    operand,
    slice_bounds,
    squeeze_axes,
)
from graphopt.ir import constant_array
from graphopt.rewrite import ShapeTable

__all__ = ["Elements", "IntegerElements"]

_MAX_ELEMENTS = 64
_Item = int | str | None
_INT64_LIMIT = 2**63


@dataclass(frozen=True)
class Elements:
    """What is known of a scalar or vector of int64.

    Attributes:
        items: Numbers, symbols (names of dimensions), or ``None`` for unknown ones.
        is_scalar: It has no dimension, and one item.
    """

    items: tuple[_Item, ...]
    is_scalar: bool = False

    def array(self) -> np.ndarray[Any, Any] | None:
        """Return the tensor where every element is a number."""
        if any(not isinstance(item, int) for item in self.items):
            return None
        shape = () if self.is_scalar else (len(self.items),)
        return np.array(self.items, np.int64).reshape(shape)


class IntegerElements:
    """Elements of the values of one model; nodes must be visited in the order of execution."""

    def __init__(self, shapes: ShapeTable) -> None:
        self._shapes = shapes
        self._known: dict[ir.Value, Elements | None] = {}

    def visit(self, node: ir.Node) -> Elements | None:
        """Return what is known of the first output of ``node``, and remember it."""
        rule = _RULES.get(node.op_type) if not node.domain else None
        found = rule(node, self) if rule is not None else None
        if found is not None and len(found.items) > _MAX_ELEMENTS:
            found = None
        if found is not None:
            self._known[node.outputs[0]] = found
        return found

    def of(self, value: ir.Value | None) -> Elements | None:
        """Return what is known of ``value``, or ``None``."""
        if value is None:
            return None
        if value not in self._known:
            self._known[value] = _constant_elements(value)
        return self._known[value]

    def dims(self, value: ir.Value | None) -> tuple[_Item, ...] | None:
        """Return the dimensions of ``value``, or ``None``."""
        known = self._shapes.of(value)
        return None if known is None else known.dims

    def length(self, value: ir.Value | None) -> int | None:
        """Return the number of elements of a vector of int64, or ``None``."""
        known = self._shapes.of(value)
        if known is None or known.dtype != ir.DataType.INT64 or known.dims is None:
            return None
        return known.dims[0] if len(known.dims) == 1 and isinstance(known.dims[0], int) else None


def _constant_elements(value: ir.Value) -> Elements | None:
    array = constant_array(value, _MAX_ELEMENTS)
    if array is None or array.dtype != np.int64 or array.ndim > 1:
        return None
    return Elements(tuple(int(item) for item in array.reshape(-1)), is_scalar=array.ndim == 0)


def _shape(node: ir.Node, elements: IntegerElements) -> Elements | None:
    dims = elements.dims(operand(node, 0))
    start = int_attribute(node, "start", 0)
    end = int_attribute(node, "end", len(dims) if dims is not None else 0)
    if dims is None or start is None or end is None:
        return None
    return Elements(dims[start:end])


def _size(node: ir.Node, elements: IntegerElements) -> Elements | None:
    dims = elements.dims(operand(node, 0))
    if dims is None:
        return None
    sizes = [dim for dim in dims if isinstance(dim, int)]
    return Elements((math.prod(sizes),), is_scalar=True) if len(sizes) == len(dims) else None


def _gather(node: ir.Node, elements: IntegerElements) -> Elements | None:
    data, index = elements.of(operand(node, 0)), elements.of(operand(node, 1))
    if data is None or index is None or data.is_scalar or int_attribute(node, "axis", 0) != 0:
        return None
    count = len(data.items)
    chosen: list[_Item] = []
    for position in index.items:
        if not isinstance(position, int) or not -count <= position < count:
            return None
        chosen.append(data.items[position])
    return Elements(tuple(chosen), is_scalar=index.is_scalar)


def _slice(node: ir.Node, elements: IntegerElements) -> Elements | None:
    data, bounds = elements.of(operand(node, 0)), slice_bounds(node)
    if data is None or data.is_scalar or bounds is None or bounds.axes not in ((0,), (-1,)):
        return None
    step = bounds.steps[0]
    if step <= 0:
        return None
    return Elements(data.items[bounds.starts[0] : bounds.ends[0] : step])


def _concat(node: ir.Node, elements: IntegerElements) -> Elements | None:
    items: list[_Item] = []
    for value in node.inputs:
        part = elements.of(value)
        if part is None:
            length = elements.length(value)
            if length is None:
                return None
            part = Elements((None,) * min(length, _MAX_ELEMENTS + 1))
        items.extend(part.items)
    return Elements(tuple(items))


def _squeeze(node: ir.Node, elements: IntegerElements) -> Elements | None:
    data = elements.of(operand(node, 0))
    if data is None or len(data.items) != 1:
        return None
    return Elements(data.items, is_scalar=True)


def _unsqueeze(node: ir.Node, elements: IntegerElements) -> Elements | None:
    data, axes = elements.of(operand(node, 0)), squeeze_axes(node)
    if data is None or not data.is_scalar or axes not in ((0,), (-1,)):
        return None
    return Elements(data.items)


def _reshape(node: ir.Node, elements: IntegerElements) -> Elements | None:
    data, target = elements.of(operand(node, 0)), ints_operand(node, 1)
    if data is None or target is None or len(target) > 1:
        return None
    if target == () and len(data.items) != 1:
        return None
    return Elements(data.items, is_scalar=target == ())


def _same(node: ir.Node, elements: IntegerElements) -> Elements | None:
    return elements.of(operand(node, 0))


def _cast(node: ir.Node, elements: IntegerElements) -> Elements | None:
    known = elements.of(operand(node, 0))
    # In a narrower type numbers may wrap around.
    return known if cast_target(node) == ir.DataType.INT64 else None


def _arithmetic(
    compute: Callable[[int, int], int],
) -> Callable[[ir.Node, IntegerElements], Elements | None]:
    def rule(node: ir.Node, elements: IntegerElements) -> Elements | None:
        first, second = elements.of(operand(node, 0)), elements.of(operand(node, 1))
        if first is None or second is None:
            return None
        pairs = _broadcast(first, second)
        if pairs is None:
            return None
        items = tuple(_apply(compute, a, b) for a, b in pairs)
        return Elements(items, is_scalar=first.is_scalar and second.is_scalar)

    return rule


def _broadcast(first: Elements, second: Elements) -> list[tuple[_Item, _Item]] | None:
    if len(first.items) == len(second.items):
        return list(zip(first.items, second.items, strict=True))
    if len(first.items) == 1:
        return [(first.items[0], item) for item in second.items]
    if len(second.items) == 1:
        return [(item, second.items[0]) for item in first.items]
    return None


def _apply(compute: Callable[[int, int], int], a: _Item, b: _Item) -> _Item:
    """Compute one element; a symbol survives where the other operand is neutral."""
    if isinstance(a, int) and isinstance(b, int):
        if compute is _quotient and b == 0:
            return None
        result = compute(a, b)
        return result if -_INT64_LIMIT <= result < _INT64_LIMIT else None
    if compute in (operator.mul, _quotient) and b == 1:
        return a
    if compute in (operator.add, operator.sub) and b == 0:
        return a
    if (compute, a) in ((operator.mul, 1), (operator.add, 0)):
        return b
    return None


def _quotient(a: int, b: int) -> int:
    """Divide as ONNX does for integers: towards zero."""
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


_RULES: Mapping[str, Callable[[ir.Node, IntegerElements], Elements | None]] = {
    "Add": _arithmetic(operator.add),
    "Cast": _cast,
    "Concat": _concat,
    "Div": _arithmetic(_quotient),
    "Gather": _gather,
    "Identity": _same,
    "Mul": _arithmetic(operator.mul),
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Sub": _arithmetic(operator.sub),
    "Unsqueeze": _unsqueeze,
}
