"""Affine integer quantization: ranges to parameters, arrays to integers and back.

Everywhere ``x ~ scale * (q - zero_point)``, as in ONNX ``QuantizeLinear`` (opset 13): ``q`` is
``x / scale`` rounded half to even, plus the zero point, saturated to the integer type. The
formulas are those of Jacob et al. 2018, "Quantization and Training of Neural Networks for
Efficient Integer-Arithmetic-Only Inference", equations 1, 5 and section 2.4 (bias).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = [
    "INTEGER_TYPES",
    "LARGEST_VALUE",
    "SMALLEST_VALUE",
    "IntegerType",
    "QuantizationParameters",
    "bias_parameters",
    "dequantize",
    "parameters_from_range",
    "quantize",
    "weight_parameters",
    "widen_for_bias",
]

FloatArray: TypeAlias = npt.NDArray[np.float32]

LARGEST_VALUE = 1e30
"""Beyond it is what stands for infinity, as in masks: no scale has room for it and for numbers."""
SMALLEST_VALUE = 1e-13
"""Below it no scale is fine enough: a product of two must still be a normal float."""

# Smaller scales are of no use: a product of two of them must still be a normal float32.
_SMALLEST_SCALE = 2.0**-60
# Half of the int32 range, so that a bias leaves room for the sum of products it is added to.
_BIAS_LIMIT = 2.0**30


@dataclass(frozen=True)
class IntegerType:
    """An integer type of a quantized tensor.

    Attributes:
        name: ``u8``, ``s8``, ``u16`` or ``s16``.
        dtype: Numpy type.
        minimum: Smallest integer.
        maximum: Largest integer.
    """

    name: str
    dtype: np.dtype[Any]
    minimum: int
    maximum: int

    @property
    def middle(self) -> int:
        """The zero point of a symmetric range."""
        return (self.minimum + self.maximum + 1) // 2


INTEGER_TYPES = {
    "u8": IntegerType("u8", np.dtype(np.uint8), 0, 255),
    "s8": IntegerType("s8", np.dtype(np.int8), -128, 127),
    "u16": IntegerType("u16", np.dtype(np.uint16), 0, 65535),
    "s16": IntegerType("s16", np.dtype(np.int16), -32768, 32767),
}


@dataclass(frozen=True)
class QuantizationParameters:
    """Scale and zero point of one tensor, or of each of its channels.

    Attributes:
        scale: float32, positive and finite; shape ``()``, or ``(channels,)`` along `axis`.
        zero_point: Integers of the quantized type, of the same shape.
        axis: Channel axis, or ``None`` where one pair serves the whole tensor.
        limits: Smallest and largest integer used.
    """

    scale: FloatArray
    zero_point: npt.NDArray[Any]
    axis: int | None
    limits: tuple[int, int]

    def shaped_for(self, rank: int) -> tuple[FloatArray, npt.NDArray[Any]]:
        """Return scale and zero point in a shape that broadcasts over an array of ``rank``."""
        if self.axis is None:
            return self.scale, self.zero_point
        shape = [1] * rank
        shape[self.axis] = -1
        return self.scale.reshape(shape), self.zero_point.reshape(shape)


def parameters_from_range(
    minimum: float, maximum: float, kind: str = "u8", *, symmetric: bool = False
) -> QuantizationParameters:
    """Return the parameters of a tensor whose values lie in ``[minimum, maximum]``.

    The range is widened to contain 0, so that padding is exact. Asymmetric (section 2.1 of the
    paper): ``scale = (max - min) / (q_max - q_min)``, ``zero_point = round(q_min - min / scale)``.
    Symmetric: ``scale = max(|min|, |max|) / (q_max - zero_point)`` about the middle of the type.
    An empty range, as of a tensor that is always 0, has scale 1.

    Args:
        minimum: Smallest value.
        maximum: Largest value.
        kind: Integer type, a name in `INTEGER_TYPES`.
        symmetric: The zero point is the middle of the type.

    Raises:
        ValueError: A bound is not finite, or they are in the wrong order.
    """
    if not (math.isfinite(minimum) and math.isfinite(maximum)) or minimum > maximum:
        raise ValueError(f"not a finite range: [{minimum}, {maximum}]")
    integer = INTEGER_TYPES[kind]
    low, high = min(minimum, 0.0), max(maximum, 0.0)
    if symmetric:
        scale = _usable_scale(max(-low, high) / (integer.maximum - integer.middle))
        zero_point = integer.middle
        limits = (2 * integer.middle - integer.maximum, integer.maximum)
    else:
        scale = _usable_scale((high - low) / (integer.maximum - integer.minimum))
        exact = integer.minimum - low / float(scale)
        zero_point = min(max(round(exact), integer.minimum), integer.maximum)
        limits = (integer.minimum, integer.maximum)
    return QuantizationParameters(
        scale=np.asarray(scale, np.float32),
        zero_point=np.asarray(zero_point, integer.dtype),
        axis=None,
        limits=limits,
    )


def _usable_scale(scale: float) -> np.float32:
    # A range of zeros, or of denormal numbers, is represented by the zero point alone.
    return np.float32(scale) if scale >= _SMALLEST_SCALE else np.float32(1.0)


def weight_parameters(
    weights: FloatArray, axis: int | None, kind: str = "s8", *, reduce_range: bool = False
) -> QuantizationParameters:
    """Return symmetric parameters of a weight tensor: ``scale = max|w| / q_max``.

    A channel of zeros has the smallest scale in use, so that its bias can still be exact.

    Args:
        weights: float32, any shape.
        axis: Channel axis with a scale each, or ``None`` for one scale.
        kind: Integer type.
        reduce_range: Use 7 bits, ``[-64, 64]`` about the zero point: the sum of two products with
            8-bit unsigned activations, ``2 * 255 * 64``, then fits the 16-bit accumulators of x86
            processors without VNNI.

    Raises:
        ValueError: A weight is NaN or infinite.
    """
    integer = INTEGER_TYPES[kind]
    steps = 64 if reduce_range else integer.maximum - integer.middle
    kept = None if axis is None else axis % weights.ndim
    others = tuple(index for index in range(weights.ndim) if index != kept)
    if weights.size:
        largest = np.maximum(weights.max(axis=others), -weights.min(axis=others))
    else:
        largest = np.zeros(() if axis is None else weights.shape[axis], np.float32)
    if not np.all(np.isfinite(largest)):
        raise ValueError("a weight is NaN or infinite")
    scale = np.asarray(np.maximum(np.float64(largest) / steps, _SMALLEST_SCALE), np.float32)
    return QuantizationParameters(
        scale=scale,
        zero_point=np.full(scale.shape, integer.middle, integer.dtype),
        axis=kept,
        limits=(integer.middle - steps, integer.middle + steps),
    )


def quantize(array: FloatArray, parameters: QuantizationParameters) -> npt.NDArray[Any]:
    """Return ``saturate(round_half_even(x / scale) + zero_point)``, in the shape of ``array``."""
    scale, zero_point = parameters.shaped_for(array.ndim)
    # float32 as the runtime does it; 32-bit integers need more digits than float32 has.
    precision = np.float64 if parameters.zero_point.dtype.itemsize > 1 else np.float32
    steps = np.asarray(np.divide(array, scale, dtype=precision))  # of a scalar, it is no array
    np.rint(steps, out=steps)
    if np.any(parameters.zero_point):
        steps += zero_point.astype(precision)
    low, high = parameters.limits
    np.clip(steps, low, high, out=steps)
    return steps.astype(parameters.zero_point.dtype)


def dequantize(integers: npt.NDArray[Any], parameters: QuantizationParameters) -> FloatArray:
    """Return ``scale * (q - zero_point)`` as float32."""
    scale, zero_point = parameters.shaped_for(integers.ndim)
    centred = integers.astype(np.int32) - zero_point.astype(np.int32)
    return centred.astype(np.float32) * scale


def widen_for_bias(
    parameters: QuantizationParameters, bias: FloatArray, input_scale: float
) -> QuantizationParameters:
    """Return weight parameters with which an int32 bias of ``input_scale * scale`` cannot overflow.

    A channel of tiny weights under a large bias would need more than 32 bits; its scale is raised
    to ``|bias| / (input_scale * 2^30)``, which loses nothing that the bias would not drown. A
    channel without weights gets that scale too, so that its bias keeps its precision.

    Args:
        parameters: Of the weights, per channel or not.
        bias: float32, ``(channels,)``.
        input_scale: Scale of the activations.
    """
    least = np.abs(bias.astype(np.float64)) / (float(input_scale) * _BIAS_LIMIT)
    if parameters.axis is None:
        least = least.max(initial=0.0)
    least = np.minimum(least, 1 / _SMALLEST_SCALE)
    scale = np.asarray(np.maximum(parameters.scale, least), np.float32)
    return QuantizationParameters(scale, parameters.zero_point, parameters.axis, parameters.limits)


def bias_parameters(
    parameters: QuantizationParameters, input_scale: FloatArray
) -> QuantizationParameters:
    """Return the parameters of an int32 bias: ``scale = input_scale * weight_scale``, zero point 0.

    ONNX Runtime compares this product with the scales of the other two operands, and fuses only
    where they agree, so that it is formed in float32.

    Args:
        parameters: Of the weights, per channel or not.
        input_scale: Scale of the activations, shape ``()``.
    """
    scale = np.asarray(parameters.scale * input_scale, np.float32)
    return QuantizationParameters(
        scale=scale,
        zero_point=np.zeros(scale.shape, np.int32),
        axis=None if parameters.axis is None else 0,
        limits=(-(2**31), 2**31 - 1),
    )
