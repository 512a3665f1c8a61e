"""Sums of rows and of their products, while a session computes them (worker side).

Rows are summed as they are, in float32 or float64, and the sums held in float64. Products of rows
are formed in float32 in blocks of at most `_BLOCK` rows, which keeps six digits, and added up in
float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["PairSums", "RowSums", "Rows", "rows_of", "without_padding"]

Rows: TypeAlias = npt.NDArray[Any]
"""``(rows, groups, channels of a group)``."""

Sums: TypeAlias = npt.NDArray[np.float64]

_BLOCK = 512  # rows; more would save little time and cost digits
_PRIME = 7919  # moves the sampled positions from run to run


def rows_of(array: npt.NDArray[Any], spec: dict[str, Any], run: int) -> Rows | None:
    """Return an array as rows of channels; ``None`` where its shape does not allow it.

    Args:
        array: What a value held in one run, padding left out.
        spec: `axis`, `window` (``None`` or the fields of `rewrite.Window`) and `positions`.
        run: Number of the run, which moves sampled positions.
    """
    if array.dtype.kind in "OUSc":
        return None
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float32)
    if spec["window"] is not None:
        return _windows(array, spec["window"], spec["positions"], run)
    axis = spec["axis"]
    if not -array.ndim <= axis < array.ndim:
        return None
    moved = np.moveaxis(array, axis, -1)
    channels = moved.shape[-1]
    rows = math.prod(moved.shape[:-1])
    picked = _picked(rows, spec["positions"], run)
    flat = np.ascontiguousarray(moved).reshape(rows, channels)
    if picked is not None:
        flat = flat[picked]
    return flat[:, None, :]


def _picked(total: int, most: int | None, run: int) -> npt.NDArray[np.int64] | None:
    """Return which of ``total`` positions are looked at; ``None``: all."""
    if most is None or total <= most:
        return None
    return (np.arange(most, dtype=np.int64) * total // most + run * _PRIME) % total


def _windows(
    array: npt.NDArray[Any], window: dict[str, Any], most: int | None, run: int
) -> Rows | None:
    """Return what a convolution sees at some positions (im2col)."""
    kernel, strides, dilations = window["kernel"], window["strides"], window["dilations"]
    rank, groups = len(kernel), window["groups"]
    if array.ndim != rank + 2 or array.shape[1] % groups:
        return None
    pads = list(zip(window["pads"][:rank], window["pads"][rank:], strict=True))
    padded = np.pad(array, [(0, 0), (0, 0), *pads]) if any(window["pads"]) else array
    spans = [(size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True)]
    if any(size < span for size, span in zip(padded.shape[2:], spans, strict=True)):
        return None
    seen = np.lib.stride_tricks.sliding_window_view(padded, spans, tuple(range(2, rank + 2)))
    steps = tuple(slice(None, None, step) for step in (*strides, *dilations))
    seen = seen[(slice(None), slice(None), *steps)]
    places = (seen.shape[0], *seen.shape[2 : rank + 2])
    total = math.prod(places)
    picked = _picked(total, most, run)
    numbers = np.arange(total, dtype=np.int64) if picked is None else picked
    sample, *place = np.unravel_index(numbers, places)
    taken: tuple[Any, ...] = (sample, slice(None), *place)
    rows = seen[taken]
    return np.ascontiguousarray(rows).reshape(len(numbers), groups, -1)


class _Products:
    """Adds up ``first^T second``, group by group, of rows that come a few at a time.

    Rows wait until there is a block of them: the sum of 2,304 channels has 42 MB, too much to pass
    over for the few rows of one run.
    """

    def __init__(self, groups: int, first: int, second: int) -> None:
        self.sums = np.zeros((groups, first, second))
        self._waiting: list[tuple[Rows, Rows]] = []
        self._rows = 0

    def add(self, first: Rows, second: Rows) -> None:
        """Take in rows, as many of the one as of the other; they may be views."""
        if len(first) < _BLOCK:
            # A view of what a run computed does not outlive it.
            left = first.copy()
            self._waiting.append((left, left if second is first else second.copy()))
            self._rows += len(first)
        else:
            self._sum(first, second)
        if self._rows >= _BLOCK:
            self._settle()

    def total(self) -> Sums:
        """Return the sum of all that came, ``(groups, first, second)``."""
        self._settle()
        return self.sums

    def _settle(self) -> None:
        waiting, self._waiting, self._rows = self._waiting, [], 0
        if waiting:
            left = np.concatenate([first for first, _ in waiting])
            is_one = all(first is second for first, second in waiting)
            right = left if is_one else np.concatenate([second for _, second in waiting])
            self._sum(left, right)

    def _sum(self, first: Rows, second: Rows) -> None:
        for start in range(0, len(first), _BLOCK):
            left, right = first[start : start + _BLOCK], second[start : start + _BLOCK]
            with np.errstate(all="ignore"):
                for group in range(len(self.sums)):
                    self.sums[group] += left[:, group].T @ right[:, group]


@dataclass
class RowSums:
    """Sums over the rows of one value.

    Attributes:
        has_gram: Products of channels are summed too.
    """

    has_gram: bool
    count: int = 0
    parts: dict[str, Sums] = field(default_factory=dict)
    widths: tuple[int, ...] | None = None
    products: _Products | None = None

    def found(self) -> dict[str, Sums]:
        """Return all sums by name."""
        return self.parts | ({"gram": self.products.total()} if self.products else {})

    def add(self, rows: Rows) -> None:
        """Add rows; where their width is not that of earlier ones, nothing is summed any more."""
        count, groups, width = rows.shape
        if not count or not _is_fixed(self, (groups, width)):
            return
        if not self.parts:
            for name in ("total", "squares"):
                self.parts[name] = np.zeros(groups * width)
            self.parts["minimum"] = np.full(groups * width, np.inf)
            self.parts["maximum"] = np.full(groups * width, -np.inf)
            if self.has_gram:
                self.products = _Products(groups, width, width)
        flat = rows.reshape(count, -1)
        with np.errstate(all="ignore"):  # what is not finite shows in the sums
            self.count += count
            self.parts["total"] += flat.sum(axis=0, dtype=np.float64)
            self.parts["squares"] += np.einsum("ij,ij->j", flat, flat, dtype=np.float64)
            self.parts["minimum"] = np.minimum(self.parts["minimum"], flat.min(axis=0))
            self.parts["maximum"] = np.maximum(self.parts["maximum"], flat.max(axis=0))
            if self.products is not None:
                self.products.add(rows, rows)


@dataclass
class PairSums:
    """Sums over the rows of two values together.

    Attributes:
        has_products: Products of their channels are summed; differences alone otherwise.
    """

    has_products: bool
    count: int = 0
    parts: dict[str, Sums] = field(default_factory=dict)
    widths: tuple[int, ...] | None = None
    products: _Products | None = None

    def found(self) -> dict[str, Sums]:
        """Return all sums by name."""
        return self.parts | ({"product": self.products.total()} if self.products else {})

    def add(self, first: Rows, second: Rows) -> None:
        """Add the rows of one run, as many of the one as of the other."""
        count = len(first)
        if not count or not _is_fixed(self, (*first.shape[1:], *second.shape[1:])):
            return
        is_alike = first[0].size == second[0].size
        if not self.parts and self.products is None:
            if is_alike:
                self.parts["shift"] = np.zeros(first[0].size)
                self.parts["error"] = np.zeros(first[0].size)
            if self.has_products:
                groups = first.shape[1]
                width = second[0].size // groups
                self.products = _Products(groups, first.shape[2], width)
        with np.errstate(all="ignore"):
            self.count += count
            if is_alike:
                flat = second.reshape(count, -1) - first.reshape(count, -1)
                self.parts["shift"] += flat.sum(axis=0, dtype=np.float64)
                self.parts["error"] += np.einsum("ij,ij->j", flat, flat, dtype=np.float64)
            if self.products is not None:
                self.products.add(first, second.reshape(count, first.shape[1], -1))


def _is_fixed(sums: RowSums | PairSums, widths: tuple[int, ...]) -> bool:
    """Tell whether rows are as wide as ever; else they have no channels, and all is forgotten."""
    if sums.widths is None:
        sums.widths = widths
    elif sums.widths != widths:
        sums.widths, sums.count, sums.products = (), 0, None
        sums.parts.clear()
    return bool(sums.widths)


def without_padding(
    array: npt.NDArray[Any], axis: int, mask: npt.NDArray[Any], axes: list[int]
) -> tuple[npt.NDArray[Any], int]:
    """Return the elements at the positions where ``mask`` is not 0, and where ``axis`` is now.

    All elements where the mask does not fit, or where the channels are among its axes.
    """
    channel = axis % array.ndim if array.ndim else 0
    wanted = mask.shape if len(axes) == mask.ndim else (mask.size,)
    if any(one >= array.ndim or one == channel for one in axes):
        return array, axis
    if tuple(array.shape[one] for one in axes) != wanted:
        return array, axis
    kept = np.moveaxis(array, axes, range(len(axes)))[mask.reshape(wanted) != 0]
    others = [one for one in range(array.ndim) if one not in axes]
    return kept, 1 + others.index(channel)
