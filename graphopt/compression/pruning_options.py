"""What passes that remove units are told."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from graphopt.compression.unit_budget import Budget
from graphopt.compression.unit_scores import MEASURED_SCORES
from graphopt.compression.unit_selection import Ranking, Selection

__all__ = ["COMPENSATIONS", "SCORE_NAMES", "PruningOptions", "needs_samples"]

SCORE_NAMES = ("random", "l1", "l2", "activation", "wanda", "flap", "gradient", "obs")
COMPENSATIONS = ("off", "bias", "least-squares", "best")
"""``best``: of each layer whichever of the others, and of three ridges, does best on samples that
were held out."""


@dataclass(frozen=True)
class PruningOptions:
    """What a pass that removes units is told.

    Attributes:
        kind: ``heads``, ``neurons`` or ``channels``.
        selection: How many units go, or which.
        budget: What the model may cost at most; the ratio of `selection` is then found. ``None``:
            `selection` says it.
        score: One of `SCORE_NAMES`.
        compensation: One of `COMPENSATIONS`.
        ridge: Of least squares.
        seed: Of random scores.
        curves: Measure what cutting each group alone does to the outputs.
        caches: Heads of caches that the model takes and hands on may go.
        compare: Other scores by which units are ranked, for the record alone.
        rankings: Of groups whose units were ranked before, by name: trials on copies of one model
            need not rank them again.
    """

    kind: str
    selection: Selection
    budget: Budget | None
    score: str
    compensation: str
    ridge: float
    seed: int
    curves: bool = False
    caches: bool = False
    compare: tuple[str, ...] = ()
    rankings: Mapping[str, Ranking] = field(default_factory=dict)

    def most_removed(self, count: int) -> int:
        """Return how many of so many units may go at most, so that no more need be put in order."""
        chosen = self.selection
        if self.budget is None and chosen.ratio is not None and chosen.allocation == "uniform":
            return min(count, math.ceil(chosen.ratio * count) + chosen.multiple)
        return min(count, chosen.count) if chosen.count is not None else count


def needs_samples(options: PruningOptions) -> bool:
    """Tell whether calibration samples are needed."""
    is_bound = options.budget is not None and options.budget.of == "error"
    is_measured = is_bound or options.curves or options.selection.allocation == "measured"
    is_scored = any(score in MEASURED_SCORES for score in (options.score, *options.compare))
    return is_measured or is_scored or options.compensation != "off"
