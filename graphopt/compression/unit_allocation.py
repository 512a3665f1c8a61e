"""How many units of each group go, so that the outputs lose least for what is saved.

What cutting each group alone by some numbers of units does to the outputs is measured. Losses of
groups are taken to add up, as small ones nearly do, and the numbers with the least sum among those
that save enough are found by dynamic programming (the multiple-choice knapsack problem; Frantar and
Alistarh 2022, *SPDY*, section 3.2, with a saving in place of a time).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Loss", "cheapest_counts"]

Array = npt.NDArray[Any]

_BUCKETS = 10_000
"""Savings are told apart to this part of all that can be saved, by each group."""
_MOST_LEVELS = 64


@dataclass(frozen=True)
class Loss:
    """What becomes of the outputs, and of the model, as one group loses units.

    Attributes:
        weight: What one unit saves, such as the weights that lie on it; positive.
        points: Numbers of units with the squared error of the outputs, ``E|y - y0|^2 / E|y0|^2``,
            once they are gone and made up for; NaN where that could not be told.
    """

    weight: float
    points: tuple[tuple[int, float], ...]

    def at(self, counts: Array) -> Array:
        """Return the loss of some numbers of units, between those that were measured.

        Beyond the last known point and at an unknown one it is infinite: no unit goes on a guess.
        """
        known = [(0, 0.0)]
        for count, error in sorted(self.points):
            if not math.isfinite(error):
                break
            # More units are never less of a loss: what says so is noise.
            known.append((count, max(error, known[-1][1])))
        places, errors = (np.array(part, np.float64) for part in zip(*known, strict=True))
        found: Array = np.interp(counts, places, errors)
        found[counts > places[-1]] = math.inf
        return found


def cheapest_counts(
    losses: Sequence[Loss], offered: Sequence[Sequence[int]], share: float
) -> list[int]:
    """Return how many units of each group go.

    Args:
        losses: Of each group.
        offered: Numbers of units that may go of each; 0 is always one of them.
        share: Part of what all units of all groups save that must be saved, in [0, 1].

    Returns:
        The numbers with the least sum of losses of all that save so much, but for a bucket of
        `_BUCKETS` for each group; where none does, those that save the most.
    """
    choices = [_thinned(sorted({0, *counts})) for counts in offered]
    sizes = [max(counts) for counts in offered]
    whole = sum(loss.weight * size for loss, size in zip(losses, sizes, strict=True))
    if not whole > 0.0:
        return [0] * len(losses)
    best = np.full(_BUCKETS + 1, math.inf)
    best[0] = 0.0
    picks: list[Array] = []
    for loss, counts in zip(losses, choices, strict=True):
        saved = np.floor(np.array(counts) * loss.weight / whole * _BUCKETS + 1e-9).astype(int)
        costs = loss.at(np.array(counts, np.float64))
        then, pick = np.full_like(best, math.inf), np.zeros(len(best), np.intp)
        for place, (step, cost) in enumerate(zip(saved.tolist(), costs.tolist(), strict=True)):
            moved = np.full_like(best, math.inf)
            moved[step:] = best[: len(best) - step] + cost
            is_better = moved < then  # of equal ones the first, which removes less
            then[is_better], pick[is_better] = moved[is_better], place
        best = then
        picks.append(pick)
    wanted = max(math.floor(share * _BUCKETS) - len(losses), 0)
    reached = np.flatnonzero(np.isfinite(best))
    enough = reached[reached >= wanted]
    bucket = int(enough[np.argmin(best[enough])]) if len(enough) else int(reached[-1])
    return _traced(losses, choices, picks, whole, bucket)


def _traced(
    losses: Sequence[Loss],
    choices: Sequence[Sequence[int]],
    picks: Sequence[Array],
    whole: float,
    bucket: int,
) -> list[int]:
    """Return what was picked on the way to a bucket."""
    found = []
    for loss, counts, pick in zip(
        reversed(losses), reversed(choices), reversed(picks), strict=True
    ):
        count = counts[int(pick[bucket])]
        found.append(count)
        bucket -= math.floor(count * loss.weight / whole * _BUCKETS + 1e-9)
    return found[::-1]


def _thinned(counts: Sequence[int]) -> Sequence[int]:
    """Return so many of the numbers as are worth telling apart, first and last among them."""
    if len(counts) <= _MOST_LEVELS:
        return counts
    places = np.linspace(0, len(counts) - 1, _MOST_LEVELS).round().astype(int)
    return [counts[place] for place in places.tolist()]
