"""16-bit floats: what they hold, and arrays narrowed to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

__all__ = ["HALF_FORMATS", "STANDS_FOR_INFINITY", "HalfFormat", "narrowed"]

STANDS_FOR_INFINITY = 1e30
"""No network computes with such numbers: they are how masks write infinity."""


@dataclass(frozen=True)
class HalfFormat:
    """A floating-point type of 16 bits.

    Attributes:
        name: ``float16`` (IEEE 754 binary16) or ``bfloat16``.
        dtype: The ONNX element type.
        array_dtype: The numpy type.
        largest: Largest finite number.
        least: Smallest positive number, a subnormal one.
        least_normal: Smallest number with all its digits.
        limit: Largest magnitude measured on samples that leaves room for what samples do not show.
    """

    name: str
    dtype: ir.DataType
    array_dtype: np.dtype[Any]
    largest: float
    least: float
    least_normal: float
    limit: float

    @property
    def type_string(self) -> str:
        """How ONNX schemas call a tensor of it."""
        return f"tensor({self.name})"

    @property
    def mask(self) -> float:
        """What a constant that stands for infinity becomes.

        Half of the largest number: the sum of two masks, or of a mask and a score, is then still
        finite. With the largest itself, -65504 + -20 is -inf, and a row of nothing else is NaN
        behind a ``Softmax``.
        """
        return self.largest / 2


HALF_FORMATS = {
    "float16": HalfFormat(
        name="float16",
        dtype=ir.DataType.FLOAT16,
        array_dtype=np.dtype(np.float16),
        largest=65504.0,
        least=2.0**-24,
        least_normal=2.0**-14,
        limit=1e4,
    ),
    "bfloat16": HalfFormat(
        name="bfloat16",
        dtype=ir.DataType.BFLOAT16,
        array_dtype=np.dtype(ml_dtypes.bfloat16),
        largest=(2.0 - 2.0**-7) * 2.0**127,
        least=2.0**-133,
        least_normal=2.0**-126,
        limit=1e37,
    ),
}


def narrowed(
    array: npt.NDArray[np.float32], half: HalfFormat, beyond: float | None = None
) -> npt.NDArray[Any]:
    """Return ``array`` rounded to nearest in the 16-bit type; infinities and NaN stay.

    Args:
        array: float32, any shape.
        half: The type.
        beyond: Magnitude that finite elements beyond the largest number get; that number itself by
            default. Where given, it also replaces smaller elements beyond it.
    """
    bound = np.float32(half.largest if beyond is None else beyond)
    with np.errstate(over="ignore", invalid="ignore"):
        is_finite = np.isfinite(array)
        return np.where(is_finite, np.clip(array, -bound, bound), array).astype(half.array_dtype)
