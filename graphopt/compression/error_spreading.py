"""Settling the weights of a layer one after the other, each error made up for by those to come.

Hassibi and Stork 1993, "Second Order Derivatives for Network Pruning: Optimal Brain Surgeon",
equation 5, in the order and with the factor of Frantar et al. 2023, "GPTQ", section 3: whatever a
weight is settled at (an integer, an entry of a codebook, zero), the later ones are changed so that
the layer's output changes least.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

__all__ = ["Settle", "settle_in_turn"]

FloatArray = npt.NDArray[np.float32]
Settle = Callable[[int, FloatArray], FloatArray]
"""Given a number ``j`` and all rows as they now are, returns what row ``j`` is settled at."""


def settle_in_turn(
    rows: FloatArray, factor: FloatArray, settle: Settle, *, batch: int = 128
) -> None:
    """Settle each row of ``rows`` in turn, in place.

    Args:
        rows: The weight transposed, ``(length, outputs)``: row ``j`` is multiplied by input ``j``.
        factor: Of `inverse_factor`, for the inputs in this order.
        settle: What decides; of the rows after ``j``, those of its own batch are up to date.
        batch: Rows whose errors are spread among themselves one by one, and to all later rows in
            one product, which is several times faster.
    """
    count = len(rows)
    for start in range(0, count, batch):
        stop = min(start + batch, count)
        errors = np.empty((stop - start, rows.shape[1]), np.float32)
        for row in range(start, stop):
            settled = settle(row, rows)
            error = (rows[row] - settled) / factor[row, row]
            rows[row] = settled
            errors[row - start] = error
            rows[row + 1 : stop] -= factor[row, row + 1 : stop, None] * error
        rows[stop:] -= factor[start:stop, stop:].T @ errors
