"""Block-wise integer weights: a scale for each stretch of a column, as MatMulNBits reads them.

A weight has shape ``(inputs, outputs)``. Blocks of ``size`` consecutive inputs of one output share
a scale, and with asymmetric integers a zero point: ``w ~ scale * (q - zero_point)``, as in ONNX
``DequantizeLinear`` with ``block_size`` (opset 21) along axis 0. The last block may be shorter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

__all__ = [
    "BlockFormat",
    "BlockWeights",
    "block_parameters",
    "quantize_blocks",
    "round_to_blocks",
]

FloatArray: TypeAlias = npt.NDArray[np.float32]

# A product of two scales must still be a normal float32.
_SMALLEST_SCALE = np.float32(2.0**-60)
# Shares of the widest scale that are tried. Above 1 the largest value gets nearer to a multiple of
# the scale; below 0.75 too much is cut off for any distribution of weights that was met.
_SHRINKAGES = tuple(float(share) for share in np.linspace(0.75, 1.1, 15))
# With 8 bits rounding is 40 dB below the weights, and a search gains less than 0.1 dB.
_SEARCHED_BITS = 4
# Elements at a time: several float32 arrays of this size are in memory at once.
_CHUNK_ELEMENTS = 1 << 21


@dataclass(frozen=True)
class BlockFormat:
    """How the integers of a weight are stored.

    Attributes:
        bits: 4 or 8.
        size: Inputs that share a scale; 0 for all of one output.
        symmetric: There are no zero points: integers are signed.
    """

    bits: int
    size: int
    symmetric: bool

    @property
    def limits(self) -> tuple[int, int]:
        """Smallest and largest integer in use."""
        half = 2 ** (self.bits - 1)
        # Without the lowest integer 8-bit weights are the same under a change of sign. Of 4 bits
        # every integer is worth 0.5 dB.
        lowest = -half if self.bits == _SEARCHED_BITS else 1 - half
        return (lowest, half - 1) if self.symmetric else (0, 2 * half - 1)

    @property
    def dtype(self) -> ir.DataType:
        """Type of the stored integers."""
        return ir.DataType[f"{'' if self.symmetric else 'U'}INT{self.bits}"]

    def blocks(self, inputs: int) -> int:
        """Return how many blocks a column of ``inputs`` elements has."""
        return -(-inputs // self.size) if self.size else 1


@dataclass(frozen=True)
class BlockWeights:
    """A quantized weight.

    Attributes:
        integers: int8 or uint8, ``(inputs, outputs)``; 4-bit ones are not packed.
        scale: float32, ``(blocks, outputs)``, never 0.
        zero_point: Integers of the type of `integers`, ``(blocks, outputs)``; ``None`` where
            symmetric.
        form: Their format.
    """

    integers: npt.NDArray[Any]
    scale: FloatArray
    zero_point: npt.NDArray[Any] | None
    form: BlockFormat

    def dequantized(self) -> FloatArray:
        """Return the float32 weight that a runtime computes with, ``(inputs, outputs)``."""
        size = self.form.size or len(self.integers)
        rows = np.arange(len(self.integers)) // size
        centred = self.integers.astype(np.float32)
        if self.zero_point is not None:
            centred -= self.zero_point.astype(np.float32)[rows]
        centred *= self.scale[rows]
        return centred

    def stored(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return integers, or zero points, in the numpy type that stands for the stored type."""
        return array.astype(self.form.dtype.numpy(), copy=False)


def quantize_blocks(
    weight: FloatArray, form: BlockFormat, importance: npt.NDArray[np.floating] | None = None
) -> BlockWeights:
    """Round ``weight`` to the nearest integers, with the scales of least squared error.

    Args:
        weight: float32, ``(inputs, outputs)``; only a stretch of columns is copied at a time.
        form: How it is stored.
        importance: ``(inputs,)``, weights of the squared errors, such as the mean square of what
            is multiplied by each row; all the same by default.

    Raises:
        ValueError: A weight is NaN or infinite.
    """
    inputs, outputs = weight.shape
    dtype = np.int8 if form.symmetric else np.uint8
    integers = np.empty((inputs, outputs), dtype)
    blocks = form.blocks(inputs)
    scale = np.empty((blocks, outputs), np.float32)
    zero_point = None if form.symmetric else np.empty((blocks, outputs), dtype)
    step = max(_CHUNK_ELEMENTS // max(inputs, 1), 1)
    for start in range(0, outputs, step):
        part = slice(start, start + step)
        stretch = _blocked(np.ascontiguousarray(weight[:, part], np.float32), form)
        share = None if importance is None else _blocked(importance.reshape(-1, 1), form)
        scale[:, part], found = block_parameters(stretch, form, share)
        if zero_point is not None:
            assert found is not None
            zero_point[:, part] = found
        rounded = round_to_blocks(stretch, scale[:, None, part], _between(found), form)
        integers[:, part] = rounded.reshape(-1, rounded.shape[-1])[:inputs]
    return BlockWeights(integers, scale, zero_point, form)


def _blocked(array: npt.NDArray[Any], form: BlockFormat) -> npt.NDArray[Any]:
    """Return ``(inputs, outputs)`` as ``(blocks, size, outputs)``, the last block padded by 0."""
    inputs, outputs = array.shape
    size = form.size or max(inputs, 1)
    missing = form.blocks(inputs) * size - inputs
    if missing:
        array = np.concatenate([array, np.zeros((missing, outputs), array.dtype)])
    return array.reshape(-1, size, outputs)


def _between(zero_point: npt.NDArray[Any] | None) -> npt.NDArray[Any] | None:
    return None if zero_point is None else zero_point[:, None]


def block_parameters(
    blocks: FloatArray, form: BlockFormat, importance: npt.NDArray[np.floating] | None = None
) -> tuple[FloatArray, npt.NDArray[Any] | None]:
    """Return scales and zero points of ``blocks``, both ``(blocks, outputs)``.

    The widest scale reaches the outermost values; with 4 bits narrower and wider ones are tried,
    and the one with the least (weighted) squared error is taken.

    Args:
        blocks: float32, ``(blocks, size, outputs)``.
        form: How they are stored.
        importance: Weights of the squared errors, broadcast over ``blocks``.

    Raises:
        ValueError: A value is NaN or infinite.
    """
    low = np.minimum(blocks.min(axis=1), np.float32(0))
    high = np.maximum(blocks.max(axis=1), np.float32(0))
    if not (np.all(np.isfinite(low)) and np.all(np.isfinite(high))):
        raise ValueError("a weight is NaN or infinite")
    lowest, highest = form.limits
    zero_point: npt.NDArray[Any] | None = None
    if form.symmetric:
        widest = _symmetric_scale(low, high, form)
    else:
        # Halved before they are subtracted: the span of two finite floats may not be one.
        widest = (high / 2 - low / 2) / np.float32((highest - lowest) / 2)
        widest = np.maximum(widest, _SMALLEST_SCALE)
        zero_point = np.clip(np.rint(-low / widest), lowest, highest).astype(np.uint8)
    if form.bits != _SEARCHED_BITS:
        return widest, zero_point
    return _searched(blocks, widest, zero_point, form, importance), zero_point


def _symmetric_scale(low: FloatArray, high: FloatArray, form: BlockFormat) -> FloatArray:
    lowest, highest = form.limits
    largest = np.maximum(high, -low)
    if lowest == -highest:
        return np.maximum(largest / np.float32(highest), _SMALLEST_SCALE)
    # Signed integers reach further down than up: the sign of the scale lets the outermost value
    # be the lowest integer.
    steps = np.maximum(largest / np.float32(-lowest), _SMALLEST_SCALE)
    return np.where(-low >= high, steps, -steps)


def _searched(
    blocks: FloatArray,
    widest: FloatArray,
    zero_point: npt.NDArray[Any] | None,
    form: BlockFormat,
    importance: npt.NDArray[np.floating] | None,
) -> FloatArray:
    best = widest
    least = np.full(widest.shape, np.inf, np.float32)
    shift = np.float32(0) if zero_point is None else zero_point[:, None].astype(np.float32)
    for share in _SHRINKAGES:
        scale = np.where(np.abs(widest) > _SMALLEST_SCALE, widest * np.float32(share), widest)
        error = round_to_blocks(blocks, scale[:, None], _between(zero_point), form)
        error -= shift
        error *= scale[:, None]
        error -= blocks
        np.square(error, out=error)
        if importance is not None:
            error *= importance
        total = error.sum(axis=1)
        better = total < least
        best, least = np.where(better, scale, best), np.where(better, total, least)
    return best


def round_to_blocks(
    values: FloatArray,
    scale: FloatArray,
    zero_point: npt.NDArray[Any] | None,
    form: BlockFormat,
) -> FloatArray:
    """Return the nearest integers, as float32: ``clip(rint(w / scale) + zero_point)``.

    Args:
        values: float32, any shape.
        scale: Broadcast over it.
        zero_point: Likewise; ``None`` where symmetric.
        form: The format, for its limits.
    """
    lowest, highest = form.limits
    rounded = values / scale
    np.rint(rounded, out=rounded)
    if zero_point is not None:
        rounded += zero_point
    return np.clip(rounded, lowest, highest, out=rounded)
