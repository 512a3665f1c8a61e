"""Shape operands with other numbers in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from graphopt.ir import constant_array
from graphopt.rewrite import Change

__all__ = ["rewritten_operand"]

_COPIED, _INFERRED = 0, -1


def rewritten_operand(
    change: Change,
    operand: ir.Value,
    wanted: Mapping[int, int],
    *,
    before: ir.Node,
    length: Callable[[ir.Value], int | None],
) -> ir.Value | None:
    """Return a shape, int64[rank], that asks for ``wanted`` lengths where it names a number.

    Entries that copy or infer a length (0, -1) and those that are computed from the shape of a
    tensor tell the new length by themselves. The operand itself is left alone, as other nodes may
    read it.

    Args:
        change: What new constants and nodes are added to.
        operand: A constant, or constants and computed pieces joined by Concat.
        wanted: New length, by axis.
        before: The node that reads it.
        length: Tells how many elements a piece of it has, where that is known.

    Returns:
        The operand to read instead, which may be ``operand``; ``None`` where its pieces are not
        known.
    """
    array = constant_array(operand)
    if array is not None:
        return _constant(change, operand, array, wanted)
    node = operand.producer()
    if node is None or node.op_type != "Concat" or node.domain:
        return operand  # a length read from a tensor is the new one once that tensor is cut
    pieces: list[ir.Value] = []
    start, is_other = 0, False
    for piece in node.inputs:
        size = None if piece is None else length(piece)
        if piece is None or size is None:
            return None
        inner = {axis - start: n for axis, n in wanted.items() if start <= axis < start + size}
        found = (
            rewritten_operand(change, piece, inner, before=before, length=length)
            if inner
            else piece
        )
        if found is None:
            return None
        is_other |= found is not piece
        pieces.append(found)
        start += size
    if not is_other:
        return operand
    return change.node("Concat", pieces, attributes={"axis": 0}, before=before, like=operand)


def _constant(
    change: Change, operand: ir.Value, array: np.ndarray, wanted: Mapping[int, int]
) -> ir.Value:
    numbers = array.copy()
    for axis, number in wanted.items():
        if numbers[axis] not in (_COPIED, _INFERRED):
            numbers[axis] = number
    if np.array_equal(numbers, array):
        return operand
    return change.initializer(numbers, name=operand.name or "shape")
