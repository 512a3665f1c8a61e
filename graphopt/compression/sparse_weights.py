"""Which weights become zero, and what the others do about it.

A weight is seen as ``(outputs, length)``: ``length`` runs over what is summed for one output. With
an `NmPattern`, of every ``of`` neighbours along the inputs at most ``kept`` stay; otherwise a share
of all.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from graphopt.compression.error_spreading import settle_in_turn
from graphopt.compression.inverse_factor import inverse_factor

__all__ = ["NmPattern", "Sparsity", "removed_weights", "sparse_compensated"]

FloatArray = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

_BATCH = 128  # of the paper: a mask is chosen for so many inputs at once


class NmPattern(NamedTuple):
    """At most ``kept`` of every ``of`` weights of neighbouring inputs are not zero."""

    kept: int
    of: int


class Sparsity(NamedTuple):
    """How many weights go.

    Attributes:
        ratio: Share of the weights that is zero afterwards, rounded down; without meaning where
            there is a pattern or a threshold.
        pattern: Which groups of neighbours keep how many.
        by_output: The ratio holds for each output by itself, as scores of different outputs are
            not compared (Sun et al. 2024, section 3).
        threshold: Weights of a score below it go, whatever their number.
    """

    ratio: float = 0.5
    pattern: NmPattern | None = None
    by_output: bool = False
    threshold: float | None = None


def removed_weights(scores: npt.NDArray[np.float64], wanted: Sparsity, kernel: int = 1) -> Mask:
    """Return which weights go: those of the lowest scores.

    Args:
        scores: ``(outputs, length)``; equal ones go in the order in which they are stored.
        wanted: How many.
        kernel: Elements of ``length`` that each input has, input by input: neighbours of a pattern
            are those of neighbouring inputs at the same place of the kernel.
    """
    if wanted.pattern is not None:
        return _patterned(scores, wanted.pattern, kernel)
    if wanted.threshold is not None:
        below: Mask = scores < wanted.threshold
        return below
    rows = scores if wanted.by_output else scores.reshape(1, -1)
    count = int(wanted.ratio * rows.shape[1])
    removed = np.zeros(rows.shape, np.bool_)
    lowest = np.argsort(rows, axis=1, kind="stable")[:, :count]
    np.put_along_axis(removed, lowest, values=True, axis=1)
    return removed.reshape(scores.shape)


def _patterned(scores: npt.NDArray[np.float64], pattern: NmPattern, kernel: int) -> Mask:
    outputs, length = scores.shape
    inputs = length // kernel
    groups = -(-inputs // pattern.of)
    # A last group that is cut short counts as filled up with zeros, which are the first to go.
    filled = np.full((outputs, kernel, groups * pattern.of), -np.inf)
    filled[..., :inputs] = scores.reshape(outputs, inputs, kernel).transpose(0, 2, 1)
    grouped = filled.reshape(-1, pattern.of)
    lowest = np.argsort(grouped, axis=1, kind="stable")[:, : pattern.of - pattern.kept]
    removed = np.zeros(grouped.shape, np.bool_)
    np.put_along_axis(removed, lowest, values=True, axis=1)
    in_order = removed.reshape(outputs, kernel, -1)[..., :inputs].transpose(0, 2, 1)
    return in_order.reshape(outputs, length)


def sparse_compensated(
    weight: FloatArray,
    gram: npt.NDArray[np.float64],
    wanted: Sparsity,
    *,
    kernel: int = 1,
    damping: float = 0.01,
) -> FloatArray | None:
    """Return the weight with zeros in it, the weights of later inputs making up for each zero.

    Frantar and Alistarh 2023, "SparseGPT: Massive Language Models Can Be Accurately Pruned in
    One-Shot", algorithm 1: of every 128 inputs (of every group of a pattern) those weights go for
    which ``w^2 / U[j,j]^2`` is lowest, ``U`` of `inverse_factor`.

    Args:
        weight: ``(outputs, length)``.
        gram: ``E[x x^T]``, ``(length, length)``.
        wanted: How many go; no threshold.
        kernel: As of `removed_weights`.
        damping: Share of the mean of the diagonal of `gram` that is added to it.

    Returns:
        The new weight; ``None`` where the inputs tell nothing.
    """
    length = weight.shape[1]
    # Inputs at one place of the kernel side by side, so that groups of a pattern are neighbours.
    order = np.arange(length).reshape(-1, kernel).T.reshape(-1)
    factor = inverse_factor(gram[np.ix_(order, order)], damping)
    if factor is None:
        return None
    rows = np.ascontiguousarray(weight[:, order].T)
    mask = np.zeros(rows.shape, np.bool_)
    starts = _mask_starts(length, kernel, wanted.pattern)
    costs = np.square(np.diagonal(factor).astype(np.float64))[:, None]

    def settle(row: int, now: FloatArray) -> FloatArray:
        if row in starts:
            part = slice(row, starts[row])
            scores = np.square(now[part], dtype=np.float64) / costs[part]
            mask[part] = removed_weights(scores.T, wanted).T
        settled: FloatArray = np.where(mask[row], np.float32(0), now[row])
        return settled

    batch = _BATCH if _is_aligned(length // kernel, wanted.pattern) else length
    settle_in_turn(rows, factor, settle, batch=batch)
    result = np.empty_like(weight)
    result[:, order] = rows.T
    return result


def _is_aligned(inputs: int, pattern: NmPattern | None) -> bool:
    """Tell whether no group of a pattern crosses from one batch of rows into the next."""
    return pattern is None or (inputs % pattern.of == 0 and _BATCH % pattern.of == 0)


def _mask_starts(length: int, kernel: int, pattern: NmPattern | None) -> dict[int, int]:
    """Return where masks are chosen: first row to the row behind the last."""
    inputs, step = (length, _BATCH) if pattern is None else (length // kernel, pattern.of)
    return {
        base + first: base + min(first + step, inputs)
        for base in range(0, length, inputs)
        for first in range(0, inputs, step)
    }
