"""Rounding a weight to given steps, each error made up for by the weights that are still to come.

Frantar et al. 2023, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers", section 3: with ``H = E[x x^T]`` of what the weight is multiplied by, and ``U`` the
upper Cholesky factor of its inverse, element ``j`` is rounded to ``q`` and every later element
``k`` changed by ``-(w - q) U[j,k] / U[j,j]``. Here each element has a step of its own.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["round_compensated"]

_DAMPING = (0.01, 0.1, 1.0)  # of the mean of the diagonal; more where the factor does not exist
_BATCH = 128  # elements whose errors are spread among themselves first


def round_compensated(
    weight: npt.NDArray[np.float32],
    size: npt.NDArray[np.float32],
    gram: npt.NDArray[np.float64],
    limit: int,
) -> npt.NDArray[np.float32] | None:
    """Return integers, as floats, for which ``x @ (q * size).T`` is near ``x @ weight.T``.

    Args:
        weight: ``(outputs, length)``.
        size: Step of each element, ``(outputs, length)``.
        gram: ``E[x x^T]``, ``(length, length)``.
        limit: Largest magnitude of an integer.

    Returns:
        The integers; ``None`` where the inputs tell nothing: they were all 0, or not finite.
    """
    # What varies most is rounded first, while many others can still make up for it.
    order = np.argsort(-np.diagonal(gram), kind="stable")
    factor = _inverse_factor(gram[np.ix_(order, order)])
    if factor is None:
        return None
    rest = np.ascontiguousarray(weight[:, order].T)  # (length, outputs)
    steps = size[:, order].T
    integers = np.empty_like(rest)
    count = len(rest)
    for start in range(0, count, _BATCH):
        stop = min(start + _BATCH, count)
        errors = np.empty((stop - start, rest.shape[1]), np.float32)
        for row in range(start, stop):
            rounded = np.clip(np.rint(rest[row] / steps[row]), -limit, limit)
            integers[row] = rounded
            error = (rest[row] - rounded * steps[row]) / factor[row, row]
            errors[row - start] = error
            rest[row + 1 : stop] -= factor[row, row + 1 : stop, None] * error
        rest[stop:] -= factor[start:stop, stop:].T @ errors
    result = np.empty_like(weight)
    result[:, order] = integers.T
    return result


def _inverse_factor(gram: npt.NDArray[np.float64]) -> npt.NDArray[np.float32] | None:
    """Return ``U`` with ``U^T U = inverse(H)``, damped until it exists."""
    mean = float(np.diagonal(gram).mean()) if len(gram) else 0.0
    if not (np.isfinite(gram).all() and mean > 0.0):
        return None
    for damping in _DAMPING:
        damped = gram + np.eye(len(gram)) * (damping * mean)
        try:
            # The factor of the reversed matrix is the upper one of the matrix.
            lower = np.linalg.cholesky(damped[::-1, ::-1])
        except np.linalg.LinAlgError:
            continue
        factor: npt.NDArray[np.float32] = np.linalg.inv(lower)[::-1, ::-1].astype(np.float32)
        return factor
    return None
