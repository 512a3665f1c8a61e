"""Shape operands with other numbers in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt.ir import constant_array
from graphopt.rewrite import Change

__all__ = ["Known", "NewLengths", "rewritten_operand"]

_COPIED, _INFERRED = 0, -1
_MEASURING = ("Shape", "Size")


@dataclass(frozen=True)
class NewLengths:
    """What a shape must ask for once units are gone.

    Attributes:
        numbers: New length, by axis.
        shares: By axis whose length only a run tells: how many of how many stay, of the part of it
            that has a number; heads of a (batch x heads) axis.
    """

    numbers: Mapping[int, int]
    shares: Mapping[int, tuple[int, int]]

    def __bool__(self) -> bool:
        return bool(self.numbers or self.shares)

    def part(self, start: int, stop: int) -> NewLengths:
        """Return those of some neighbouring axes, counted from the first of them."""
        numbers = {axis - start: n for axis, n in self.numbers.items() if start <= axis < stop}
        shares = {axis - start: n for axis, n in self.shares.items() if start <= axis < stop}
        return NewLengths(numbers, shares)


@dataclass(frozen=True)
class Known:
    """What is known of pieces of a shape.

    Attributes:
        length: Tells how many elements a piece has, where that is known.
        is_cut: Tells whether a tensor loses indices.
    """

    length: Callable[[ir.Value], int | None]
    is_cut: Callable[[ir.Value], bool]


def rewritten_operand(
    change: Change, operand: ir.Value, wanted: NewLengths, *, before: ir.Node, known: Known
) -> ir.Value | None:
    """Return a shape, int64[rank], that asks for ``wanted`` lengths where it names a number.

    Entries that copy or infer a length (0, -1) tell the new one by themselves, and so do several
    that are read from a tensor at once. A single one that is computed becomes a number; where only
    a run tells it, it is scaled, unless it comes from a tensor that is cut. The operand itself is
    left alone, as other nodes may read it.

    Args:
        change: What new constants and nodes are added to.
        operand: A constant, or constants and computed pieces joined by Concat.
        wanted: The new lengths.
        before: The node that reads it.
        known: What is known of its pieces.

    Returns:
        The operand to read instead, which may be ``operand``; ``None`` where its pieces are not
        known.
    """
    array = constant_array(operand)
    if array is not None:
        return _constant(change, operand, array, wanted.numbers)
    node = operand.producer()
    if node is None or node.op_type != "Concat" or node.domain:
        return _computed(change, operand, wanted, before, known)
    pieces: list[ir.Value] = []
    start, is_other = 0, False
    for piece in node.inputs:
        size = None if piece is None else known.length(piece)
        if piece is None or size is None:
            return None
        inner = wanted.part(start, start + size)
        found: ir.Value | None = piece
        if inner:
            found = rewritten_operand(change, piece, inner, before=before, known=known)
        if found is None:
            return None
        is_other |= found is not piece
        pieces.append(found)
        start += size
    if not is_other:
        return operand
    return change.node("Concat", pieces, attributes={"axis": 0}, before=before, like=operand)


def _computed(
    change: Change, piece: ir.Value, wanted: NewLengths, before: ir.Node, known: Known
) -> ir.Value:
    """Return a computed piece of a shape with its new length."""
    if known.length(piece) != 1:
        return piece  # lengths read from a tensor are the new ones once that tensor is cut
    if wanted.numbers:
        number = np.array([wanted.numbers[0]], np.int64)
        return change.initializer(number, name=f"{piece.name}_length")
    if not wanted.shares or _reads_cut(piece, known):
        return piece
    kept, total = (np.array([number], np.int64) for number in wanted.shares[0])
    whole = change.initializer(total, name=f"{piece.name}_total")
    part = change.node("Div", [piece, whole], before=before, like=piece)
    left = change.initializer(kept, name=f"{piece.name}_kept")
    return change.node("Mul", [part, left], before=before, like=piece)


def _reads_cut(piece: ir.Value, known: Known) -> bool:
    """Tell whether a number is computed from the shape of a tensor that loses indices."""
    waiting, seen = [piece], {piece}
    while waiting:
        node = waiting.pop().producer()
        for value in () if node is None else node.inputs:
            if value is None or value in seen:
                continue
            if node is not None and node.op_type in _MEASURING:
                if known.is_cut(value):
                    return True
                continue
            seen.add(value)
            waiting.append(value)
    return False


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
