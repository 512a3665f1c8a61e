"""Why units stayed or went, as short tables."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.report.figures import format_number
from graphopt.report.text_table import format_table
from graphopt.rewrite import GroupDecision

__all__ = ["DECISION_HEADERS", "DECISION_RIGHT", "decision_rows", "decisions_text"]

DECISION_HEADERS = (
    "group", "units", "gone", "why", "last gone", "first kept", "share", "fit before", "fit after",
)  # fmt: skip
DECISION_RIGHT = (2, 4, 5, 6, 7, 8)


def decision_rows(decisions: Sequence[GroupDecision]) -> list[tuple[str, ...]]:
    """Return one row for each group, under `DECISION_HEADERS`.

    ``last gone``: the highest score of a unit that went; ``first kept``: the lowest of one that
    stays; ``share``: of the sum of all scores that went; the fit: the mean over its layers of
    ``E|y - y0|^2 / Var(y0)`` before and after compensation.
    """
    return [_row(decision) for decision in decisions]


def decisions_text(decisions: Sequence[GroupDecision]) -> str:
    """Return the table for a terminal."""
    return format_table(DECISION_HEADERS, decision_rows(decisions), right=DECISION_RIGHT)


def _row(decision: GroupDecision) -> tuple[str, ...]:
    removed = set(decision.removed)
    gone = [decision.scores[place] for place in decision.removed]
    kept = [score for place, score in enumerate(decision.scores) if place not in removed]
    return (
        decision.group,
        decision.kind,
        f"{len(removed)} of {len(decision.scores)}",
        decision.reason,
        format_number(max(gone, default=None), ".3g"),
        format_number(min(kept, default=None), ".3g"),
        format_number(decision.predicted, ".1%"),
        format_number(_mean([fit.before for fit in decision.fits]), ".3g"),
        format_number(_mean([fit.after for fit in decision.fits]), ".3g"),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
