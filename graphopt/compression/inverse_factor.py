"""How much each weight can make up for errors of those before it: a factor of an inverse."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["inverse_factor"]

_MOST_DAMPING = 1.0


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
        damped = gram + np.eye(len(gram)) * (damping * mean)
        try:
            # Factors of the reversed matrix are upper ones of the matrix: no inverse of it, whose
            # factor might not exist after rounding, is ever formed.
            lower = np.linalg.cholesky(damped[::-1, ::-1])
        except np.linalg.LinAlgError:
            damping *= 10.0
            continue
        factor: npt.NDArray[np.float32] = np.linalg.inv(lower)[::-1, ::-1].astype(np.float32)
        return factor
    return None
