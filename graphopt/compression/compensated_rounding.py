"""Rounding a weight to given steps, each error made up for by the weights that are still to come.

Frantar et al. 2023, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers", section 3: with ``H = E[x x^T]`` of what the weight is multiplied by, and ``U`` the
upper Cholesky factor of its inverse, element ``j`` is rounded to ``q`` and every later element
``k`` changed by ``-(w - q) U[j,k] / U[j,j]``. Here each element has a step of its own.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from graphopt.compression.error_spreading import settle_in_turn
from graphopt.compression.inverse_factor import inverse_factor

__all__ = ["Compensation", "compensation_for", "round_compensated"]


class Compensation(NamedTuple):
    """How weights of certain inputs make up for each other's errors.

    Attributes:
        order: In which they are rounded: numbers of the inputs, int64, ``(length,)``.
        factor: Of `inverse_factor`, for the inputs in this order.
    """

    order: npt.NDArray[np.int64]
    factor: npt.NDArray[np.float32]


def compensation_for(gram: npt.NDArray[np.float64]) -> Compensation | None:
    """Return how weights make up for errors; ``None`` where the inputs were all 0, or not finite.

    It takes ``O(length^3)``, and is the same for all layers that read the same.

    Args:
        gram: ``E[x x^T]``, ``(length, length)``.
    """
    # What varies most is rounded first, while many others can still make up for it.
    order = np.argsort(-np.diagonal(gram), kind="stable")
    factor = inverse_factor(gram[np.ix_(order, order)])
    return None if factor is None else Compensation(order, factor)


def round_compensated(
    weight: npt.NDArray[np.float32],
    size: npt.NDArray[np.float32],
    compensation: Compensation,
    limit: int,
) -> npt.NDArray[np.float32]:
    """Return integers, as floats, for which ``x @ (q * size).T`` is near ``x @ weight.T``.

    Args:
        weight: ``(outputs, length)``.
        size: Step of each element, ``(outputs, length)``.
        compensation: For the inputs.
        limit: Largest magnitude of an integer.
    """
    order, factor = compensation
    rest = np.ascontiguousarray(weight[:, order].T)  # (length, outputs)
    steps = size[:, order].T
    integers = np.empty_like(rest)

    def settle(row: int, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        integers[row] = np.clip(np.rint(rows[row] / steps[row]), -limit, limit)
        settled: npt.NDArray[np.float32] = integers[row] * steps[row]
        return settled

    settle_in_turn(rest, factor, settle)
    result = np.empty_like(weight)
    result[:, order] = integers.T
    return result
