"""Choosing among measured candidates."""

from __future__ import annotations

import math
from collections.abc import Iterable

from graphopt.search.measure import Measured
from graphopt.targets import ENOUGH_DB

__all__ = ["choose"]

SIMILAR_LATENCY = 0.05
"""Latency ratios closer than this count as equal; the smaller file then wins."""

SIMILAR_SIZE = 0.01
"""Files closer in size than this count as equal; the candidate that the target names first wins."""


_HALF_DB = 10 * math.log10(2.0)

_BEYOND_DB = 9.0
_BEYOND_SHARE = 0.25


def choose(
    candidates: Iterable[Measured],
    worth_of_3_db: float = 1.0,
    *,
    enough_db: float = ENOUGH_DB,
    in_order: bool = False,
) -> Measured | None:
    """Return the best candidate that passes the correctness gates, or ``None``.

    Candidates that meet every gate come first, and among these, where any is surely faster than the
    original by more than 5 %, such ones and those that are as fast as they. Among equals the
    fastest wins, by wall or CPU time, whichever is known better; where the fastest are within 5 %
    of each other, or the intervals of their ratios overlap, or nothing was timed without noise, the
    smallest of them does.
    Of those within 1 % of the smallest, the target names the better one first.

    Args:
        candidates: All that were measured.
        worth_of_3_db: Latencies and sizes are compared as if those of outputs with half the error
            were so many times smaller.
        enough_db: Signal-to-noise ratio from which on more of it is worth a quarter of that, and
            after 9 dB nothing.
        in_order: The first one is the best, as the target names them: for targets that are not on
            this machine, where size alone would prefer what is only small.
    """
    correct = [candidate for candidate in candidates if candidate.is_correct]
    # A goal that nobody meets rules nobody out: what is written then is marked as having missed it.
    pool = [candidate for candidate in correct if candidate.meets_gates] or correct
    if not pool:
        return None
    if in_order:
        return pool[0]
    # Who asks for a faster model is not served by an accurate one that is none.
    pool = _without_slow_ones(pool)
    # Accuracy is worth time, and where nobody timed anything there is none to pay with.
    worth = worth_of_3_db if any(item.latency is not None for item in pool) else 1.0
    bonus = {id(item): _accuracy_bonus(item, worth, enough_db) for item in pool}
    # Where nobody gains time there is none to pay with either: a quarter of the size at the same
    # speed is not lost for decibels that the gates do not ask for.
    paid = bonus if any(map(_is_clearly_faster, pool)) else dict.fromkeys(bonus, 1.0)
    fastest = min(pool, key=lambda item: _latency_ratio(item) / paid[id(item)])
    similar = [
        item for item in pool if _is_as_fast(item, fastest, paid[id(fastest)] / paid[id(item)])
    ]
    # On a busy machine all are similar: two per cent of size must not cost ten decibels.
    sizes = {id(item): item.size_ratio / bonus[id(item)] for item in similar}
    smallest = min(sizes.values())
    return next(item for item in similar if sizes[id(item)] <= smallest * (1 + SIMILAR_SIZE))


def _accuracy_bonus(item: Measured, worth_of_3_db: float, enough_db: float) -> float:
    """Return by how much a latency counts as shorter for the accuracy of the outputs."""
    if worth_of_3_db == 1.0:
        return 1.0
    sqnr_db = item.comparison.errors.worst_sqnr_db()
    decibels = max(math.inf if sqnr_db is None else sqnr_db, 0.0)
    # Nobody pays half of the speed to go from 27 to 49 dB, but a little for 44 rather than 41.
    beyond = _BEYOND_SHARE * min(max(decibels - enough_db, 0.0), _BEYOND_DB)
    return float(worth_of_3_db ** ((min(decibels, enough_db) + beyond) / _HALF_DB))


def _is_as_fast(item: Measured, fastest: Measured, handicap: float) -> bool:
    """Tell whether no difference in speed is sure: floats stored otherwise run as they did.

    Args:
        item: Any candidate.
        fastest: The best.
        handicap: What the latency of `item` is multiplied by for the accuracy of both.
    """
    if _latency_ratio(item) * handicap <= _latency_ratio(fastest) * (1 + SIMILAR_LATENCY):
        return True
    mine, best = item.latency, fastest.latency
    if mine is None or best is None or "too-noisy" in (mine.verdict, best.verdict):
        return False
    return mine.surest.low * handicap <= best.surest.high


def _without_slow_ones(pool: list[Measured]) -> list[Measured]:
    """Leave out what is no faster than the original, and surely slower than one that is."""
    faster = [item for item in pool if _is_clearly_faster(item)]
    if not faster:
        return pool
    fastest = min(faster, key=_latency_ratio)
    return [item for item in pool if _is_clearly_faster(item) or _is_as_fast(item, fastest, 1.0)]


def _is_clearly_faster(item: Measured) -> bool:
    """Tell whether a candidate is faster than the original by more than counts as equal."""
    latency = item.latency
    if latency is None or latency.verdict != "faster":  # which it is where its interval says so
        return False
    return latency.surest.ratio <= 1 - SIMILAR_LATENCY


def _latency_ratio(candidate: Measured) -> float:
    """Return the ratio that is known; that of an untimed or noisily timed candidate is not."""
    latency = candidate.latency
    # 1, the original's own: a candidate of which nothing is known is no faster.
    return 1.0 if latency is None or latency.verdict == "too-noisy" else latency.surest.ratio
