"""Arrays of many samples in files, so that memory holds only those in use."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["ArrayStore", "Record"]

Record = dict[str, npt.NDArray[Any]]


class _Place(NamedTuple):
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class ArrayStore:
    """A list of records, each some arrays by name; arrays of one name stand in one file.

    Args:
        folder: An empty folder, which its owner removes.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._places: list[dict[str, _Place]] = []
        self._files: dict[str, Path] = {}

    def __len__(self) -> int:
        return len(self._places)

    def append(self, record: Mapping[str, npt.NDArray[Any]]) -> None:
        """Write one record."""
        places = {}
        for name, array in record.items():
            path = self._files.setdefault(name, self._folder / f"{len(self._files)}.bin")
            with path.open("ab") as file:
                places[name] = _Place(file.tell(), array.shape, array.dtype)
                file.write(np.ascontiguousarray(array).tobytes())
        self._places.append(places)

    def shapes(self, number: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the arrays of one record, reading none."""
        return {name: place.shape for name, place in self._places[number].items()}

    def __getitem__(self, number: int) -> Record:
        """Read one record."""
        found = {}
        for name, place in self._places[number].items():
            count = int(np.prod(place.shape, dtype=np.int64))
            with self._files[name].open("rb") as file:
                file.seek(place.offset)
                data = file.read(count * place.dtype.itemsize)
            # A copy that can be written to: torch warns of any other.
            found[name] = np.frombuffer(bytearray(data), place.dtype).reshape(place.shape)
        return found
