"""Random arrays, full of special values."""

from __future__ import annotations

import ml_dtypes
import numpy as np

FLOATS = ("float32", "float64", "float16", "bfloat16")
INTEGERS = ("int64", "int32", "uint8", "int8", "int16", "uint16", "uint32", "uint64")
NUMBERS = FLOATS + INTEGERS
SPECIAL = (0.0, -0.0, 1.0, -1.0, 2.0, 0.5, np.nan, np.inf, -np.inf, 1e-8, 1.00001, 1e-40, 3.0, 1e30)
DTYPES = {"bfloat16": ml_dtypes.bfloat16, "bool": np.bool_}


def dtype_of(kind: str):
    return np.dtype(DTYPES.get(kind, kind))


def random_array(world, kind: str, dims) -> np.ndarray:
    """Return an array full of special values."""
    rng = world.rng
    if kind == "text":
        words = ["", "a", "b", "é", "word", "two words"]
        return np.array([world.choose(words) for _ in range(int(np.prod(dims)))], object).reshape(
            dims
        )
    if kind == "bool":
        return rng.integers(0, 2, dims).astype(np.bool_)
    dtype = dtype_of(kind)
    if kind in INTEGERS:
        low = 0 if kind.startswith("u") else -3
        array = rng.integers(low, 5, dims)
        limits = np.array([np.iinfo(dtype).min, np.iinfo(dtype).max], object)
        return (
            np.where(rng.random(dims) < 0.05, world.choose(limits), array)
            .astype(dtype)
            .reshape(dims)
        )
    with np.errstate(all="ignore"):
        plain = rng.normal(size=dims)
        special = np.array(SPECIAL)[rng.integers(0, len(SPECIAL), dims)]
        return np.where(rng.random(dims) < 0.3, special, plain).astype(dtype).reshape(dims)


def dims_of(world):
    rank = int(world.rng.integers(0, 4))
    return tuple(world.choose([1, 2, 3, 4, 2, 3, 0]) for _ in range(rank))
