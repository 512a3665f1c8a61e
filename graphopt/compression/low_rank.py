"""A matrix as the product of two thin ones, near in what it makes of its inputs.

Wang et al. 2024, "SVD-LLM: Truncation-aware Singular Value Decomposition for Large Language Model
Compression", section 3.1: with ``C = S S^T`` the covariance of the inputs and ``S^T W = U D V``,
the error of the output, ``E[(x W - x A B)^2]``, of ``A B = S^-T U_r D_r V_r`` is the sum of the
squares of the singular values that are left out, and no other product of that rank has less.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Decomposition", "decompose", "followed_matrix", "rank_of_ratio"]

Array = npt.NDArray[np.float64]
_MOST_DAMPING = 1.0


@dataclass(frozen=True)
class Decomposition:
    """All factors of a matrix, the most important ones first.

    Attributes:
        first: ``(inputs, n)``.
        second: ``(n, outputs)``; ``first @ second`` is the matrix.
        values: Singular values, ``(n,)``, descending: of what comes out, in units of its size.
    """

    first: Array
    second: Array
    values: Array

    def rank_of_energy(self, energy: float) -> int:
        """Return the least rank that keeps a share of the energy of what comes out, at least 1."""
        reached = np.cumsum(np.square(self.values))
        return int(np.searchsorted(reached, energy * reached[-1] * (1 - 1e-12))) + 1

    def lost_share(self, rank: int) -> float:
        """Return the share of the energy of what comes out that a rank loses."""
        squares = np.square(self.values)
        whole = float(squares.sum())
        return float(squares[rank:].sum()) / whole if whole > 0.0 else 0.0

    def factors(self, rank: int) -> tuple[Array, Array]:
        """Return ``(inputs, rank)`` and ``(rank, outputs)``."""
        return self.first[:, :rank], self.second[:rank]


def decompose(
    matrix: npt.NDArray[Any], covariance: Array | None = None, *, damping: float = 1e-6
) -> Decomposition | None:
    """Return the factors of ``matrix``, in double precision.

    Args:
        matrix: ``(inputs, outputs)``.
        covariance: Of the inputs, ``(inputs, inputs)``; ``None``: all alike, and independent.
        damping: Share of the mean of its diagonal that is added to it; ten times as much while it
            has no Cholesky factor.

    Returns:
        The factors; ``None`` where the covariance is 0 or not finite.
    """
    whole = matrix.astype(np.float64)
    lower: Array | None = np.eye(len(whole))
    if covariance is not None:
        lower = _cholesky(covariance, damping)
    if lower is None:
        return None
    left, values, right = np.linalg.svd(lower.T @ whole, full_matrices=False)
    # Signs are free: fixed here, they are the same under every library.
    signs = np.sign(right[np.arange(len(right)), np.abs(right).argmax(axis=1)])
    left, right = left * signs, right * signs[:, None]
    if covariance is not None:
        left = np.linalg.solve(lower.T, left)
    # Both factors get the root of each value: neither holds all the large numbers.
    roots = np.sqrt(values)
    return Decomposition(left * roots, roots[:, None] * right, values)


def _cholesky(covariance: Array, damping: float) -> Array | None:
    mean = float(np.diagonal(covariance).mean()) if len(covariance) else 0.0
    if not (np.isfinite(covariance).all() and mean > 0.0):
        return None
    while damping <= _MOST_DAMPING:
        try:
            damped: Array = covariance + np.eye(len(covariance)) * (damping * mean)
            found: Array = np.asarray(np.linalg.cholesky(damped), np.float64)
        except np.linalg.LinAlgError:
            damping *= 10.0
        else:
            return found
    return None


def rank_of_ratio(inputs: int, outputs: int, ratio: float) -> int:
    """Return the largest rank whose factors have at most a share of the weights, at least 1."""
    return max(int(ratio * inputs * outputs / (inputs + outputs)), 1)


def followed_matrix(
    matrix: npt.NDArray[Any], covariance: Array, cross: Array, *, ridge: float
) -> Array:
    """Return the matrix that makes of changed inputs what ``matrix`` makes of the original ones.

    Anchored least squares, ``W + (C + r I)^-1 (D - C) W``: drawn towards ``W``, not towards 0.

    Args:
        matrix: ``W``, ``(inputs, outputs)``.
        covariance: ``C`` of the changed inputs, ``(inputs, inputs)``.
        cross: ``D``, the covariance of changed inputs with the original ones.
        ridge: ``r`` over the mean of the diagonal of ``C``.
    """
    whole = matrix.astype(np.float64)
    pull = max(ridge * float(np.diagonal(covariance).mean()), np.finfo(np.float64).tiny)
    system = covariance + pull * np.eye(len(covariance))
    found: Array = whole + np.linalg.solve(system, (cross - covariance) @ whole)
    return found
