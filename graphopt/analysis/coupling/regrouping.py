"""How reshaping makes other axes of those that a value has."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.analysis.coupling.layouts import Axis, Layout, length, opaque, pin_all
from graphopt.analysis.coupling.units import Factor, Ties
from graphopt.analysis.symbolic_expressions import Integer, product

__all__ = ["regroup"]


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
        found = _refined(group, wanted, ties, where)
        if found is None:
            pin_all(group, ties, where)
        axes = found or [opaque(dim) for dim in wanted]
    pending = iter(axes)
    return [() if dim == 1 else next(pending) for dim in dims]


def _refined(group: Axis, dims: Sequence[Integer], ties: Ties, where: str) -> list[Axis] | None:
    """Return axes of some factors each, where a factor on a border is a product of two itself.

    So do channels become groups of channels, and what is left of them goes with the positions.
    ``None``: the borders do not fit.
    """
    pending, axes = list(group), []
    cuts: list[tuple[Factor, Axis]] = []
    for dim in dims[:-1]:
        axis = _taken(pending, dim, cuts, ties)
        if axis is None:
            return None
        axes.append(axis)
    if length(tuple(pending)) != dims[-1]:
        return None
    for factor, parts in cuts:
        if factor.atoms is not None:
            ties.split(factor, parts, where)
    return [*axes, tuple(pending)]


def _taken(
    pending: list[Factor], dim: Integer, cuts: list[tuple[Factor, Axis]], ties: Ties
) -> Axis | None:
    """Take the first factors whose product is ``dim``; note a factor of which a part is taken."""
    axis: Axis = ()
    while (done := length(axis)) != dim:
        if not pending:
            return None
        factor = pending.pop(0)
        if length((*axis, factor)) == dim:
            return (*axis, factor)
        if not (isinstance(dim, int) and isinstance(done, int) and isinstance(factor.size, int)):
            return None
        parts = _parted(factor, dim // done, ties)
        if parts is None:
            return None
        axis = (*axis, parts[0])
        if len(parts) > 1:
            cuts.append((factor, parts))
            pending.insert(0, parts[1])
    return axis


def _parted(factor: Factor, wanted: int, ties: Ties) -> Axis | None:
    """Return a factor that is part of ``wanted``, or ``wanted`` indices and what is left of it."""
    size = int(str(factor.size))
    if wanted % size == 0:
        return (factor,)
    if size % wanted:
        return None
    sizes = (wanted, size // wanted)
    return tuple(Factor(n) if factor.atoms is None else ties.factor(n) for n in sizes)
