"""How much each weight can make up for errors of those before it: a factor of an inverse."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["inverse_factor"]

_MOST_DAMPING = 1.0
_SMALL = 32  # half the length below which halving a matrix is no faster


def inverse_factor(
    gram: npt.NDArray[np.float64], damping: float = 0.01
) -> npt.NDArray[np.float32] | None:
    """Return the upper ``U`` with ``U^T U = inverse(H + damping mean(diag H) I)``.

    Frantar et al. 2023, "GPTQ", section 3.3, step 3: changing weight ``j`` by ``-e`` is best made
    up for by changing every later weight ``k`` by ``-e U[j,k] / U[j,j]``, and then costs
    ``(e / U[j,j])^2``.

    Args:
        gram: ``H = E[x x^T]`` of what the weight is multiplied by, ``(length, length)``.
        damping: Share of the mean of the diagonal; ten times as much while no factor exists.

    Returns:
        float32, ``(length, length)``; ``None`` where the inputs tell nothing: they were all 0, or
        not finite.
    """
    mean = float(np.diagonal(gram).mean()) if len(gram) else 0.0
    if not (np.isfinite(gram).all() and mean > 0.0):
        return None
    while damping <= _MOST_DAMPING:
        damped = gram.copy()
        damped[np.diag_indices(len(gram))] += damping * mean
        try:
            # Factors of the reversed matrix are upper ones of the matrix: no inverse of it, whose
            # factor might not exist after rounding, is ever formed.
            lower = np.asarray(np.linalg.cholesky(damped[::-1, ::-1]), np.float64)
        except np.linalg.LinAlgError:
            damping *= 10.0
            continue
        _invert_lower(lower)
        factor: npt.NDArray[np.float32] = lower[::-1, ::-1].astype(np.float32)
        return factor
    return None


def _invert_lower(lower: npt.NDArray[np.float64]) -> None:
    """Invert a lower triangular matrix in place.

    By halves, ``[[A, 0], [C, B]]^-1 = [[A^-1, 0], [-B^-1 C A^-1, B^-1]]``: a quarter of the work of
    an inverse that does not know of the zeros, and nearly all of it in products.
    """
    half = len(lower) // 2
    if half < _SMALL:
        lower[...] = np.tril(np.linalg.inv(lower))
        return
    first, second = lower[:half, :half], lower[half:, half:]
    _invert_lower(first)
    _invert_lower(second)
    lower[half:, :half] = -(second @ (lower[half:, :half] @ first))
