"""Choosing among measured candidates."""

from __future__ import annotations

from collections.abc import Iterable

from graphopt.search.measure import Measured

__all__ = ["choose"]

SIMILAR_LATENCY = 0.05
"""Latency ratios closer than this count as equal; the smaller file then wins."""

SIMILAR_SIZE = 0.01
"""Files closer in size than this count as equal; the candidate that the target names first wins."""


def choose(candidates: Iterable[Measured]) -> Measured | None:
    """Return the best candidate that passes the correctness gates, or ``None``.

    Candidates that meet every gate come first. Among equals the fastest wins; where the fastest
    are within 5 % of each other, or the intervals of their ratios overlap, or nothing was timed
    without noise, the smallest of them does.
    Of those within 1 % of the smallest, the target names the better one first.
    """
    correct = [candidate for candidate in candidates if candidate.is_correct]
    pool = [candidate for candidate in correct if candidate.meets_gates] or correct
    if not pool:
        return None
    fastest = min(pool, key=_latency_ratio)
    similar = [item for item in pool if _is_as_fast(item, fastest)]
    smallest = min(candidate.size_ratio for candidate in similar)
    return next(item for item in similar if item.size_ratio <= smallest * (1 + SIMILAR_SIZE))


def _is_as_fast(item: Measured, fastest: Measured) -> bool:
    """Tell whether no difference in speed is sure: floats stored otherwise run as they did."""
    if _latency_ratio(item) <= _latency_ratio(fastest) * (1 + SIMILAR_LATENCY):
        return True
    mine, best = item.latency, fastest.latency
    if mine is None or best is None or "too-noisy" in (mine.verdict, best.verdict):
        return False
    return mine.ratio_low <= best.ratio_high


def _latency_ratio(candidate: Measured) -> float:
    """Return the ratio that is known; that of an untimed or noisily timed candidate is not."""
    latency = candidate.latency
    return 1.0 if latency is None or latency.verdict == "too-noisy" else latency.ratio
