"""Integer tensors that count: each element is a sum of its coordinates, times sizes.

Exporters write ``mask[b, k]`` as a lookup in a table, with indices made by Range, Expand and
Concat. Where the indices are the coordinates themselves, the lookup changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from graphopt.analysis.constant_targets import added_or_removed_ones
from graphopt.analysis.operands import operand, transpose_permutation
from graphopt.analysis.symbolic_expressions import Integer
from graphopt.analysis.symbolic_operands import axes_of
from graphopt.analysis.symbolic_shapes import Dims, SymbolicShapes

__all__ = ["Count", "IndexGrids"]

_MAX_DEPTH = 16


@dataclass(frozen=True)
class Count:
    """What the element at coordinates ``i`` is: ``offset + steps[0] * i[0] + ...``.

    Attributes:
        offset: The element at the origin.
        steps: By axis, 0 for each axis of size 1.
    """

    offset: Integer
    steps: tuple[Integer, ...]


class IndexGrids:
    """Tells of integer values how they follow from the coordinates of their elements.

    Args:
        known: What is known of sizes.
    """

    def __init__(self, known: SymbolicShapes) -> None:
        self._known = known
        self._found: dict[ir.Value, Count | None] = {}

    def of(self, value: ir.Value | None, depth: int = 0) -> Count | None:
        """Return how ``value`` counts, or ``None`` where it does not, or nobody knows."""
        if value is None or depth > _MAX_DEPTH:
            return None
        if value not in self._found:
            self._found[value] = self._count(value, depth)
        return self._found[value]

    def _count(self, value: ir.Value, depth: int) -> Count | None:
        dims, node = self._known.dims(value), value.producer()
        if dims is None or self._known.dtype(value) != ir.DataType.INT64:
            return None
        if all(size == 1 for size in dims):
            elements = self._known.elements(value)
            return None if elements is None else Count(elements.item(), (0,) * len(dims))
        rule = _RULES.get(node.op_type) if node is not None and not node.domain else None
        if node is None or rule is None:
            return None
        inputs = [self.of(given, depth + 1) for given in node.inputs[: _COUNTED[node.op_type]]]
        counts = [count for count in inputs if count is not None]
        if len(counts) < len(inputs):
            return None
        return rule(node, self._known, counts)

    def is_identity(self, parts: list[ir.Value | None], dims: Dims) -> bool:
        """Tell whether part ``k`` of an index, for each place of ``dims``, is coordinate ``k``."""
        if len(parts) != len(dims):
            return False
        for axis, part in enumerate(parts):
            count = self.of(part)
            unit = tuple(int(place == axis and dims[axis] != 1) for place in range(len(dims)))
            if count is None or count.offset != 0 or count.steps[: len(dims)] != unit:
                return False
        return True


# -- rules: how the result counts, given how the inputs do --------------------------------------

_Rule = Callable[[ir.Node, SymbolicShapes, list[Count]], Count | None]


def _range(node: ir.Node, known: SymbolicShapes, counts: list[Count]) -> Count | None:  # noqa: ARG001
    start, _, delta = counts
    return Count(start.offset, (delta.offset,))


def _same(node: ir.Node, known: SymbolicShapes, counts: list[Count]) -> Count | None:  # noqa: ARG001
    return counts[0]


def _unsqueeze(node: ir.Node, known: SymbolicShapes, counts: list[Count]) -> Count | None:
    axes, rank = axes_of(node, known), known.rank(node.outputs[0])
    if axes is None or not rank:
        return None
    added, steps = {axis % rank for axis in axes}, iter(counts[0].steps)
    if len(counts[0].steps) + len(added) != rank:
        return None
    return Count(
        counts[0].offset, tuple(0 if axis in added else next(steps) for axis in range(rank))
    )


def _reshape(node: ir.Node, known: SymbolicShapes, counts: list[Count]) -> Count | None:
    data, result = known.dims(operand(node, 0)), known.dims(node.outputs[0])
    if data is None or result is None:
        return None
    if data == result:
        return counts[0]
    found = added_or_removed_ones(data, result)
    if found is None:
        return None
    operator, axes = found
    steps = iter(counts[0].steps)
    if operator == "Unsqueeze":
        spread = tuple(0 if axis in axes else next(steps) for axis in range(len(result)))
        return Count(counts[0].offset, spread)
    kept = tuple(step for axis, step in enumerate(steps) if axis not in axes)
    return Count(counts[0].offset, kept)


def _transpose(node: ir.Node, known: SymbolicShapes, counts: list[Count]) -> Count | None:  # noqa: ARG001
    steps = counts[0].steps
    order = transpose_permutation(node, len(steps))
    if order is None or sorted(order) != list(range(len(steps))):
        return None
    return Count(counts[0].offset, tuple(steps[axis] for axis in order))


def _expand(node: ir.Node, known: SymbolicShapes, counts: list[Count]) -> Count | None:
    data, result = known.dims(operand(node, 0)), known.dims(node.outputs[0])
    return None if data is None or result is None else _broadcast(counts[0], data, result)


def _broadcast(count: Count, data: Dims, result: Dims) -> Count | None:
    """Count in the coordinates of what ``data`` is broadcast to."""
    added = len(result) - len(data)
    if added < 0:
        return None
    if any(own not in (1, size) for own, size in zip(data, result[added:], strict=True)):
        return None
    steps = tuple(0 if own == 1 else step for own, step in zip(data, count.steps, strict=True))
    return Count(count.offset, (0,) * added + steps)


def _sum(node: ir.Node, known: SymbolicShapes, counts: list[Count]) -> Count | None:
    result = known.dims(node.outputs[0])
    shapes = [known.dims(operand(node, index)) for index in range(2)]
    if result is None or shapes[0] is None or shapes[1] is None:
        return None
    first, second = (
        _broadcast(count, shape, result) if shape is not None else None
        for count, shape in zip(counts, shapes, strict=True)
    )
    if first is None or second is None:
        return None
    sign = -1 if node.op_type == "Sub" else 1
    steps = zip(first.steps, second.steps, strict=True)
    return Count(first.offset + second.offset * sign, tuple(a + b * sign for a, b in steps))


_RULES: Mapping[str, _Rule] = {
    "Add": _sum,
    "Expand": _expand,
    "Identity": _same,
    "Range": _range,
    "Reshape": _reshape,
    "Squeeze": _reshape,
    "Sub": _sum,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
_COUNTED = dict.fromkeys(_RULES, 1) | {"Add": 2, "Range": 3, "Sub": 2}
"""How many of the inputs have to count."""
