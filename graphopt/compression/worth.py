"""Which parts of a model are worth twice the work: those without which noise falls most."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["worth_twice"]

_TENTHS = 10.0
_LEAST = 1e-12  # of the noise is left in any case, so that its logarithm is finite


def worth_twice(
    noise: Sequence[float],
    rest: float,
    work: Sequence[float],
    price_db: float,
    *,
    most: float = 1.0,
) -> frozenset[int]:
    """Return which parts are worth their work done twice, after which they make no noise.

    Args:
        noise: Of each part alone.
        rest: Noise that stays in any case.
        work: Of each part, in any unit, positive.
        price_db: By how much the whole must fall for a tenth of the whole work.
        most: Share of the work that may be done twice.
    """
    order = sorted(range(len(noise)), key=lambda part: -noise[part] / work[part])
    whole = rest + sum(noise)
    left, spent, best, chosen = whole, 0.0, 0.0, 0
    # One part may not be worth it while others drown what it gains: it is the sum that counts.
    for number, part in enumerate(order, start=1):
        left -= noise[part]
        spent += work[part]
        if spent > most * sum(work):
            break
        gain_db = 10.0 * math.log10(whole / max(left, whole * _LEAST)) if whole else 0.0
        gain_db -= price_db * _TENTHS * spent / sum(work)
        if gain_db > best:
            best, chosen = gain_db, number
    return frozenset(order[:chosen])
