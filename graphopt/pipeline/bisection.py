"""Finding the pass, then the edit, after which a group is no longer good."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Guilty", "Span", "find_guilty"]

Span = tuple[int, int]
"""Transactions numbered before and after a step."""

IsGood = Callable[[int, int | None], bool]


@dataclass(frozen=True)
class Guilty:
    """The first thing after which the result is bad.

    Attributes:
        step: Index of the step; ``None`` where the state before the first step is bad already.
        edit: Number of the transaction; ``None`` where the step is bad with all its transactions
            discarded, which means that it changed the model behind the editor's back.
    """

    step: int | None
    edit: int | None = None


def find_guilty(spans: list[Span], is_good: IsGood) -> Guilty:
    """Search by bisection, in about log2(steps) + log2(edits of the guilty step) replays.

    Args:
        spans: For each step the transactions numbered before and after it; the whole is bad.
        is_good: Replays the first ``steps`` steps, with transactions beyond ``edits`` discarded
            where that is a number, and judges the result.
    """
    # The state before all steps first: where that is bad no pass is guilty, and a search would name
    # one.
    if not is_good(0, None):
        return Guilty(None)
    step = _first_bad(0, len(spans), lambda count: is_good(count, None))
    before, after = spans[step - 1]
    # With none of its transactions, and bad all the same: what it did went past the editor.
    if not is_good(step, before):
        return Guilty(step - 1)
    return Guilty(step - 1, _first_bad(before, after, lambda limit: is_good(step, limit)))


def _first_bad(good: int, bad: int, is_good: Callable[[int], bool]) -> int:
    """Return the smallest bad number above ``good``, given that ``bad`` is bad."""
    while bad - good > 1:
        middle = (good + bad) // 2
        if is_good(middle):
            good = middle
        else:
            bad = middle
    return bad
