"""Ranking units by what least squares cannot make up for when they go.

    Delta(S) = tr(W_S^T (H^-1_SS)^-1 W_S)
    W    <- W    - H^-1_:,S (H^-1_SS)^-1 W_S
    H^-1 <- H^-1 - H^-1_:,S (H^-1_SS)^-1 H^-1_S,:

H: covariance of what enters a layer, as its bias makes up for means; W: its weight, one row for
each input; S: the inputs that belong to one unit. Units go one after the other, the one with the
least Delta first, and those that are left take over as much of it as they can (Kurtic et al. 2023,
*ZipLM*, equations 1 to 3; Hassibi and Stork 1993).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["ObsLayer", "removal_scores"]

Array = npt.NDArray[np.float64]

_DAMPING = 1e-2  # of the mean variance of an input, as least squares is damped
_STEPS = 64  # units that go at once, one in so many of those left: their order hardly changes


@dataclass(frozen=True, eq=False)
class ObsLayer:
    """A layer that sums over units.

    Attributes:
        covariance: Of what enters, float64[inputs, inputs].
        weight: float64[inputs, outputs].
        units: int64[inputs], the unit of each input, from 0.
    """

    covariance: Array
    weight: Array
    units: npt.NDArray[Any]


def removal_scores(layers: Sequence[ObsLayer], count: int, removed: int) -> Array:
    """Return one score for each unit: the order in which they go, and by what error.

    Scores of units that go are the error that has to be taken for each at its turn, or that of
    one before it where that is larger; all others score higher.

    Args:
        layers: Those that sum over the units; errors are summed over them.
        count: Units.
        removed: How many go.

    Raises:
        numpy.linalg.LinAlgError: A covariance is not finite.
    """
    states = [_State(layer, count) for layer in layers]
    scores, alive, reached = np.full(count, np.nan), np.ones(count, bool), 0.0
    left = min(removed, count - 1)
    while left > 0:
        errors = np.where(alive, sum(state.errors() for state in states), np.inf)
        going = np.argsort(errors, kind="stable")[: min(left, max(1, int(alive.sum()) // _STEPS))]
        for unit in going.tolist():
            reached = float(np.nextafter(max(reached, errors[unit]), np.inf))
            scores[unit] = reached
        alive[going] = False
        left -= len(going)
        for state in states:
            state.remove(going)
    errors = sum((state.errors() for state in states), np.zeros(count))
    scores[alive] = reached + np.maximum(errors[alive], 0.0)
    return scores


class _State:
    """A layer while units go from it."""

    def __init__(self, layer: ObsLayer, count: int) -> None:
        size = len(layer.covariance)
        # Where nothing ever varies there is nothing to invert: weights alone decide then.
        damping = _DAMPING * float(np.diag(layer.covariance).mean()) or 1.0
        self._inverse = np.linalg.inv(layer.covariance + damping * np.eye(size))
        self._weight = layer.weight.astype(np.float64)
        self._units, self._count = np.asarray(layer.units), count

    def errors(self) -> Array:
        """Return for each unit what its removal would cost now; 0 for units that went."""
        found = np.zeros(self._count)
        sizes = np.bincount(self._units, minlength=self._count)
        order = np.argsort(self._units, kind="stable")
        starts = np.concatenate([[0], np.cumsum(sizes)])
        for size in np.unique(sizes[sizes > 0]).tolist():
            units = np.flatnonzero(sizes == size)
            places = order[starts[units][:, None] + np.arange(size)]  # (units, size)
            found[units] = self._costs(places)
        return found

    def _costs(self, places: npt.NDArray[np.int64]) -> Array:
        """Return ``tr(W_S^T (H^-1_SS)^-1 W_S)`` for each row of inputs ``S``."""
        weights = self._weight[places]  # (units, size, outputs)
        if places.shape[1] == 1:
            rows = places[:, 0]
            return np.asarray(np.square(weights[:, 0]).sum(axis=1) / self._inverse[rows, rows])
        blocks = self._inverse[places[:, :, None], places[:, None, :]]
        return np.asarray(np.einsum("usn,usn->u", weights, np.linalg.solve(blocks, weights)))

    def remove(self, going: npt.NDArray[Any]) -> None:
        """Take units away, and let those that are left make up for them."""
        goes = np.isin(self._units, going)
        if not goes.any():
            return
        inverse, stays = self._inverse, ~goes
        both = inverse[np.ix_(stays, goes)] @ np.linalg.inv(inverse[np.ix_(goes, goes)])
        self._weight = self._weight[stays] - both @ self._weight[goes]
        self._inverse = inverse[np.ix_(stays, stays)] - both @ inverse[np.ix_(goes, stays)]
        self._units = self._units[stays]
