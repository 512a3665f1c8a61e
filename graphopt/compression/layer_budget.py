"""How many layers go, so that a model costs no more than it may or its outputs bear it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from graphopt.compression.unit_budget import Budget

__all__ = ["Affordable", "layers_within", "nearest_cost"]


class Affordable(NamedTuple):
    """How many layers a budget lets go.

    Attributes:
        gone: Of an error as many as it allows, of a share as few as it asks for; 0: none.
        costs: Every number tried, with what it costs.
    """

    gone: int
    costs: Mapping[int, float]


def layers_within(budget: Budget, most: int, cost: Callable[[int], float]) -> Affordable:
    """Find how many layers go, by bisection over their number.

    Args:
        budget: The budget. An error grows with the number of layers gone, a share shrinks.
        most: Layers that may go.
        cost: What the model costs without so many; NaN where that cannot be told.
    """
    is_error = budget.of == "error"
    costs: dict[int, float] = {}
    found, low, high = 0, 1, most
    while low <= high:
        middle = (low + high) // 2
        costs[middle] = cost(middle)
        is_met = costs[middle] <= budget.limit  # NaN meets nothing
        found = middle if is_met else found
        # More may go where an error is met; more must where a share is not.
        if is_met is is_error:
            low = middle + 1
        else:
            high = middle - 1
    return Affordable(found, costs)


def nearest_cost(found: Affordable) -> float:
    """Return the least cost of what was tried; NaN where none is known."""
    return min((cost for cost in found.costs.values() if not math.isnan(cost)), default=math.nan)
