"""What samples are like, input by input, from one pass over them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.calibration.samples import Feed, Samples
from graphopt.ir.hashing import blake2b
from graphopt.runtime import Histogram, TensorSpec

__all__ = ["InputSurvey", "Survey", "distance", "distance_from_normal", "distance_from_uniform"]

LAGS = 4
"""Steps along the last axis over which neighbours are compared."""

# Neighbours are compared in so many samples; more would only say the same again.
_COMPARED_SAMPLES = 16
_SMALLEST_ROW = 16
_COARSE_CELLS = 512


@dataclass
class InputSurvey:
    """What one input holds over all samples.

    Attributes:
        name: Its name.
        histogram: Of its values; empty for text.
        is_whole: Every value is a whole number.
        constant_samples: Samples in which all values are one.
        shapes: How often each shape occurs.
    """

    name: str
    histogram: Histogram = field(default_factory=Histogram)
    is_whole: bool = True
    constant_samples: int = 0
    shapes: Counter[tuple[int, ...]] = field(default_factory=Counter)
    _products: list[float] = field(default_factory=lambda: [0.0] * LAGS)
    _squares: float = 0.0
    _compared: int = 0

    def add(self, array: npt.NDArray[Any]) -> None:
        """Take in what one sample holds."""
        self.shapes[array.shape] += 1
        if array.dtype.kind in "OUS" or not array.size:
            return
        self.histogram.add(array)
        if array.dtype.kind == "f":
            self.is_whole = self.is_whole and bool(np.all(array == np.rint(array)))
        self.constant_samples += bool(np.all(array == array.flat[0]))
        if array.ndim > 1 and array.shape[-1] >= _SMALLEST_ROW:
            self._compare_neighbours(array)

    @property
    def correlations(self) -> tuple[float, ...] | None:
        """Correlation of values 1, 2, ... steps apart along the last axis; ``None`` if unknown."""
        if not self._squares:
            return None
        return tuple(product / self._squares for product in self._products)

    @property
    def usual_length(self) -> int | None:
        """The middle one of the sizes of axis 1, where that varies or could; else ``None``."""
        lengths = [
            shape[1] for shape, count in self.shapes.items() for _ in range(count) if shape[1:]
        ]
        return sorted(lengths)[len(lengths) // 2] if lengths else None

    def _compare_neighbours(self, array: npt.NDArray[Any]) -> None:
        if self._compared >= _COMPARED_SAMPLES:
            return
        self._compared += 1
        centred = array.astype(np.float64)
        centred -= centred.mean()
        scale = float(np.square(centred).mean())
        if not scale:
            return
        self._squares += 1.0
        for lag in range(1, LAGS + 1):
            self._products[lag - 1] += (
                float((centred[..., lag:] * centred[..., :-lag]).mean()) / scale
            )


@dataclass
class Survey:
    """What samples are like.

    Attributes:
        samples: Number of feeds.
        rows: Number of rows: sizes of the first axis, added up, where all inputs agree on it.
        largest: Number of rows of the largest feed.
        duplicates: Feeds that equal an earlier one.
        inputs: By name.
    """

    samples: int = 0
    rows: int = 0
    largest: int = 0
    duplicates: int = 0
    inputs: dict[str, InputSurvey] = field(default_factory=dict)

    @classmethod
    def of(cls, samples: Samples, specs: Sequence[TensorSpec] | None = None) -> Survey:
        """Look at every sample once, checked against ``specs`` before: see `Samples.checked`."""
        made = cls()
        digests: set[bytes] = set()
        for feed in samples if specs is None else samples.checked(specs):
            made.add(feed)
            digest = _digest(feed)
            made.duplicates += digest in digests
            digests.add(digest)
            del feed  # before the next one is read
        return made

    def add(self, feed: Feed) -> None:
        """Take in one sample, but for whether it equals an earlier one."""
        self.samples += 1
        sizes = {array.shape[0] if array.ndim else 1 for array in feed.values()}
        rows = sizes.pop() if len(sizes) == 1 else 1
        self.rows += rows
        self.largest = max(self.largest, rows)
        for name, array in feed.items():
            self.inputs.setdefault(name, InputSurvey(name)).add(array)


def _digest(feed: Feed) -> bytes:
    digest = blake2b()
    for name in sorted(feed):
        array = np.ascontiguousarray(feed[name])
        digest.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        digest.update(str(array.tolist()).encode() if array.dtype.hasobject else array.tobytes())
    return digest.digest()


# -- distances of distributions: the largest difference of their cumulative shares (Kolmogorov) --


def distance(first: Histogram, second: Histogram) -> float:
    """Return the distance of two distributions, in [0, 1], at the edges of the wider cells."""
    exponent = max(first.exponent, second.exponent)
    (start, one), (other_start, two) = (_at(item, exponent) for item in (first, second))
    low = min(start, other_start)
    length = max(start + len(one), other_start + len(two)) - low
    shares = np.zeros((2, length))
    for row, begin, counts in zip(shares, (start, other_start), (one, two), strict=True):
        row[begin - low : begin - low + len(counts)] = counts / max(counts.sum(), 1)
    return float(np.abs(np.diff(np.cumsum(shares, axis=1), axis=0)).max(initial=0.0))


def _at(histogram: Histogram, exponent: int) -> tuple[int, npt.NDArray[Any]]:
    cells = np.arange(histogram.first, histogram.first + len(histogram.counts))
    cells >>= exponent - histogram.exponent
    counts = np.zeros(0) if not len(cells) else np.bincount(cells - cells[0], histogram.counts)
    return (int(cells[0]) if len(cells) else 0), counts


def distance_from_normal(histogram: Histogram) -> float:
    """Return the distance from the normal distribution of the same mean and deviation."""
    mean, deviation = _moments(histogram)
    if not deviation:
        return 1.0
    scaled = (histogram.coarser(_COARSE_CELLS).edges - mean) / (deviation * math.sqrt(2.0))
    return _distance_from(histogram, [(1.0 + math.erf(edge)) / 2.0 for edge in scaled.tolist()])


def distance_from_uniform(histogram: Histogram, low: float, high: float) -> float:
    """Return the distance from the even distribution over ``[low, high]``."""
    edges = histogram.coarser(_COARSE_CELLS).edges
    return _distance_from(histogram, np.clip((edges - low) / (high - low), 0.0, 1.0).tolist())


def _distance_from(histogram: Histogram, expected: Sequence[float]) -> float:
    counts = histogram.coarser(_COARSE_CELLS).counts
    found = np.concatenate([[0.0], np.cumsum(counts)]) / max(int(counts.sum()), 1)
    return float(np.abs(found - np.asarray(expected)).max())


def _moments(histogram: Histogram) -> tuple[float, float]:
    edges, counts = histogram.edges, histogram.counts
    total = int(counts.sum())
    if not total:
        return 0.0, 0.0
    centres = (edges[1:] + edges[:-1]) / 2.0
    mean = float(centres @ counts) / total
    return mean, math.sqrt(float(np.square(centres - mean) @ counts) / total)
