"""Indices of dimensions that stand or fall together.

Every index along a dimension whose length may change is an *atom*, a number. Operators tie atoms:
to remove one is to remove the other. What is tied together, over however many dimensions, is a
*unit*: the least that can be removed. Atoms that something forbids to remove are pinned.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from graphopt.analysis.symbolic_expressions import Integer

__all__ = ["Factor", "Pin", "Ties", "Units"]

Atoms = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Factor:
    """A dimension, or one of several whose product is a dimension.

    Attributes:
        size: How long it is: a number, or an expression over sizes that only a run tells.
        atoms: Its indices, int64[size]; ``None``: its length never changes.
    """

    size: Integer
    atoms: Atoms | None = None

    def part(self, start: int, stop: int) -> Factor:
        """Return the indices from ``start`` to ``stop``."""
        return self.taken(np.arange(start, stop))

    def taken(self, indices: npt.NDArray[np.int64]) -> Factor:
        """Return the indices chosen, in their order."""
        atoms = None if self.atoms is None else self.atoms[indices]
        return Factor(len(indices), atoms)


class Pin(NamedTuple):
    """Why something must stay: a stable word, a sentence, and the node or value behind it."""

    slug: str
    why: str
    where: str


class _Split(NamedTuple):
    flat: Factor
    digits: tuple[Factor, ...]
    where: str


class Ties:
    """Collects what is tied and what is pinned; `solve` tells the units."""

    def __init__(self) -> None:
        self._count = 0
        self._pairs: list[tuple[Atoms, Atoms]] = []
        self._pins: list[tuple[Atoms, Pin]] = []
        self._splits: list[_Split] = []

    def factor(self, size: int) -> Factor:
        """Return a dimension of which nothing is known yet."""
        start, self._count = self._count, self._count + size
        return Factor(size, np.arange(start, self._count))

    def tie(self, first: Factor, second: Factor, where: str) -> None:
        """Let equal indices of two dimensions of equal length stand or fall together."""
        # An axis that meets itself, as in `x + x`.
        if first is second:
            return
        if first.atoms is not None and second.atoms is not None:
            self._pairs.append((first.atoms, second.atoms))
            return
        fixed = Pin("fixed-length", "it meets a dimension whose length cannot change", where)
        self.pin(first, fixed)
        self.pin(second, fixed)

    def pin(self, factor: Factor, pin: Pin) -> None:
        """Forbid that any index of a dimension is removed."""
        if factor.atoms is not None and len(factor.atoms):
            self._pins.append((factor.atoms, pin))

    def split(self, flat: Factor, digits: Sequence[Factor], where: str) -> None:
        """Take note that ``flat`` enumerates the product of ``digits``, the last one fastest.

        One of them can lose indices: an index of it is then one of ``flat`` for every combination
        of the others, which have to stay. Which one is decided by `solve`.
        """
        self._splits.append(_Split(flat, tuple(digits), where))

    def solve(self, named: Sequence[Factor] = ()) -> Units:
        """Return the units.

        Args:
            named: Dimensions that are units of their own wherever they meet others in a product,
                even where they cannot change: heads.
        """
        pairs, pins = list(self._pairs), list(self._pins)
        before = Units(_components(self._count, pairs), pins)
        names = frozenset(unit for factor in named for unit in before.of(factor).tolist())
        for split in self._splits:
            more, fixed = _chosen(split, before, names)
            pairs += more
            pins += fixed
        return Units(_components(self._count, pairs), pins)


def _chosen(
    split: _Split, known: Units, names: frozenset[int]
) -> tuple[list[tuple[Atoms, Atoms]], list[tuple[Atoms, Pin]]]:
    """Return the ties and pins by which a split is kept, for the first digit that is free.

    Where none is, it is one that has a name, so that reports call what cannot go by that: the heads
    of a cache, not the elements of a projection.
    """
    flat, digits = split.flat.atoms, split.digits
    free = [digit for digit in digits if digit.atoms is not None and not known.is_pinned(digit)]
    named = [digit for digit in digits if not names.isdisjoint(known.of(digit).tolist())]
    if flat is None or not (free or named):
        pin = _cause(split, known)
        return [], [(f.atoms, pin) for f in (split.flat, *digits) if f.atoms is not None]
    chosen = (free or named)[0]
    assert chosen.atoms is not None
    place = next(number for number, digit in enumerate(digits) if digit is chosen)
    grid = flat.reshape([int(str(digit.size)) for digit in digits])
    rows = np.moveaxis(grid, place, 0).reshape(grid.shape[place], -1)
    # One tie for each combination of the other digits: the index goes from all of them at once.
    pairs = [(chosen.atoms, column) for column in rows.T]
    pin = Pin("inner-index", "its index is the place within another unit", split.where)
    return pairs, [(d.atoms, pin) for d in digits if d is not chosen and d.atoms is not None]


def _cause(split: _Split, known: Units) -> Pin:
    """Return why no factor of a product can change: why the outermost one cannot."""
    for digit in split.digits:
        for unit in known.of(digit).tolist() if digit.atoms is not None else ():
            if (pin := known.pin(unit)) is not None:
                return pin
    return Pin("inseparable", "it is seen as a product whose factors cannot change", split.where)


def _components(count: int, pairs: Sequence[tuple[Atoms, Atoms]]) -> Atoms:
    """Return for each of ``count`` atoms the least atom that it is tied to, directly or not.

    Both ends of a tie take the lesser root, then every atom the root of its root, until nothing
    changes: O((atoms + ties) log atoms) with whole arrays at a time.
    """
    roots = np.arange(count)
    if not pairs:
        return roots
    first = np.concatenate([pair[0] for pair in pairs])
    second = np.concatenate([pair[1] for pair in pairs])
    while True:
        a, b = roots[first], roots[second]
        if np.array_equal(a, b):
            return roots
        low = np.minimum(a, b)
        np.minimum.at(roots, a, low)
        np.minimum.at(roots, b, low)
        while not np.array_equal(roots[roots], roots):
            roots = roots[roots]


class Units:
    """The units that ties make of atoms."""

    def __init__(self, roots: Atoms, pins: Sequence[tuple[Atoms, Pin]]) -> None:
        self._roots = roots
        self._pins: dict[int, Pin] = {}
        for atoms, pin in pins:
            for root in np.unique(roots[atoms]).tolist():
                # Of several reasons the first one that was met is told.
                self._pins.setdefault(root, pin)

    def of(self, factor: Factor) -> Atoms:
        """Return the unit of each index of a dimension, int64[size]; it must have atoms."""
        assert factor.atoms is not None
        return self._roots[factor.atoms]

    def pin(self, unit: int) -> Pin | None:
        """Return why a unit must stay, or ``None``."""
        return self._pins.get(unit)

    def is_pinned(self, factor: Factor) -> bool:
        """Tell whether any index of a dimension must stay."""
        return any(unit in self._pins for unit in np.unique(self.of(factor)).tolist())

    def pinned(self) -> Iterator[tuple[int, Pin]]:
        """Yield the units that must stay, and why."""
        yield from self._pins.items()

    def kept(self, factor: Factor, removed: npt.NDArray[Any]) -> npt.NDArray[np.bool_] | None:
        """Return which indices stay, bool[size]; ``None`` where all do.

        Args:
            factor: The dimension.
            removed: The units that go, sorted.
        """
        if factor.atoms is None:
            return None
        keep = ~np.isin(self.of(factor), removed)
        return None if keep.all() else keep
