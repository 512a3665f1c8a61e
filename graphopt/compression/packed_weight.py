"""Weights held as integers in blocks, each block with a scale of its own.

A weight is seen as ``(outer, length, inner)``: sums of products run along ``length``, which is cut
into blocks of equal size. ``w ~ q * scale``, symmetric, as `quantization` has it. Two things make
these integers better than rounding with one scale per output channel, at nearly the same size:

* A single large weight costs precision in its own block only.
* Errors are made to cancel: after rounding to the nearest, as few weights as possible are rounded
  to the other side so that each kernel, and each output channel, keeps its sum. What enters a
  layer is rarely centred, and the pixels under a kernel are much alike, so that the error of the
  sum is what the output sees most. That is the objective of Guo et al. 2022, "SQuant: On-the-Fly
  Data-Free Quantization via Diagonal Hessian Approximation", section 3 (their terms K and C).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from graphopt.compression.compensated_rounding import compensation_for, round_compensated

__all__ = [
    "PackedWeight",
    "WeightView",
    "block_length",
    "block_scales",
    "pack_weight",
    "unpack_weight",
]

FloatArray: TypeAlias = npt.NDArray[np.float32]

_STEPS = {8: 127, 16: 32767}
_TYPES: dict[int, np.dtype[Any]] = {8: np.dtype(np.int8), 16: np.dtype(np.int16)}
_SHORTEST_BLOCK = 8  # below, the scales outweigh what the finer steps gain
# Where a float16 is a normal number, its own rounding moves no integer by more than a quarter.
_HALF_RANGE = (2.0**-14, 65504.0)
_SMALLEST_SCALE = 2.0**-120
_ROWS_AT_ONCE = 1 << 22  # elements


@dataclass(frozen=True)
class WeightView:
    """How a weight of any rank is seen as ``(outer, length, inner)``.

    Attributes:
        outer: Elements of the axes before those that are summed over.
        length: Elements that are summed over for one output.
        inner: Elements of the axes behind.
        kernel: Neighbours along `length` that see much the same inputs: the pixels of a kernel. 1
            where there are none.
    """

    outer: int
    length: int
    inner: int
    kernel: int = 1


@dataclass(frozen=True)
class PackedWeight:
    """A weight as integers and scales.

    Attributes:
        integers: int8 or int16; ``(outer, blocks, block, inner)``.
        scale: float16 or float32, positive; ``(outer, blocks, 1, inner)``.
    """

    integers: npt.NDArray[Any]
    scale: npt.NDArray[Any]

    @property
    def blocks(self) -> int:
        """Number of blocks along the axis that is summed over."""
        return int(self.integers.shape[1])


def pack_weight(
    weight: FloatArray,
    view: WeightView,
    *,
    bits: int = 8,
    block_size: int | None = 32,
    grams: npt.NDArray[np.float64] | None = None,
) -> PackedWeight:
    """Return ``weight`` as integers whose errors cancel within kernels and channels.

    Where it is known what the weight is multiplied by, they cancel for that: `round_compensated`.

    Args:
        weight: float32 and finite, of ``outer * length * inner`` elements.
        view: What is summed over.
        bits: 8 or 16.
        block_size: Wanted elements per scale; the nearest divisor of the length is taken. ``None``
            for one scale per output.
        grams: ``E[x x^T]`` of the inputs, by group of outputs: ``(groups, length, length)``.
    """
    block = view.length if block_size is None else block_length(view.length, block_size)
    seen = weight.reshape(view.outer, view.length // block, block, view.inner)
    largest = np.maximum(seen.max(axis=2, keepdims=True), -seen.min(axis=2, keepdims=True))
    scale = block_scales(largest, _STEPS[bits], is_half=block < view.length)
    integers = np.empty(seen.shape, _TYPES[bits])
    step = max(_ROWS_AT_ONCE // max(view.length * view.inner, 1), 1)
    if grams is not None:  # a group has one matrix, whose factor is formed once
        step = max(view.outer // len(grams), 1)
    for number, first in enumerate(range(0, view.outer, step)):
        rows = slice(first, first + step)
        gram = None if grams is None else grams[min(number, len(grams) - 1)]
        integers[rows] = _rounded(seen[rows], scale[rows], view.kernel, _STEPS[bits], gram)
    return PackedWeight(integers, scale)


def unpack_weight(packed: PackedWeight, shape: tuple[int, ...]) -> FloatArray:
    """Return ``q * scale`` as the runtime computes it, in float32."""
    restored = packed.integers.astype(np.float32) * packed.scale.astype(np.float32)
    result: FloatArray = restored.reshape(shape)
    return result


def block_length(length: int, wanted: int) -> int:
    """Return the divisor of ``length`` that is nearest to ``wanted``, or ``length`` itself."""
    divisors = [size for size in range(_SHORTEST_BLOCK, 2 * wanted + 1) if length % size == 0]
    return min(divisors, key=lambda size: abs(np.log(size / wanted)), default=length)


def block_scales(largest: FloatArray, steps: int, *, is_half: bool) -> npt.NDArray[Any]:
    """Return ``largest / steps``, rounded up; in float16 where that loses nothing."""
    exact = largest.astype(np.float64) / steps
    used = exact > _SMALLEST_SCALE
    # A block of zeros, or of denormal numbers, is held by zeros under any scale.
    exact = np.where(used, exact, exact.max(initial=0.0, where=used) or 1.0)
    fits = _HALF_RANGE[0] <= exact.min(initial=1.0) and exact.max(initial=1.0) < _HALF_RANGE[1]
    dtype = np.dtype(np.float16 if is_half and fits else np.float32)
    rounded = exact.astype(dtype)
    above = np.nextafter(rounded, dtype.type(np.inf))
    result: npt.NDArray[Any] = np.where(rounded < exact, above, rounded)
    return result


def _rounded(
    seen: FloatArray,
    scale: npt.NDArray[Any],
    kernel: int,
    steps: int,
    gram: npt.NDArray[np.float64] | None,
) -> npt.NDArray[np.float32]:
    """Return integers, as floats, for ``seen``: ``(rows, blocks, block, inner)``."""
    rows, blocks, block, inner = seen.shape
    step = np.broadcast_to(scale.astype(np.float32), seen.shape)
    # One output a row, everything that it sums over in it.
    in_rows = (0, 3, 1, 2)
    flat = (rows * inner, blocks * block)
    weight = seen.transpose(in_rows).reshape(flat)
    size = step.transpose(in_rows).reshape(flat)
    if gram is not None and (compensation := compensation_for(gram)) is not None:
        found = round_compensated(weight, size, compensation, steps)
        return found.reshape(rows, inner, blocks, block).transpose(0, 2, 3, 1)
    integers = np.rint(weight / size)
    np.clip(integers, -steps, steps, out=integers)
    if kernel > 1:
        grouped = (-1, kernel)
        _balance(integers.reshape(grouped), weight.reshape(grouped), size.reshape(grouped), steps)
    _balance(integers, weight, size, steps)
    return integers.reshape(rows, inner, blocks, block).transpose(0, 2, 3, 1)


def _balance(integers: FloatArray, weight: FloatArray, size: FloatArray, steps: int) -> None:
    """Round some elements of each row to the other side, so that the row keeps its sum; in place.

    Those nearest to the middle between two integers come first: there, the other side is hardly
    worse. Each moves the sum by its own step, and none is moved that would overshoot by more than
    it corrects.

    Args:
        integers: ``(rows, elements)``; a view of what is to be changed.
        weight: What they stand for.
        size: Step of each element.
        steps: Largest magnitude of an integer.
    """
    rest = weight - integers * size
    missing = rest.sum(axis=1, keepdims=True, dtype=np.float64).astype(np.float32)
    sign = np.sign(missing)
    doubt = np.abs(rest) / size
    is_able = (rest * sign > 0) & (size < 2 * np.abs(missing)) & (np.abs(integers + sign) <= steps)
    order = np.argsort(np.where(is_able, -doubt, 1.0), axis=1)
    moves = np.take_along_axis(np.where(is_able, size, 0.0), order, axis=1)
    # Moving one more helps as long as half of it still fits into what is missing.
    helps = (moves > 0) & (np.cumsum(moves, axis=1) - moves / 2 < np.abs(missing))
    change = np.zeros_like(integers)
    np.put_along_axis(change, order, helps.astype(np.float32), axis=1)
    integers += change * sign
