"""Chains of operators that only rearrange elements, as one permutation of the factors of sizes.

Reshape, Flatten, Squeeze and Unsqueeze cut dimensions into factors and join them again; Transpose
moves them. What a chain of them does to its source is an order of factors: ``(b*h, t, d)`` of
``(b, h, t, d)``, turned to ``(b*h, d, t)`` and reshaped to ``(b, h, d, t)``, is the factors
``b h d t``, which one Transpose puts in that order. Dimensions of size 1 have no factors, so that
it does not matter where they stand.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from graphopt.analysis.symbolic_expressions import Integer, divide, product

__all__ = ["Move", "Rearrangement", "Step", "plans_of"]

_Dims = tuple[Integer, ...]


@dataclass(frozen=True)
class Step:
    """One operator: a Transpose where it has a permutation, else a Reshape.

    Attributes:
        dims: Dimensions of its result.
        permutation: Axes of its input, in the order of its result.
    """

    dims: _Dims
    permutation: tuple[int, ...] | None = None


_STEPS_BETWEEN = 3

Move = tuple[str, _Dims]
"""``Transpose`` with a permutation, or ``Reshape`` with the dimensions of its result."""


def plans_of(dims: _Dims, moves: Iterable[Move], at_most: int) -> list[list[Step]]:
    """Return operators that do the same as a chain, shortest plans first; none: not to be told.

    Args:
        dims: Dimensions of the value at the start of the chain.
        moves: What the chain does, in order.
        at_most: How many operators help.
    """
    moved = Rearrangement(dims)
    for kind, given in moves:
        is_clear = moved.transpose(given) if kind == "Transpose" else moved.reshape(given)
        if not is_clear:
            return []
    return moved.plans(at_most)


class Rearrangement:
    """What a chain of operators has done to a value so far.

    Args:
        dims: Dimensions of the value at its start.
    """

    def __init__(self, dims: _Dims) -> None:
        self._dims = dims
        self._sizes: list[Integer] = [size for size in dims if size != 1]
        names = iter(range(len(self._sizes)))
        self._source: list[list[int]] = [[next(names)] if size != 1 else [] for size in dims]
        self._result: list[list[int]] = [list(factors) for factors in self._source]

    def transpose(self, permutation: Sequence[Integer]) -> bool:
        """Move dimensions; return ``False`` where ``permutation`` is none of them."""
        axes = [axis for axis in permutation if isinstance(axis, int)]
        if sorted(axes) != list(range(len(self._result))):
            return False
        self._result = [self._result[axis] for axis in axes]
        return True

    def reshape(self, dims: Iterable[Integer]) -> bool:
        """Cut and join dimensions; return ``False`` where the factors are not to be told."""
        pending = deque(chain.from_iterable(self._result))
        result: list[list[int]] = []
        for size in dims:
            taken = self._take(pending, size)
            if taken is None:
                return False
            result.append(taken)
        self._result = result
        return not pending

    def _take(self, pending: deque[int], size: Integer) -> list[int] | None:
        """Take factors with the product ``size`` from the front, the last one perhaps in part."""
        taken: list[int] = []
        while size != 1:
            if not pending:
                return None
            factor = pending.popleft()
            left = _exact_quotient(size, self._sizes[factor])
            if left is None:
                beyond = _exact_quotient(self._sizes[factor], size)
                if beyond is None:
                    return None
                pending.appendleft(self._cut(factor, size, beyond))
                left = 1
            taken.append(factor)
            size = left
        return taken

    def _cut(self, factor: int, size: Integer, beyond: Integer) -> int:
        """Cut a factor in two; return the second part."""
        second = len(self._sizes)
        self._sizes[factor] = size
        self._sizes.append(beyond)
        for factors in self._source:
            if factor in factors:
                factors.insert(factors.index(factor) + 1, second)
        return second

    # -- how to do the same ------------------------------------------------------------------

    def plans(self, at_most: int) -> list[list[Step]]:
        """Return operators that do the same as the chain, shortest plans first."""
        found = [self._reshaped(), self._moved_last(), self._moved_first()]
        if at_most >= _STEPS_BETWEEN:  # with fewer, it is one of the others
            found.append(self._moved_between())
        plans = [plan for plan in found if plan is not None and len(plan) <= at_most]
        return sorted(plans, key=len)

    def _dims_of(self, groups: Iterable[Sequence[int]]) -> _Dims:
        sizes = self._sizes
        return tuple(
            [
                sizes[group[0]] if len(group) == 1 else product([sizes[one] for one in group])
                for group in groups
            ]
        )

    def _reshaped(self) -> list[Step] | None:
        """The order of the factors is the same."""
        if _flat(self._source) != _flat(self._result):
            return None
        return list(_steps(self._dims, None, self._dims_of(self._result)))

    def _moved_last(self) -> list[Step] | None:
        """Reshape to the dimensions of the result, then move those."""
        place = {factor: index for index, factor in enumerate(_flat(self._source))}
        for group in self._result:
            places = [place[factor] for factor in group]
            if places != list(range(places[0], places[0] + len(places)) if places else []):
                return None
        order = sorted(
            (axis for axis, group in enumerate(self._result) if group),
            key=lambda axis: place[self._result[axis][0]],
        )
        for axis, group in enumerate(self._result):
            if not group:
                order.insert(axis, axis)
        before = self._dims_of(self._result[axis] for axis in order)
        permutation = tuple(order.index(axis) for axis in range(len(order)))
        result = self._dims_of(self._result)
        return [*_steps(self._dims, None, before), *_steps(before, permutation, result)]

    def _moved_first(self) -> list[Step] | None:
        """Move the dimensions of the source, then reshape."""
        wanted = _flat(self._result)
        owner = {group[0]: axis for axis, group in enumerate(self._source) if group}
        order: list[int] = []
        place = 0
        while place < len(wanted):
            axis = owner.get(wanted[place])
            if (
                axis is None
                or wanted[place : place + len(self._source[axis])] != self._source[axis]
            ):
                return None
            order.append(axis)
            place += len(self._source[axis])
        for axis, group in enumerate(self._source):
            if not group:
                order.insert(axis, axis)
        moved = tuple(self._dims[axis] for axis in order)
        result = self._dims_of(self._result)
        return [*_steps(self._dims, tuple(order), moved), *_steps(moved, None, result)]

    def _moved_between(self) -> list[Step] | None:
        """Reshape to as few factors as may be, move those, and reshape again."""
        follower = dict(zip(_flat(self._source), _flat(self._source)[1:], strict=False))
        runs: list[list[int]] = []
        for factor in _flat(self._result):
            if runs and follower.get(runs[-1][-1]) == factor:
                runs[-1].append(factor)
            else:
                runs.append([factor])
        place = {factor: index for index, factor in enumerate(_flat(self._source))}
        order = sorted(range(len(runs)), key=lambda index: place[runs[index][0]])
        before = self._dims_of(runs[index] for index in order)
        permutation = tuple(order.index(index) for index in range(len(runs)))
        after, result = self._dims_of(runs), self._dims_of(self._result)
        return [
            *_steps(self._dims, None, before),
            *_steps(before, permutation, after),
            *_steps(after, None, result),
        ]


def _steps(before: _Dims, permutation: tuple[int, ...] | None, after: _Dims) -> Iterator[Step]:
    """Yield one step, or none where it would change nothing."""
    if permutation is None:
        if before != after:
            yield Step(after)
    elif permutation != tuple(range(len(permutation))):
        yield Step(after, permutation)


def _flat(groups: Iterable[Iterable[int]]) -> list[int]:
    return list(chain.from_iterable(groups))


def _exact_quotient(value: Integer, divisor: Integer) -> Integer | None:
    found = divide(value, divisor)
    return found if found is not None and found * divisor == value else None
