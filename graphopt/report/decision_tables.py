"""Why units stayed or went, as short tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from graphopt.report.figures import format_number
from graphopt.report.text_table import format_table
from graphopt.rewrite import ExitDecision, GroupDecision

__all__ = [
    "DECISION_HEADERS",
    "DECISION_RIGHT",
    "EXIT_HEADERS",
    "EXIT_RIGHT",
    "comparison_headers",
    "comparison_rows",
    "comparison_text",
    "decision_rows",
    "decisions_text",
    "exit_rows",
    "exits_text",
]

_NAMED = 4

DECISION_HEADERS = (
    "group", "units", "gone", "why", "last gone", "first kept", "share", "fit before", "fit after",
)  # fmt: skip
DECISION_RIGHT = (2, 4, 5, 6, 7, 8)
EXIT_HEADERS = ("exit behind", "leave", "spared each", "work on average", "same class", "at least")
EXIT_RIGHT = (1, 2, 3, 4, 5)


def decision_rows(decisions: Sequence[GroupDecision]) -> list[tuple[str, ...]]:
    """Return one row for each group, under `DECISION_HEADERS`.

    ``last gone``: the highest score of a unit that went; ``first kept``: the lowest of one that
    stays; ``share``: of the sum of all scores that went; the fit: the mean over its layers of
    ``E|y - y0|^2 / Var(y0)`` before and after compensation.
    """
    return [_row(decision) for decision in decisions]


def decisions_text(decisions: Sequence[GroupDecision]) -> str:
    """Return the table for a terminal, and one of other scores where these were asked for."""
    table = format_table(DECISION_HEADERS, decision_rows(decisions), right=DECISION_RIGHT)
    return "\n\n".join(filter(None, (table, comparison_text(decisions))))


def comparison_headers(decisions: Sequence[GroupDecision]) -> tuple[str, ...]:
    """Return the headers of `comparison_rows`: a column for each score that was asked for."""
    return ("group", "gone by", *_compared(decisions))


def comparison_rows(decisions: Sequence[GroupDecision]) -> list[tuple[str, ...]]:
    """Return which share of the units that went would have gone by other scores, too.

    One row for each group of which that was asked for. As many go by either score, so that by
    chance the share is that of the group that went.
    """
    names = _compared(decisions)
    return [
        (one.group, one.score, *(format_number(one.agreements.get(name), ".0%") for name in names))
        for one in decisions
        if one.agreements
    ]


def comparison_text(decisions: Sequence[GroupDecision]) -> str:
    """Return the table for a terminal; empty where no other scores were asked for."""
    rows = comparison_rows(decisions)
    if not rows:
        return ""
    headers = comparison_headers(decisions)
    table = format_table(headers, rows, right=tuple(range(2, len(headers))))
    return f"of the units that went, those that other scores would have chosen:\n{table}"


def _compared(decisions: Sequence[GroupDecision]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for one in decisions for name in one.agreements))


def exit_rows(exits: Sequence[ExitDecision]) -> list[tuple[str, ...]]:
    """Return one row for each place where an exit could be, under `EXIT_HEADERS`.

    That of the place that was chosen says what held-out rows came to: the share that leaves, the
    share of all that get the class of the whole model, and its lower bound at 95 % confidence. Of
    the others is told what the rows say that thresholds were chosen by.
    """
    return [row for found in exits for row in _exit_rows(found)]


def exits_text(exits: Sequence[ExitDecision]) -> str:
    """Return the table for a terminal."""
    return format_table(EXIT_HEADERS, exit_rows(exits), right=EXIT_RIGHT)


def _exit_rows(found: ExitDecision) -> Iterator[tuple[str, ...]]:
    for place in found.places:
        spared = format_number(place.spared, ".1%")
        if place.block != found.block:
            work = format_number(1.0 - place.leaving * place.spared, ".1%")
            leaving = format_number(place.leaving, ".1%")
            yield (place.block, leaving, spared, work, "-", "-")
            continue
        yield (
            f"{place.block} (chosen)",
            format_number(found.leaving, ".1%"),
            spared,
            format_number(found.mean_work, ".1%"),
            format_number(found.agreeing / found.rows, ".2%"),
            format_number(found.bound, ".2%"),
        )


def _row(decision: GroupDecision) -> tuple[str, ...]:
    removed = set(decision.removed)
    # Units that were named are not ranked.
    gone = [decision.scores[place] for place in decision.removed if decision.scores]
    kept = [score for place, score in enumerate(decision.scores) if place not in removed]
    return (
        decision.group,
        decision.kind,
        f"{len(removed)} of {decision.count}",
        _why(decision),
        format_number(max(gone, default=None), ".3g"),
        format_number(min(kept, default=None), ".3g"),
        format_number(decision.predicted, ".1%"),
        format_number(_mean([fit.before for fit in decision.fits]), ".3g"),
        format_number(_mean([fit.after for fit in decision.fits]), ".3g"),
    )


def _why(decision: GroupDecision) -> str:
    """Return the reason, and which units it was where they have names."""
    if not decision.names:
        return decision.reason
    names = [decision.names[place] for place in decision.removed]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{decision.reason}: {', '.join(names[:_NAMED])}{more}"


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
