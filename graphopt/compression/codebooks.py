"""Weights as numbers of entries in a short list of values: codebooks found by k-means.

A weight is seen as ``(outer, blocks, block, inner)``, see `packed_weight`; a block may have a scale
of its own: ``w ~ codebook[index] * scale``. Han et al. 2016, "Deep Compression", section 3, with
each error weighted by what it does to the output: by ``scale^2 E[x_j^2]``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.compression.error_spreading import settle_in_turn
from graphopt.compression.inverse_factor import inverse_factor
from graphopt.compression.packed_weight import WeightView, block_length, block_scales
from graphopt.compression.weight_rows import rows_of, stored_form

__all__ = ["ClusteredWeight", "cluster_weight", "optimal_codebook"]

FloatArray = npt.NDArray[np.float32]
Array = npt.NDArray[np.float64]

_BYTE = 8
_ROUNDS = 50
_MOST_VALUES = 1 << 20  # more tell nothing new of where values lie
_BINS = 4096
_VALUES_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class ClusteredWeight:
    """A weight as indices into a codebook.

    Attributes:
        indices: uint8; ``(outer, blocks, block, inner)``.
        codebook: float32, ascending; at most ``(16,)`` or ``(256,)``.
        bits: Of an index as it is stored, 4 or 8.
        scale: float16 or float32, positive; ``(outer, blocks, 1, inner)``. ``None``: no scales.
    """

    indices: npt.NDArray[np.uint8]
    codebook: FloatArray
    bits: int
    scale: npt.NDArray[Any] | None

    @property
    def nbytes(self) -> int:
        """Bytes of all parts as they are stored."""
        levels = len(self.codebook)
        books = levels if self.bits == _BYTE else 2 * levels**2
        scales = 0 if self.scale is None else self.scale.nbytes
        return self.indices.size * self.bits // _BYTE + 4 * books + scales

    def restored(self) -> FloatArray:
        """Return the weight as the runtime computes it, in the shape of `indices`."""
        values: FloatArray = self.codebook[self.indices]
        return values if self.scale is None else values * self.scale.astype(np.float32)


def optimal_codebook(values: npt.NDArray[Any], importance: npt.NDArray[Any], levels: int) -> Array:
    """Return the values nearest to ``values``, by squared error, each as important as given.

    Lloyd's algorithm (Lloyd 1982, "Least Squares Quantization in PCM", method I), which in one
    dimension needs no luck where it starts well: with as many levels around a value as the cube
    root of the density there (Panter and Dite 1951, equation 19). Nothing is random.

    Args:
        values: ``(n,)``, at least one.
        importance: ``(n,)``, not negative.
        levels: How many values to return.

    Returns:
        float64, ascending, ``(levels,)``; where there are zeros, one of them is 0. Fewer where
        ``values`` are no more: then they are what is returned.
    """
    step = -(-len(values) // _MOST_VALUES)
    order = np.argsort(values[::step], kind="stable")
    ordered = values[::step][order].astype(np.float64)
    distinct: Array = ordered[np.concatenate([[True], np.diff(ordered) > 0.0])]
    if step == 1 and len(distinct) <= levels:
        return distinct
    weights = importance[::step][order].astype(np.float64)
    if not weights.sum() > 0.0:
        weights = np.ones(len(ordered))
    mass = np.concatenate([[0.0], np.cumsum(weights)])
    moment = np.concatenate([[0.0], np.cumsum(weights * ordered)])
    found = _spread_out(ordered, mass, levels)
    for _ in range(_ROUNDS):
        middles = (found[1:] + found[:-1]) / 2
        bounds = np.concatenate([[0], np.searchsorted(ordered, middles), [len(ordered)]])
        within = np.diff(mass[bounds])
        # A level for which no value is left stays where it is: one may come back to it.
        means = np.divide(np.diff(moment[bounds]), within, out=found.copy(), where=within > 0)
        if np.array_equal(means, found):
            break
        found = np.sort(means)
    if bool((ordered == 0.0).any()):  # what was pruned stays so
        found[np.abs(found).argmin()] = 0.0
    return found


def _spread_out(ordered: Array, mass: Array, levels: int) -> Array:
    """Return levels as dense as the cube root of the density of what they stand for."""
    bounds = np.unique(np.linspace(0, len(ordered) - 1, min(_BINS, len(ordered)) + 1).astype(int))
    edges = ordered[bounds]
    density = np.diff(mass[bounds]) * np.square(np.diff(edges))
    reached = np.concatenate([[0.0], np.cumsum(np.cbrt(density))])
    if reached[-1] == 0.0:  # all values are one
        return np.full(levels, ordered[0])
    wanted = (np.arange(levels) + 0.5) / levels * reached[-1]
    found: Array = np.interp(wanted, reached, edges)
    return found


def cluster_weight(
    weight: FloatArray,
    view: WeightView,
    *,
    bits: int,
    block_size: int | None,
    second: Array | None = None,
    grams: Array | None = None,
    damping: float = 0.01,
) -> ClusteredWeight:
    """Return ``weight`` as indices into the codebook that serves it best.

    Args:
        weight: float32 and finite, of ``outer * length * inner`` elements.
        view: What is summed over.
        bits: 4 or 8.
        block_size: Wanted elements per scale, of those that are summed over; the nearest divisor
            is taken. ``None``: no scales.
        second: ``E[x^2]`` of the inputs, ``(groups, length)``; errors are weighted by it.
        grams: ``E[x x^T]``, ``(groups, length, length)``: indices are chosen one input after the
            other, later ones making up for the errors of those before.
        damping: As of `inverse_factor`.
    """
    block = view.length if block_size is None else block_length(view.length, block_size)
    shape = (view.outer, view.length // block, block, view.inner)
    seen = weight.reshape(shape)
    scale = None
    if block_size is not None:
        largest = np.maximum(seen.max(axis=2, keepdims=True), -seen.min(axis=2, keepdims=True))
        scale = block_scales(largest, 1, is_half=True)
    steps = np.ones((1, 1, 1, 1), np.float32) if scale is None else scale.astype(np.float32)
    importance = np.broadcast_to(np.square(steps), shape)
    if second is not None:
        importance = importance * _by_element(second, view).reshape(shape)
    normal = (seen / steps).reshape(-1)
    book = optimal_codebook(normal, importance.reshape(-1), 1 << bits).astype(np.float32)
    if grams is not None:
        whole = np.broadcast_to(steps, shape)
        scales = whole.reshape(weight.shape)
        settled = _in_turn(weight, scales, view, book, grams=grams, damping=damping)
        if settled is not None:
            normal = (settled.reshape(shape) / steps).reshape(-1)
    return ClusteredWeight(_nearest(normal, book).reshape(shape), book, bits, scale)


def _by_element(second: Array, view: WeightView) -> Array:
    """Return what is known by group and input for each element, ``(outer, length, inner)``."""
    by_outer = second if view.outer == 1 else second.repeat(view.outer // len(second), axis=0)
    return np.broadcast_to(by_outer[:, :, None], (view.outer, view.length, view.inner))


def _nearest(values: npt.NDArray[Any], book: FloatArray) -> npt.NDArray[np.uint8]:
    """Return the index of the nearest entry of an ascending codebook, for each value."""
    middles = (book[1:] + book[:-1]) / 2
    found = np.empty(len(values), np.uint8)
    for start in range(0, len(values), _VALUES_AT_ONCE):
        part = slice(start, start + _VALUES_AT_ONCE)
        found[part] = np.searchsorted(middles, values[part])
    return found


def _in_turn(
    weight: FloatArray,
    scale: FloatArray,
    view: WeightView,
    book: FloatArray,
    *,
    grams: Array,
    damping: float,
) -> FloatArray | None:
    """Return the weight with every value one of the codebook's, errors made up for in turn."""
    parts = np.split(rows_of(weight, view), len(grams))
    settled = []
    for part, steps, gram in zip(
        parts, np.split(rows_of(scale, view), len(grams)), grams, strict=True
    ):
        # What varies most is settled first, while many others can still make up for it.
        order = np.argsort(-np.diagonal(gram), kind="stable")
        factor = inverse_factor(gram[np.ix_(order, order)], damping)
        if factor is None:
            return None
        rows, sizes = np.ascontiguousarray(part[:, order].T), steps[:, order].T

        def settle(row: int, now: FloatArray, sizes: FloatArray = sizes) -> FloatArray:
            chosen: FloatArray = book[_nearest(now[row] / sizes[row], book)] * sizes[row]
            return chosen

        settle_in_turn(rows, factor, settle)
        found = np.empty_like(part)
        found[:, order] = rows.T
        settled.append(found)
    return stored_form(np.concatenate(settled), view, weight.shape)
