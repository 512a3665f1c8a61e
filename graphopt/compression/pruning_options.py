"""What passes that remove units are told."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.compression.unit_budget import Budget
from graphopt.compression.unit_scores import MEASURED_SCORES
from graphopt.compression.unit_selection import Selection

__all__ = ["COMPENSATIONS", "SCORE_NAMES", "PruningOptions", "needs_samples"]

SCORE_NAMES = ("random", "l1", "l2", "activation", "wanda", "flap")
COMPENSATIONS = ("off", "bias", "least-squares")


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
    """

    kind: str
    selection: Selection
    budget: Budget | None
    score: str
    compensation: str
    ridge: float
    seed: int


def needs_samples(options: PruningOptions) -> bool:
    """Tell whether calibration samples are needed."""
    is_measured = options.budget is not None and options.budget.of == "error"
    return is_measured or options.score in MEASURED_SCORES or options.compensation != "off"
