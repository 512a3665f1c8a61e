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
    are within 5 % of each other, or nothing was timed without noise, the smallest of them does.
    Of those within 1 % of the smallest, the target names the better one first.
    """
    correct = [candidate for candidate in candidates if candidate.is_correct]
    pool = [candidate for candidate in correct if candidate.meets_gates] or correct
    if not pool:
        return None
    fastest = min(_latency_ratio(candidate) for candidate in pool)
    similar = [item for item in pool if _latency_ratio(item) <= fastest * (1 + SIMILAR_LATENCY)]
    smallest = min(candidate.size_ratio for candidate in similar)
    return next(item for item in similar if item.size_ratio <= smallest * (1 + SIMILAR_SIZE))


def _latency_ratio(candidate: Measured) -> float:
    """Return the ratio that is known; that of an untimed or noisily timed candidate is not."""
    latency = candidate.latency
    return 1.0 if latency is None or latency.verdict == "too-noisy" else latency.ratio
