"""What the axes of a value are made of.

An axis is a product of factors, outermost first: the axis of length H * d that heads of length d
leave is one of two factors. An axis of length 1 is the product of none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from graphopt.analysis.coupling.units import Factor, Pin, Ties
from graphopt.analysis.symbolic_expressions import Integer, product

__all__ = [
    "Axis",
    "Layout",
    "flat",
    "indices",
    "length",
    "opaque",
    "opaque_layout",
    "pin_all",
    "tie_axes",
]

Axis = tuple[Factor, ...]
Layout = tuple[Axis, ...]


def opaque(size: Integer) -> Axis:
    """Return an axis whose length never changes."""
    return () if isinstance(size, int) and size == 1 else (Factor(size),)


def opaque_layout(dims: Sequence[Integer] | None) -> Layout | None:
    """Return axes that never change; ``None`` where the rank is unknown."""
    return None if dims is None else tuple(opaque(dim) for dim in dims)


def length(axis: Axis) -> Integer:
    """Return how long an axis is."""
    return product([factor.size for factor in axis])


def sizes(factors: Sequence[Factor]) -> list[int] | None:
    """Return the lengths where all are numbers."""
    found = [factor.size for factor in factors]
    return (
        [int(size) for size in found if isinstance(size, int)]
        if all(isinstance(size, int) for size in found)
        else None
    )


def flat(axis: Axis, ties: Ties, where: str) -> Factor:
    """Return an axis as one factor."""
    if len(axis) == 1:
        return axis[0]
    numbers = sizes(axis)
    if all(factor.atoms is None for factor in axis) or numbers is None:
        pin_all(axis, ties, where)
        return Factor(length(axis))
    whole = ties.factor(math.prod(numbers))
    ties.split(whole, _labelled(axis, ties, where), where)
    return whole


def _labelled(factors: Axis, ties: Ties, where: str) -> Axis:
    """Return factors that all have atoms: those that never change get pinned ones."""
    found = []
    for factor in factors:
        if factor.atoms is None:
            fixed = ties.factor(int(str(factor.size)))
            ties.pin(fixed, Pin("fixed-length", "its length cannot change", where))
            found.append(fixed)
        else:
            found.append(factor)
    return tuple(found)


def pin_all(factors: Sequence[Factor], ties: Ties, where: str) -> None:
    """Forbid every change of some factors."""
    pin = Pin("unclear-shape", "it is not known what becomes of its indices", where)
    for factor in factors:
        ties.pin(factor, pin)


def tie_axes(first: Axis, second: Axis, ties: Ties, where: str) -> Axis:
    """Tie two axes of equal length index by index; return one of them, with atoms if either has."""
    if first == second or not first or not second:
        return first or second
    if len(first) == len(second) and all(
        a.size == b.size for a, b in zip(first, second, strict=True)
    ):
        for a, b in zip(first, second, strict=True):
            ties.tie(a, b, where)
        return first
    # Only a run tells how long one of them is: what meets what is not known.
    if length(first) != length(second):
        pin_all((*first, *second), ties, where)
        return first
    numbers = sizes(first), sizes(second)
    if None in numbers:
        pin_all((*first, *second), ties, where)
        return first
    if len(first) == 1 or len(second) == 1:
        whole, digits = (first[0], second) if len(first) == 1 else (second[0], first)
        if whole.atoms is None:
            pin_all(digits, ties, where)
        else:
            ties.split(whole, _labelled(digits, ties, where), where)
        return digits
    # Two products cut in different places meet index by index, as one long axis each.
    ties.tie(flat(first, ties, where), flat(second, ties, where), where)
    return first


def indices(factor: Factor, start: int, stop: int, step: int) -> Factor:
    """Return every ``step``-th index of a factor."""
    return factor.taken(np.arange(int(str(factor.size)))[start:stop:step])
