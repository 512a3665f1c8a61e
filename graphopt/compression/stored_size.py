"""What a weight takes once a file is compressed for the way to a device."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["ZLIB_LEVEL", "compressed_bytes"]

ZLIB_LEVEL = 6
"""What `gzip` and `zip` use by default; zstd is in no standard library before Python 3.14."""

_PART = 1 << 22


def compressed_bytes(array: npt.NDArray[Any]) -> int:
    """Return the size of an array compressed by zlib at `ZLIB_LEVEL`, in bytes."""
    stream = zlib.compressobj(ZLIB_LEVEL)
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    size = sum(
        len(stream.compress(flat[start : start + _PART])) for start in range(0, len(flat), _PART)
    )
    return size + len(stream.flush())
