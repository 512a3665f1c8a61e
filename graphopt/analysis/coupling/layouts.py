"""What the axes of a value are made of, and how reshaping makes others of them.

An axis is a product of factors, outermost first: the axis of length H * d that heads of length d
leave is one of two factors. An axis of length 1 is the product of none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from graphopt.analysis.coupling.units import Factor, Pin, Ties
from graphopt.analysis.symbolic_expressions import Integer, product

__all__ = ["Axis", "Layout", "flat", "length", "opaque", "opaque_layout", "regroup", "tie_axes"]

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
    ties.tie(flat(first, ties, where), flat(second, ties, where), where)
    return first


def regroup(layout: Layout, dims: Sequence[Integer], ties: Ties, where: str) -> Layout:
    """Return the axes of lengths ``dims`` that the elements of ``layout`` fill in the same order.

    Neighbours on both sides are gathered until their products are equal: some factors that become
    one axis, or one factor that becomes some axes. It is done from the last ones on, as lengths
    that only a run tells come first, and whatever they are, what is left on both sides is equal.
    """
    factors = [factor for axis in layout for factor in axis][::-1]
    targets = list(dims)[::-1]
    found: list[Axis] = []
    while len(found) < len(targets):
        if targets[len(found)] == 1:
            found.append(())
            continue
        taken, axes = _group(factors, targets[len(found) :])
        if taken == 0:
            pin_all(factors, ties, where)
            found += [opaque(dim) for dim in targets[len(found) :]]
            break
        wanted = targets[len(found) : len(found) + axes][::-1]
        found += _regrouped(tuple(factors[:taken][::-1]), wanted, ties, where)[::-1]
        factors = factors[taken:]
    return tuple(found[::-1])


def _group(factors: Sequence[Factor], dims: Sequence[Integer]) -> tuple[int, int]:
    """Return how many factors make how many axes, the fewest of either; (0, 0): nothing fits."""
    taken, axes = 1, 1
    if not factors:
        return 0, 0
    while True:
        left = product([factor.size for factor in factors[:taken]])
        right = product(list(dims[:axes]))
        if left == right:
            while axes < len(dims) and dims[axes] == 1:
                axes += 1  # lengths of 1 go with what is before them
            return taken, axes
        can_left, can_right = taken < len(factors), axes < len(dims)
        is_left = can_left and (_is_less(left, right) or not can_right)
        if not is_left and not can_right:
            return 0, 0
        taken, axes = (taken + 1, axes) if is_left else (taken, axes + 1)


def _is_less(left: Integer, right: Integer) -> bool:
    """Tell which side to extend: the smaller one, or the one with fewer symbols."""
    if isinstance(left, int) and isinstance(right, int):
        return left < right
    if isinstance(left, int) or isinstance(right, int):
        return isinstance(left, int)
    degree = [max(len(term) for term in side.terms) for side in (left, right)]
    weight = [max(map(abs, side.terms.values())) for side in (left, right)]
    return (degree[0], weight[0]) < (degree[1], weight[1])


def _regrouped(group: Axis, dims: Sequence[Integer], ties: Ties, where: str) -> list[Axis]:
    wanted = [dim for dim in dims if dim != 1]
    if len(wanted) == 1:
        axes = [group]
    elif all(factor.atoms is None for factor in group):
        axes = [opaque(dim) for dim in wanted]
    elif len(group) == 1 and all(isinstance(dim, int) for dim in wanted):
        digits = tuple(ties.factor(int(str(dim))) for dim in wanted)
        ties.split(group[0], digits, where)
        axes = [(digit,) for digit in digits]
    else:
        pin_all(group, ties, where)
        axes = [opaque(dim) for dim in wanted]
    pending = iter(axes)
    return [() if dim == 1 else next(pending) for dim in dims]


def indices(factor: Factor, start: int, stop: int, step: int) -> Factor:
    """Return every ``step``-th index of a factor."""
    return factor.taken(np.arange(int(str(factor.size)))[start:stop:step])
