"""Integers of 4 and 8 bits in bytes, as `MatMulNBits` holds them.

ONNX Runtime, `ContribOperators.md`, "com.microsoft.MatMulNBits": the weight is stored by output,
each row cut into blocks, in bytes with the first integer in the low half; integers have no sign,
and where no zero points are given it is ``2 ** (bits - 1)``.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["middle", "pack", "unpack"]

Bytes: TypeAlias = npt.NDArray[np.uint8]

_BYTE = 8


def middle(bits: int) -> int:
    """Return the zero point that stands for none."""
    return 1 << (bits - 1)


def unpack(packed: npt.NDArray[Any], bits: int, count: int) -> Bytes:
    """Return the first ``count`` integers of each row of bytes.

    Args:
        packed: uint8, ``(..., bytes)``.
        bits: 4 or 8.
        count: Integers in a row.

    Returns:
        ``(..., count)``.
    """
    if bits == _BYTE:
        return np.ascontiguousarray(packed[..., :count])
    halves = np.stack([packed & 15, packed >> 4], axis=-1)
    return halves.reshape(*packed.shape[:-1], -1)[..., :count]


def pack(integers: npt.NDArray[Any], bits: int) -> Bytes:
    """Return integers without sign in bytes, the last half filled up with 0.

    Args:
        integers: ``(..., count)``, each in ``[0, 2 ** bits)``.
        bits: 4 or 8.
    """
    whole: Bytes = np.asarray(integers, np.uint8)
    if bits == _BYTE:
        return np.ascontiguousarray(whole)
    if whole.shape[-1] % 2:
        whole = np.concatenate([whole, np.zeros((*whole.shape[:-1], 1), np.uint8)], axis=-1)
    packed: Bytes = np.bitwise_or(whole[..., ::2], whole[..., 1::2] << 4).astype(np.uint8)
    return packed
