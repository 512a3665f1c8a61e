"""Histograms of tensors that arrive piece by piece, in memory that does not grow with them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["CELLS", "Counts", "Histogram"]

CELLS = 4096
"""Most cells of a histogram; its cells are then at most 1/2047 of what the values span."""

Counts: TypeAlias = npt.NDArray[np.int64]

# Elements at a time: the piece, its scaled copy and its indices together stay in the cache.
_PIECE = 1 << 15
# Powers of two whose reciprocal float32 holds too; what is smaller counts as near 0.
_LOWEST_EXPONENT = -120


@dataclass(eq=False)
class Histogram:
    """Counts of the finite values of a tensor, on a grid that always holds 0.

    Cell ``k`` counts the values in ``[k * 2**exponent, (k + 1) * 2**exponent)``. Where values need
    more than `CELLS` cells, the cells ``2k`` and ``2k + 1`` become cell ``k`` of twice the width,
    which moves no value across an edge of the wider grid: counts are exact at every width, and
    depend on the values alone, not on their order nor on how they came in batches. A quantile read
    off the edges is within one cell of the exact one.

    Attributes:
        minimum: Of the finite elements; +inf where there was none.
        maximum: Of the finite elements; -inf where there was none.
        elements: How many elements there were.
        nonfinite: How many of them were NaN or infinite, and so are not counted.
        zeros: How many were exactly 0; they are counted in cell 0 too.
        exponent: The width of a cell is two to the power of it.
        first: Number of the first cell in `counts`, 0 or less.
        counts: Values by cell, from cell `first` on; holds cell 0. Empty until values come, and
            always where only extremes are wanted.
        is_counted: Cells are counted; extremes and numbers of elements alone otherwise.
    """

    minimum: float = math.inf
    maximum: float = -math.inf
    elements: int = 0
    nonfinite: int = 0
    zeros: int = 0
    exponent: int = _LOWEST_EXPONENT
    first: int = 0
    counts: Counts = field(default_factory=lambda: np.zeros(0, np.int64))
    is_counted: bool = True

    @property
    def width(self) -> float:
        """Width of a cell."""
        return math.ldexp(1.0, self.exponent)

    @property
    def edges(self) -> npt.NDArray[np.float64]:
        """Return the edges of the cells, one more than there are cells, in rising order."""
        numbers = np.arange(self.first, self.first + len(self.counts) + 1, dtype=np.float64)
        return numbers * np.float64(self.width)

    def add(self, array: npt.NDArray[Any]) -> None:
        """Count the elements of ``array``: real numbers, in any shape."""
        if array.dtype.kind != "f" or array.dtype.itemsize < np.float32().itemsize:
            wide = array.dtype.kind in "iu" and array.dtype.itemsize > np.int16().itemsize
            array = array.astype(np.float64 if wide else np.float32)
        flat = array.reshape(-1)
        self.elements += flat.size
        for start in range(0, flat.size, _PIECE):
            self._add_piece(flat[start : start + _PIECE])

    def merge(self, other: Histogram) -> None:
        """Count what ``other`` has counted, as if its values had come here."""
        self.elements += other.elements
        self.nonfinite += other.nonfinite
        self.zeros += other.zeros
        self.minimum = min(self.minimum, other.minimum)
        self.maximum = max(self.maximum, other.maximum)
        if not len(other.counts):
            return
        self._reach(other.minimum, other.maximum)
        counts, first = _coarsened(other.counts, other.first, self.exponent - other.exponent)
        start = first - self.first
        self.counts[start : start + len(counts)] += counts

    def coarser(self, cells: int) -> Histogram:
        """Return a histogram of the same values with at most ``cells`` cells."""
        counts, first, exponent = self.counts, self.first, self.exponent
        while len(counts) > cells:
            counts, first = _coarsened(counts, first, 1)
            exponent += 1
        state = {**self.state(), "first": first, "exponent": exponent}
        return Histogram.of_state(state, counts)

    def state(self) -> dict[str, float | int | bool]:
        """Return everything but `counts`, as JSON holds it."""
        return {name: value for name, value in vars(self).items() if name != "counts"}

    @classmethod
    def of_state(cls, state: Mapping[str, Any], counts: npt.NDArray[Any]) -> Self:
        """Return the histogram that `state` and `counts` describe."""
        return cls(**state, counts=np.array(counts, np.int64))

    def _add_piece(self, piece: npt.NDArray[Any]) -> None:
        low, high = float(piece.min()), float(piece.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            # Rare, so only here the cost of a mask: NaN and infinities always show in the extremes.
            finite = piece[np.isfinite(piece)]
            self.nonfinite += piece.size - finite.size
            if finite.size:
                self._add_piece(finite)
            return
        self.minimum, self.maximum = min(self.minimum, low), max(self.maximum, high)
        if not self.is_counted:
            return
        self._reach(low, high)
        if self.exponent > 0:  # so wide a cell that tiny float32 values would vanish beside it
            piece = piece.astype(np.float64)
        # A product with a power of two is exact, and so is a sum of whole numbers this small: no
        # value is rounded into the cell beside its own.
        cells = piece * piece.dtype.type(math.ldexp(1.0, -self.exponent))
        np.floor(cells, out=cells)
        cells -= self.first
        self.counts += np.bincount(cells.astype(np.intp), minlength=len(self.counts))
        self.zeros += int(np.count_nonzero(piece == 0))

    def _reach(self, low: float, high: float) -> None:
        """Widen the grid so that it holds 0, ``low`` and ``high``."""
        exponent = max(self.exponent, _exponent_below(max(-low, high)))
        while True:
            low_cell, high_cell = _cell(min(low, 0.0), exponent), _cell(max(high, 0.0), exponent)
            counted = exponent - self.exponent
            first = min(self.first >> counted, low_cell)
            last = max((self.first + len(self.counts) - 1) >> counted, high_cell)
            if last - first < CELLS:
                break
            exponent += 1
        if (exponent, first, last - first + 1) == (self.exponent, self.first, len(self.counts)):
            return
        grown = np.zeros(last - first + 1, np.int64)
        if len(self.counts):
            counts, start = _coarsened(self.counts, self.first, exponent - self.exponent)
            grown[start - first : start - first + len(counts)] = counts
        self.exponent, self.first, self.counts = exponent, first, grown


def _coarsened(counts: Counts, first: int, doublings: int) -> tuple[Counts, int]:
    """Return counts by cells of a width doubled again and again, and the first cell's number."""
    cells = np.arange(first, first + len(counts)) >> doublings  # rounds down below 0 too
    # Weights make floats of the counts; up to 2**53 they are the same whole numbers.
    merged = np.bincount(cells - cells[0], weights=counts)
    return merged.astype(np.int64), int(cells[0])


def _cell(value: float, exponent: int) -> int:
    return math.floor(math.ldexp(value, -exponent))


def _exponent_below(magnitude: float) -> int:
    """Return an exponent at which a value of this size is too far from 0 for half the cells."""
    if magnitude <= 0.0:
        return _LOWEST_EXPONENT
    return math.frexp(magnitude)[1] - CELLS.bit_length()
