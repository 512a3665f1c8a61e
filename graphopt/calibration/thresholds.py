"""From the histogram of a value to the range that is worth its integers.

Every method works on counts by cell alone, so that a bound is found to within one cell of where it
would be with all values at hand. No bound is ever beyond what was seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from graphopt.errors import OptionError
from graphopt.rewrite import RangeMethod, ValueRange
from graphopt.runtime import Histogram
from graphopt.runtime.histograms import Counts

__all__ = ["RANGE_METHODS", "divergences", "range_of", "squared_errors"]

Floats: TypeAlias = npt.NDArray[np.float64]
Indices: TypeAlias = npt.NDArray[np.intp]

# Cells on which squared errors are integrated; more change no bound by more than a step of the
# search, and cost in proportion.
_ERROR_CELLS = 512
# Candidates of one sweep over a bound, and rounds of sweeps over the two bounds in turn.
_CANDIDATES = 128
_ROUNDS = 4
_MOST_CLIPPED = 0.01


def range_of(histogram: Histogram, method: RangeMethod) -> ValueRange | None:
    """Return the range of a value; NaN on both sides where it was ever not finite.

    Returns:
        ``None`` where it was always empty.

    Raises:
        OptionError: There is no such method, or its percentile is none.
    """
    if method.name not in RANGE_METHODS or not 0.0 < method.percentile <= 100.0:  # noqa: PLR2004
        raise OptionError(
            f"no range can be taken by `{method.name}` at {method.percentile:g} %",
            why="expected one of "
            + ", ".join(f"`{name}`" for name in RANGE_METHODS)
            + ", and a percentile in (0, 100]",
        )
    if histogram.nonfinite:
        return ValueRange(math.nan, math.nan)
    if not histogram.elements:
        return None
    low, high = RANGE_METHODS[method.name](histogram, method)
    return ValueRange(
        max(low, histogram.minimum) if low < 0.0 else histogram.minimum,
        min(high, histogram.maximum) if high > 0.0 else histogram.maximum,
    )


def _all_values(histogram: Histogram, method: RangeMethod) -> tuple[float, float]:
    del method
    return histogram.minimum, histogram.maximum


def _percentile(histogram: Histogram, method: RangeMethod) -> tuple[float, float]:
    """Cut the same number of values off both ends; off the end of the magnitudes if symmetric."""
    share = (100.0 - method.percentile) / 100.0
    if method.symmetric:
        bound = _kept(_folded(histogram.counts, -histogram.first)[::-1], share) * histogram.width
        return -bound, bound
    above = _kept(histogram.counts[::-1], share / 2.0)
    below = _kept(histogram.counts, share / 2.0)
    low = (histogram.first + len(histogram.counts) - below) * histogram.width
    return min(low, 0.0), max((histogram.first + above) * histogram.width, 0.0)


def _kept(counts: Counts, share: float) -> int:
    """Return how many cells are left when whole cells of at most ``share`` go from the start."""
    cut = np.cumsum(counts) <= share * counts.sum()
    return len(counts) - int(np.count_nonzero(cut))


def _folded(counts: Counts, zero: int) -> Counts:
    """Return counts of the magnitudes: cell ``-1 - k`` mirrors cell ``k``."""
    negative, positive = counts[:zero][::-1], counts[zero:]
    folded = np.zeros(max(len(negative), len(positive)), np.int64)
    folded[: len(negative)] += negative
    folded[: len(positive)] += positive
    return folded


# -- least divergence ---------------------------------------------------------------------------


def _least_divergence(histogram: Histogram, method: RangeMethod) -> tuple[float, float]:
    """Search the range whose integers keep the distribution nearest to itself (TensorRT, 2017).

    Left out are values that are exactly 0, which any range represents. Bounds that clip more than
    a hundredth of the others on their side are not tried: once nearly all is clipped into one cell,
    the distribution is near to that of its integers for nothing.
    """
    counts, zero = histogram.counts.copy(), -histogram.first
    counts[zero] -= histogram.zeros
    if not counts.any():
        return 0.0, 0.0
    if method.symmetric:
        counts, zero = _folded(counts, zero), 0
        # Magnitudes alone are left: half of the integers are for them.
        levels = (method.levels + 1) // 2
        lowest = max(min(levels, len(counts)), _kept(counts[::-1], _MOST_CLIPPED))
        bound = histogram.width * _best_cell(
            lambda ends: divergences(counts, 0, ends, levels), lowest, len(counts)
        )
        return -bound, bound
    least = min(method.levels, len(counts))
    lowest_end = max(_kept(counts[::-1], _MOST_CLIPPED), zero)
    highest_start = min(len(counts) - _kept(counts, _MOST_CLIPPED), zero)

    def best_end(start: int) -> int:
        lowest = max(lowest_end, start + least)
        return _best_cell(
            lambda ends: divergences(counts, start, ends, method.levels), lowest, len(counts)
        )

    def best_start(end: int) -> int:
        highest = max(min(highest_start, end - least), 0)
        # Mirrored, so that of equals the outermost is tried first here too.
        mirrored = _best_cell(
            lambda bounds: divergences(counts, -bounds, end, method.levels), -highest, 0
        )
        return -mirrored

    low, high = 0, len(counts)
    for _ in range(_ROUNDS):
        before = low, high
        high = best_end(low)
        low = best_start(high)
        if (low, high) == before:
            break
    return (low - zero) * histogram.width, (high - zero) * histogram.width


def _best_cell(cost: Callable[[Indices], Floats], lowest: int, highest: int) -> int:
    """Return the edge in ``[lowest, highest]`` of least cost: one of every so many, then near it.

    Of equals the highest wins; where there is none in between, it is ``highest``.
    """
    if highest <= lowest:
        return highest
    step = max(1, (highest - lowest) // _CANDIDATES)
    coarse = np.arange(highest, lowest - 1, -step)
    best = int(coarse[np.argmin(cost(coarse))])
    if step == 1:
        return best
    fine = np.arange(min(highest, best + step - 1), max(lowest, best - step + 1) - 1, -1)
    return int(fine[np.argmin(cost(fine))])


def divergences(counts: Counts, start: Indices | int, end: Indices | int, levels: int) -> Floats:
    """Return the Kullback-Leibler divergence of each clipped and quantized distribution.

    ``P`` holds the counts of the cells in ``[start, end)``, with what lies outside added to the
    first and the last one. ``Q`` divides those cells evenly among ``levels``, and spreads what each
    level holds, outside left out, over its cells that ``P`` has counts in; a level in which all
    that ``P`` has came from outside holds one value. The divergence is that of ``P`` from ``Q``,
    each scaled to 1.

    Args:
        counts: Values by cell.
        start: First cell of each candidate, or of all.
        end: Last cell of each candidate, plus 1, or of all.
        levels: Number of integers; fewer where a candidate has fewer cells.
    """
    starts, ends = np.broadcast_arrays(np.atleast_1d(start), np.atleast_1d(end))
    sums = _running(counts)
    filled = _running(counts > 0)
    logs = _running(_x_log_x(counts.astype(np.float64)))
    total = sums[-1]
    below, above = sums[starts], total - sums[ends]
    first, last = counts[starts].astype(np.float64), counts[ends - 1].astype(np.float64)
    # Entropy of P, the two end cells of which hold what was clipped too.
    entropy = logs[ends] - logs[starts] - _x_log_x(first) - _x_log_x(last)
    entropy += _x_log_x(first + below) + _x_log_x(last + above)
    is_single = ends - starts == 1
    entropy = np.where(is_single, _x_log_x(np.full_like(entropy, total)), entropy)

    parts = np.arange(levels + 1)
    bounds = starts[:, None] + parts * (ends - starts)[:, None] // levels
    mass = np.diff(sums[bounds], axis=1)
    cells = np.diff(filled[bounds], axis=1)
    held = mass.copy()  # what P has in the cells of each level
    rows = np.arange(len(starts))
    width = ends - starts
    first_level = (levels - 1) // np.maximum(width, 1)  # the level with the first cell in it
    held[rows, first_level] += below
    held[rows, -1] += above
    cells[rows, first_level] += (first == 0) & (below > 0)
    cells[rows, -1] += (last == 0) & (above > 0) & ~(is_single & (below > 0))
    mass = np.where((mass == 0) & (held > 0), 1.0, mass)
    inside = mass.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        logarithm = np.log(mass / cells / inside[:, None])  # of levels that hold anything
        shared = np.where(held > 0, held * logarithm, 0.0).sum(axis=1)
    found: Floats = (entropy - shared) / total - math.log(total)
    return found


def _running(items: npt.NDArray[np.generic]) -> Floats:
    return np.concatenate([[0.0], np.cumsum(items, dtype=np.float64)])


def _x_log_x(items: Floats) -> Floats:
    return items * np.log(np.where(items > 0, items, 1.0))


# -- least squared error ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Density:
    """Values as taken to lie evenly within each cell, those that are exactly 0 left out."""

    edges: Floats
    heights: Floats


def _least_error(histogram: Histogram, method: RangeMethod) -> tuple[float, float]:
    """Search the range with the least mean squared error of quantization, clipping included."""
    coarse = histogram.coarser(_ERROR_CELLS)
    counts = coarse.counts.astype(np.float64)
    counts[-coarse.first] -= coarse.zeros  # exact at any scale
    density = _Density(coarse.edges, counts / coarse.width)
    lowest, highest = min(histogram.minimum, 0.0), max(histogram.maximum, 0.0)
    if method.symmetric:
        widest = max(-lowest, highest)
        bound = widest * _best_fraction(
            lambda parts: _errors(density, -widest * parts, widest * parts, method)
        )
        return -bound, bound

    def best_high(low: float) -> float:
        return _best_fraction(
            lambda parts: _errors(density, low + 0.0 * parts, highest * parts, method)
        )

    def best_low(high: float) -> float:
        return _best_fraction(
            lambda parts: _errors(density, lowest * parts, high + 0.0 * parts, method)
        )

    low, high = lowest, highest
    for _ in range(_ROUNDS):
        before = low, high
        high = highest * best_high(low) if highest > 0.0 else 0.0
        low = lowest * best_low(high) if lowest < 0.0 else 0.0
        if (low, high) == before:
            break
    return low, high


def _best_fraction(cost: Callable[[Floats], Floats]) -> float:
    """Return the fraction in (0, 1] of least cost: 32 of them, then 16 around the best."""
    coarse = np.arange(1, 33) / 32.0
    best = coarse[::-1][np.argmin(cost(coarse)[::-1])]  # of equals the widest
    fine = best + np.arange(-7, 9) / 256.0
    fine = fine[(fine > 0.0) & (fine <= 1.0)]
    return float(fine[::-1][np.argmin(cost(fine)[::-1])])


def _errors(density: _Density, lows: Floats, highs: Floats, method: RangeMethod) -> Floats:
    return squared_errors(
        density.edges, density.heights, lows, highs, method.levels, symmetric=method.symmetric
    )


def squared_errors(
    edges: Floats,
    heights: Floats,
    lows: Floats,
    highs: Floats,
    levels: int,
    *,
    symmetric: bool = False,
) -> Floats:
    """Return the sum of squared errors that quantization to each range leaves.

    The error is integrated exactly over cells in which values lie evenly. A range is that of
    ``levels`` integers one of which is 0, as by `graphopt.compression.parameters_from_range`.

    Args:
        edges: Of the cells, in rising order.
        heights: Values per unit of width in each cell.
        lows: Lower bound of each candidate, 0 or less.
        highs: Upper bound of each candidate, 0 or more.
        levels: Number of integers.
        symmetric: As many integers below 0 as above.
    """
    steps = (np.maximum(-lows, highs) * 2.0 if symmetric else highs - lows) / (levels - 1)
    # A range of width 0 is a candidate, too, where all values are 0.
    steps = np.maximum(steps, np.finfo(np.float64).tiny)
    below = np.full(len(lows), levels // 2) if symmetric else np.rint(-lows / steps)
    below = np.minimum(below, levels - 1)
    least, most = -below * steps, (levels - 1 - below) * steps
    step = steps[:, None]
    clipped = np.clip(edges, least[:, None], most[:, None])
    number = np.rint(clipped / step)
    rest = clipped - number * step
    # Antiderivative of the squared error from 0: whole steps, the rest of one, what is clipped.
    whole = number * step**3 / 12.0 + rest**3 / 3.0 + (edges - clipped) ** 3 / 3.0
    errors: Floats = (np.diff(whole, axis=1) * heights).sum(axis=1)
    return errors


RANGE_METHODS: dict[str, Callable[[Histogram, RangeMethod], tuple[float, float]]] = {
    "minmax": _all_values,
    "percentile": _percentile,
    "entropy": _least_divergence,
    "mse": _least_error,
}
"""How to take a range, by name: bounds of a histogram with values in it, all of them finite."""
