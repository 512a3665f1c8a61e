"""Which units of which groups go: by ratio, by number, by name; evenly or over all groups."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.compression.unit_allocation import Loss, cheapest_counts
from graphopt.errors import OptionError, UnknownNameError

__all__ = ["ALLOCATIONS", "Ranking", "Selection"]

ALLOCATIONS = ("uniform", "global", "measured")
"""``uniform``: the same share of every group. ``global``: the lowest of all groups, each score
divided by the mean of its group, as Torch-Pruning 1.6 does by default, so that layers of a larger
scale do not win by it. ``measured``: of each group as much as its outputs bear, by what cutting it
alone does to them; a ratio is then one of the weights that lie on units, not of units."""


@dataclass(frozen=True)
class Ranking:
    """The units of one group, by how much they would be missed.

    Attributes:
        name: Of the group.
        scores: float64, one for each unit in order of its index; the least is missed least.
        free: bool, which of them may go.
    """

    name: str
    scores: npt.NDArray[np.float64]
    free: npt.NDArray[np.bool_]

    def lowest(self, count: int) -> tuple[int, ...]:
        """Return the indices of the free units with the lowest scores, in ascending order."""
        order = np.argsort(self.scores, kind="stable").tolist()
        return tuple(sorted([place for place in order if self.free[place]][:count]))


@dataclass(frozen=True, kw_only=True)
class Selection:
    """How many units of each group go, or which.

    Attributes:
        ratio: Share of the units that goes, in [0, 1); ``None`` where `count` or `units` say it.
        count: Units of each group that go.
        units: ``GROUP:INDEX`` or ``GROUP:FIRST-LAST``, the last included; groups by name or
            pattern.
        allocation: One of `ALLOCATIONS`, for `ratio`.
        multiple: The number of units that stay is a multiple of this, the nearest one.
        minimum: Units of a group that stay at least.
        groups: Patterns of the names of groups that may lose units; empty: all.
        exclude: Patterns of the names of groups that stay whole.
        losses: What the outputs lose with each group alone cut, by its name, for ``measured``.
    """

    ratio: float | None = None
    count: int | None = None
    units: tuple[str, ...] = ()
    allocation: str = "uniform"
    multiple: int = 1
    minimum: int = 1
    groups: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    losses: Mapping[str, Loss] = field(default_factory=dict)

    def exclusion(self, name: str) -> str | None:
        """Return why a group is left alone on request, or ``None``."""
        if _matches(name, self.exclude):
            return f"`{name}` matches `exclude`"
        if self.groups and not _matches(name, self.groups):
            return f"`{name}` matches none of `groups`"
        if self.units and not any(_is_of(name, entry) for entry in self.units):
            return f"`units` names none of `{name}`"
        return None

    def check(self, sizes: Mapping[str, int], pinned: Collection[str] = ()) -> None:
        """Check that what is named is there.

        Args:
            sizes: The number of units of every group, by its name.
            pinned: Those that lose nothing whatever is named.

        Raises:
            OptionError: A group has no unit of that number or would lose too many, or an entry
                cannot be read.
            UnknownNameError: There is no such group.
        """
        free = {name: size for name, size in sizes.items() if name not in pinned}
        for name, size in free.items():
            left = size - sum(number < size for number in self.asked(name))
            if self.units and left < min(size, self.minimum):
                raise OptionError(
                    f"group `{name}` cannot lose {size - left} of its {size} units",
                    why=f"`units` names them, and at least {self.minimum} must stay",
                    hint="name fewer, or remove the whole layer with `prune-layers`",
                )
        for entry in self.units:
            pattern, numbers = _entry(entry)
            found = [name for name in sizes if _matches(name, (pattern,))]
            if not found:
                raise UnknownNameError(
                    "group", pattern, sizes, listing="graphopt inspect MODEL --structure"
                )
            for name in found:
                if numbers[-1] >= free.get(name, math.inf):
                    raise OptionError(
                        f"there is no unit {numbers[-1]} in group `{name}`",
                        why=f"it has {free[name]}, counted from 0",
                        hint="list groups with `graphopt inspect MODEL --structure`",
                    )

    def reason(self, score: str) -> str:
        """Say why units went, in a few words, for units ranked by ``score``."""
        if self.units:
            return "by name"
        shared = {"global": " over all groups", "measured": ", as many as the outputs bear"}
        return f"by {score}" + shared.get(self.allocation, "")

    def removals(self, rankings: Sequence[Ranking]) -> list[tuple[int, ...]]:
        """Return the indices of the units that go, for each group."""
        if self.units:
            return [self._named(ranking) for ranking in rankings]
        if self.ratio is None or self.allocation == "uniform":
            counts = [self._count(ranking) for ranking in rankings]
        elif self.allocation == "global":
            counts = self._global_counts(rankings)
        else:
            counts = self._measured_counts(rankings)
        return [ranking.lowest(count) for ranking, count in zip(rankings, counts, strict=True)]

    def _named(self, ranking: Ranking) -> tuple[int, ...]:
        return tuple(number for number in self.asked(ranking.name) if ranking.free[number])

    def asked(self, name: str) -> list[int]:
        """Return the indices of the units of a group that `units` names."""
        entries = [_entry(entry)[1] for entry in self.units if _is_of(name, entry)]
        return sorted({number for numbers in entries for number in numbers})

    def _count(self, ranking: Ranking) -> int:
        total = len(ranking.scores)
        gone = total * self.ratio if self.ratio is not None else float(self.count or 0)
        return self._rounded(total, gone)

    def _rounded(self, total: int, gone: float) -> int:
        """Return how many of ``total`` units go, so that widths and minimum are kept."""
        step = self.multiple if total >= self.multiple else 1
        kept = math.floor((total - gone) / step + 0.5) * step
        least = math.ceil(self.minimum / step) * step
        return total - min(total, max(step, least, kept))

    def alone(self, ranking: Ranking, ratio: float) -> int:
        """Return how many units of a group go where a ratio of each does."""
        total = len(ranking.scores)
        return min(self._rounded(total, total * ratio), int(ranking.free.sum()))

    def _measured_counts(self, rankings: Sequence[Ranking]) -> list[int]:
        """Share out what goes by what cutting each group alone does to the outputs."""
        assert self.ratio is not None
        losses = [self.losses.get(ranking.name, Loss(1.0, ())) for ranking in rankings]
        offered = []
        for ranking in rankings:
            total = len(ranking.scores)
            counts = {self._rounded(total, gone) for gone in range(total + 1)}
            offered.append(sorted({min(count, int(ranking.free.sum())) for count in counts}))
        units = [len(ranking.scores) for ranking in rankings]
        whole = sum(loss.weight * count for loss, count in zip(losses, units, strict=True))
        most = sum(loss.weight * max(some) for loss, some in zip(losses, offered, strict=True))
        share = min(self.ratio * whole / most, 1.0) if most else 0.0
        return cheapest_counts(losses, offered, share)

    def _global_counts(self, rankings: Sequence[Ranking]) -> list[int]:
        """Share out what goes by comparing units of all groups."""
        assert self.ratio is not None
        parts = []
        for number, ranking in enumerate(rankings):
            scaled = _relative(ranking.scores)
            # Those that stay whatever happens: not free, or the best of their group.
            order = [place for place in np.argsort(scaled, kind="stable") if ranking.free[place]]
            order = order[: max(0, len(scaled) - self.minimum)]
            parts += [(float(scaled[place]), number) for place in order]
        total = sum(len(ranking.scores) for ranking in rankings)
        counts = [0] * len(rankings)
        for _, number in sorted(parts)[: math.floor(total * self.ratio + 0.5)]:
            counts[number] += 1
        return [
            self._rounded(len(ranking.scores), count)
            for ranking, count in zip(rankings, counts, strict=True)
        ]


def _relative(scores: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
    mean = float(np.abs(scores).mean()) if scores.size else 0.0
    return scores / mean if mean else scores


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(name == pattern or fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _is_of(name: str, entry: str) -> bool:
    return _matches(name, (_entry(entry)[0],))


def _entry(entry: str) -> tuple[str, range]:
    """Return the group and the indices that an entry of `Selection.units` names.

    Raises:
        OptionError: It cannot be read.
    """
    pattern, _, numbers = entry.rpartition(":")
    first, _, last = numbers.partition("-")
    last = last or first
    if not (pattern and first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
        raise OptionError(
            f"option `units` cannot hold `{entry}`",
            why="expected `GROUP:INDEX` or `GROUP:FIRST-LAST`, indices from 0",
            hint="list groups with `graphopt inspect MODEL --structure`",
        )
    return pattern, range(int(first), int(last) + 1)
