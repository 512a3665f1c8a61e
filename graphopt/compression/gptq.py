"""Rounding weights so that the rows that follow make up for the error: GPTQ.

Frantar et al. 2023, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers", algorithm 1. With ``H = E[x x^T]`` of what is multiplied by the weight, and ``U`` the
upper Cholesky factor of its inverse, row ``j`` of the weight is rounded to ``q``, and every later
row ``k`` is changed by ``-U[j,k] * (w - q) / U[j,j]``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.compression.blockwise import (
    BlockFormat,
    BlockWeights,
    FloatArray,
    block_parameters,
    quantize_blocks,
    round_to_blocks,
)
from graphopt.compression.inverse_factor import inverse_factor

__all__ = ["quantize_compensated", "shrunk_gram"]

# Rows whose errors are spread among themselves one by one, and to all later rows in one product:
# few, because a product is several times faster.
_BATCH_ROWS = 32
# Columns are independent of each other; so many elements of them are in memory at a time.
_CHUNK_ELEMENTS = 1 << 23


def quantize_compensated(
    weight: FloatArray,
    gram: npt.NDArray[np.float64],
    form: BlockFormat,
    *,
    damping: float = 0.01,
    by_activation: bool = True,
) -> BlockWeights:
    """Round ``weight``, every row making up for the errors of those before it.

    Args:
        weight: float32, ``(inputs, outputs)``.
        gram: ``E[x x^T]``, ``(inputs, inputs)``.
        form: How it is stored.
        damping: Share of the mean of the diagonal that is added to it.
        by_activation: Rows of the largest inputs are rounded first, while many others can still
            make up for them (the paper's "act-order"). Scales are then those of the weight as it
            was; otherwise those of a block are taken when its first row is due.

    Raises:
        ValueError: A weight is NaN or infinite, or the matrix is not positive.
    """
    inputs, outputs = weight.shape
    order = np.argsort(-np.diagonal(gram), kind="stable") if by_activation else np.arange(inputs)
    factor = inverse_factor(gram[np.ix_(order, order)], damping)
    if factor is None:
        raise ValueError("the inputs are 0 or not finite, or have no positive Gram matrix")
    importance = np.empty(inputs)
    importance[order] = 1.0 / np.square(np.diagonal(factor).astype(np.float64))
    # Scales of the weight as it is: all there is to say where rows come in any order.
    result = quantize_blocks(weight, form, importance.astype(np.float32))
    step = max(_CHUNK_ELEMENTS // max(inputs, 1), 1)
    for start in range(0, outputs, step):
        columns = slice(start, start + step)
        rounding = _Rounding(weight[:, columns], order, factor, result, columns)
        rounding.run(keep_scales=by_activation, importance=importance)
    return result


def shrunk_gram(gram: npt.NDArray[np.float64], rows: int) -> npt.NDArray[np.float64]:
    """Return ``gram`` with the products of different inputs shrunk by as much as they are chance.

    Of inputs that have nothing to do with each other, few rows show products all the same, and
    weights that make up for errors by those are worse than rounded ones. The share to shrink by is
    the oracle approximating one of Chen, Wiesel, Eldar and Hero 2010, "Shrinkage Algorithms for
    MMSE Covariance Estimation", equation 23, on inputs scaled to a mean square of 1.

    Args:
        gram: ``E[x x^T]``, ``(inputs, inputs)``.
        rows: How many rows the mean is over.
    """
    inputs = len(gram)
    # An input without energy, or with what rounding left of none, has nothing to do with any other.
    scale = np.sqrt(np.maximum(np.diagonal(gram), 0.0))
    ones = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 0.0)
    squares = float(np.square(np.clip(gram * ones * ones[:, None], -1.0, 1.0)).sum())
    excess = squares - inputs
    numerator = (1.0 - 2.0 / inputs) * squares + float(inputs) ** 2
    denominator = (rows + 1.0 - 2.0 / inputs) * excess
    share = 1.0 if denominator <= numerator else numerator / denominator
    shrunk = gram * (1.0 - share)
    np.fill_diagonal(shrunk, np.diagonal(gram))
    return shrunk


class _Rounding:
    """Rounds some columns of a weight, row by row; ``result`` is written."""

    def __init__(
        self,
        weight: FloatArray,
        order: npt.NDArray[np.intp],
        factor: FloatArray,
        result: BlockWeights,
        columns: slice,
    ) -> None:
        self._rows = np.ascontiguousarray(weight[order], np.float32)
        self._order = order
        self._factor = factor
        self._columns = columns
        self._result = result
        self._size = result.form.size or max(len(order), 1)

    def run(self, *, keep_scales: bool, importance: npt.NDArray[np.float64]) -> None:
        """Round all rows, in batches that hold whole blocks where scales are taken on the way."""
        count = len(self._order)
        step = max(_BATCH_ROWS, self._size) if not keep_scales else _BATCH_ROWS
        for start in range(0, count, step):
            stop = min(start + step, count)
            errors = np.empty((stop - start, self._rows.shape[1]), np.float32)
            for row in range(start, stop):
                if not keep_scales and row % self._size == 0:
                    self._take_scales(row, importance)
                errors[row - start] = self._round(row)
                following = self._factor[row, row + 1 : stop, None]
                self._rows[row + 1 : stop] -= following * errors[row - start]
            self._rows[stop:] -= self._factor[start:stop, stop:].T @ errors

    def _take_scales(self, row: int, importance: npt.NDArray[np.float64]) -> None:
        block, share = self._rows[row : row + self._size], importance[row : row + self._size]
        result, place = self._result, row // self._size
        scale, zero_point = block_parameters(
            block[None], result.form, share[None, :, None].astype(np.float32)
        )
        result.scale[place, self._columns] = scale[0]
        if zero_point is not None and result.zero_point is not None:
            result.zero_point[place, self._columns] = zero_point[0]

    def _round(self, row: int) -> FloatArray:
        """Round one row, and return the error that the others make up for."""
        result, place = self._result, int(self._order[row])
        scale = result.scale[place // self._size, self._columns]
        zero: npt.NDArray[Any] | None = None
        if result.zero_point is not None:
            zero = result.zero_point[place // self._size, self._columns].astype(np.float32)
        rounded = round_to_blocks(self._rows[row], scale, zero, result.form)
        result.integers[place, self._columns] = rounded
        restored = (rounded - zero if zero is not None else rounded) * scale
        error: FloatArray = (self._rows[row] - restored) / self._factor[row, row]
        return error
