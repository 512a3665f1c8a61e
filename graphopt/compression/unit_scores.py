"""How much a model would miss each unit: the scores by which pruning chooses.

Every score sums what belongs to a unit over all its indices: 64 rows of a head, one of a neuron.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from graphopt.compression.contractions import Contraction
from graphopt.rewrite import ChannelMoments

__all__ = ["MEASURED_SCORES", "MOMENT_SCORES", "SCORES", "unit_scores"]

Array = npt.NDArray[np.float64]
Inputs = Sequence[tuple[Contraction, ChannelMoments | None]]


def _norms(contraction: Contraction) -> Array:
    """Return the squared Euclidean norm of what each index is multiplied by."""
    return np.asarray(np.square(contraction.rows(), dtype=np.float64).sum(axis=1))


def _moments(moments: ChannelMoments | None) -> ChannelMoments:
    assert moments is not None
    return moments


def _l1(inputs: Inputs) -> list[Array]:
    return [np.abs(item.rows()).sum(axis=1, dtype=np.float64) for item, _ in inputs]


def _l2(inputs: Inputs) -> list[Array]:
    return [_norms(item) for item, _ in inputs]


def _activation(inputs: Inputs) -> list[Array]:
    return [_moments(found).second for item, found in inputs]


def _wanda(inputs: Inputs) -> list[Array]:
    return [_moments(found).second * _norms(item) for item, found in inputs]


def _flap(inputs: Inputs) -> list[Array]:
    return [_moments(found).variance * _norms(item) for item, found in inputs]


SCORES: dict[str, Callable[[Inputs], list[Array]]] = {
    "l1": _l1,
    "l2": _l2,
    "activation": _activation,
    "wanda": _wanda,
    "flap": _flap,
}
"""``l1``, ``l2``: weights that read the unit (Li et al. 2017, section 3.1). ``activation``: energy
of what it computes. ``wanda``: both together (Sun et al. 2024, equation 1, summed over a unit).
``flap``: its fluctuation in place of its energy (An et al. 2024, equation 5)."""

MOMENT_SCORES = frozenset({"activation", "wanda", "flap"})
"""Scores that need moments of what enters layers."""

MEASURED_SCORES = MOMENT_SCORES | {"obs", "gradient"}
"""Scores that need samples. ``obs`` is computed by `graphopt.compression.obs`, ``gradient`` by
`graphopt.training.unit_gradients` (the Fisher information of the mask of a unit, Kwon et al. 2022,
equation 6)."""


def unit_scores(name: str, inputs: Inputs, members: Sequence[Array]) -> Array:
    """Return one score for each unit of a group; the least is missed least.

    Args:
        name: One of `SCORES`.
        inputs: Where sums run over the units, with moments of what enters where they are needed.
        members: For each of them the number of the unit of each index, from 0.
    """
    count = 1 + max(int(units.max()) for units in members)
    total = np.zeros(count)
    for values, units in zip(SCORES[name](inputs), members, strict=True):
        total += np.bincount(units, weights=values, minlength=count)
    return total
