"""Counting what a session computes into histograms, where it computes it (worker side)."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.runtime.histograms import Histogram
from graphopt.runtime.ort_values import array_of, ort_value_of
from graphopt.runtime.values import Feeds

__all__ = ["Collector", "array_view"]

_NUMERIC = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
}


class Collector:
    """Histograms of some inputs and outputs of a session, over all runs.

    Args:
        session: Of the runtime.
        is_counted: Cells are counted; extremes alone otherwise.
    """

    def __init__(self, session: Any, *, is_counted: bool) -> None:
        self._session = session
        self._is_counted = is_counted
        self.histograms: dict[str, Histogram] = {}

    def add(
        self,
        feeds: Feeds,
        inputs: Sequence[str],
        outputs: Sequence[str],
        padding: Mapping[str, Mapping[str, Any]],
    ) -> None:
        """Run once and count what the named inputs and outputs hold.

        Args:
            feeds: What the session is fed.
            inputs: Inputs to count.
            outputs: Outputs to count.
            padding: Values of which positions are left out: the `mask` input, nonzero where a
                position counts, and the `axes` of the value that are the axes of the mask, the
                first ones merged where they are fewer. Where the sizes of a run are others,
                nothing is left out.
        """
        for name in inputs:
            self._count(name, feeds[name], feeds, padding)
        if not outputs:
            return
        if any(array.dtype.kind == "O" for array in feeds.values()):
            found = self._session.run(list(outputs), dict(feeds))  # text has no other way in
        else:
            fed = {name: ort_value_of(array) for name, array in feeds.items()}
            found = list(self._session.run_with_ort_values(list(outputs), fed))
        for name in reversed(outputs):
            value = found.pop()  # so that the memory of each is free once it is counted
            self._count(name, array_view(value), feeds, padding)

    def _count(
        self,
        name: str,
        array: npt.NDArray[Any],
        feeds: Feeds,
        padding: Mapping[str, Mapping[str, Any]],
    ) -> None:
        if array.dtype.kind in "OUSc":
            raise TypeError(f"`{name}` holds no real numbers")
        if name in padding:
            array = _without_padding(array, feeds[padding[name]["mask"]], padding[name]["axes"])
        if name not in self.histograms:
            self.histograms[name] = Histogram(is_counted=self._is_counted)
        self.histograms[name].add(np.ascontiguousarray(array))


def _without_padding(
    array: npt.NDArray[Any], mask: npt.NDArray[Any], axes: Sequence[int]
) -> npt.NDArray[Any]:
    """Return the elements at the positions where ``mask`` is not 0; all where it does not fit."""
    wanted = mask.shape if len(axes) == mask.ndim else (mask.size,)
    if any(axis >= array.ndim for axis in axes):
        return array
    if tuple(array.shape[axis] for axis in axes) != wanted:
        return array
    kept: npt.NDArray[Any] = np.moveaxis(array, axes, range(len(axes)))[mask.reshape(wanted) != 0]
    return kept


def array_view(value: Any) -> npt.NDArray[Any]:
    """Return the array that an `OrtValue` in main memory holds; it lives as long as the value."""
    array: npt.NDArray[Any]
    if isinstance(value, np.ndarray):
        array = value
        return array
    dtype = _NUMERIC.get(value.data_type())
    if dtype is None:
        return array_of(value)
    shape, size = value.shape(), value.tensor_size_in_bytes()
    if not size:
        return np.zeros(shape, dtype)
    memory = (ctypes.c_char * size).from_address(value.data_ptr())
    array = np.frombuffer(memory, dtype).reshape(shape)
    return array
