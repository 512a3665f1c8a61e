"""Weights of any layer as rows, one for each output, and back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from graphopt.compression.packed_weight import WeightView

__all__ = ["ZeroUnits", "rows_of", "stored_form", "zero_units"]

FloatArray = npt.NDArray[np.float32]


def rows_of(array: FloatArray, view: WeightView) -> FloatArray:
    """Return a weight as ``(outputs, length)``: a row holds what is summed for one output.

    Args:
        array: As it is stored, of ``outer * length * inner`` elements.
        view: What is summed over.
    """
    seen = array.reshape(view.outer, view.length, view.inner)
    return seen.transpose(0, 2, 1).reshape(-1, view.length)


def stored_form(rows: FloatArray, view: WeightView, shape: Iterable[int]) -> FloatArray:
    """Return what `rows_of` made in the shape in which the weight is stored."""
    seen = rows.reshape(view.outer, view.inner, view.length).transpose(0, 2, 1)
    return np.ascontiguousarray(seen).reshape(tuple(shape))


class ZeroUnits(NamedTuple):
    """Numbers of inputs and outputs of a layer all of whose weights are 0."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def zero_units(array: FloatArray, view: WeightView) -> ZeroUnits:
    """Return what a layer does not read, and what it computes from nothing; see `rows_of`."""
    used = rows_of(array, view) != 0  # -0.0 is 0 as well
    by_input = used.reshape(len(used), -1, view.kernel).any(axis=(0, 2))
    outputs = np.flatnonzero(~used.any(axis=1))
    return ZeroUnits(tuple(np.flatnonzero(~by_input).tolist()), tuple(outputs.tolist()))
