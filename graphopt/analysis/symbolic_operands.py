"""Parameters of operators, as far as symbolic analysis knows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import onnx_ir as ir

from graphopt.analysis.operands import ints_attribute, operand
from graphopt.analysis.symbolic_expressions import Integer

if TYPE_CHECKING:
    from graphopt.analysis.symbolic_shapes import SymbolicShapes

__all__ = ["axes_of", "items_of", "slice_operands"]

_AXES_ARE_INPUT_SINCE = {"ReduceSum": 13, "Squeeze": 13, "Unsqueeze": 13}
_REDUCE_AXES_ARE_INPUT_SINCE = 18


def axes_of(node: ir.Node, known: SymbolicShapes) -> tuple[int, ...] | None:
    """Return the axes of a Squeeze, Unsqueeze or Reduce operator; ``()`` where none are named."""
    since = _AXES_ARE_INPUT_SINCE.get(node.op_type, _REDUCE_AXES_ARE_INPUT_SINCE)
    if known.version < since:
        return ints_attribute(node, "axes") if "axes" in node.attributes else ()
    return () if operand(node, 1) is None else known.numbers(operand(node, 1))


def slice_operands(
    node: ir.Node, known: SymbolicShapes
) -> list[tuple[Integer, Integer, int, Integer]] | None:
    """Return start, end, axis and step for each axis that a Slice names; ``None``: not known."""
    if "starts" in node.attributes:
        starts: Sequence[Integer] | None = ints_attribute(node, "starts")
        ends: Sequence[Integer] | None = ints_attribute(node, "ends")
        axes = ints_attribute(node, "axes")
        if axes is None and "axes" in node.attributes:
            return None
        steps: Sequence[Integer] | None = None
    else:
        starts, ends = items_of(known, operand(node, 1)), items_of(known, operand(node, 2))
        axes, steps = known.numbers(operand(node, 3)), items_of(known, operand(node, 4))
        if axes is None and operand(node, 3) is not None:
            return None
        if steps is None and operand(node, 4) is not None:
            return None
    if starts is None or ends is None:
        return None
    axes = axes if axes is not None else tuple(range(len(starts)))
    steps = steps if steps is not None else (1,) * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps):
        return None
    return list(zip(starts, ends, axes, steps, strict=True))


def items_of(known: SymbolicShapes, value: ir.Value | None) -> Sequence[Integer] | None:
    """Return the elements of a small integer tensor in a row, or ``None``."""
    found = known.elements(value)
    return None if found is None else found.reshape(-1).tolist()
