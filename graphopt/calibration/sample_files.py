"""Reading samples from files, folders and functions, one at a time."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from graphopt.calibration.user_functions import calling, import_function
from graphopt.errors import CalibrationDataError

__all__ = ["LABELS", "RawSample", "open_folder", "read_sample_file", "sampling_function"]

LABELS = "__labels__"
"""The key under which a sample holds its labels."""

RawSample: TypeAlias = Mapping[str, Any] | np.ndarray[Any, Any]
"""A feed by input name, or the array for the only input."""

_SUFFIXES = (".npz", ".npy")
_UNREADABLE = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error)


def read_sample_file(path: Path) -> RawSample:
    """Return the arrays of an ``.npz`` file, or the array of an ``.npy`` file.

    Raises:
        CalibrationDataError: It is missing, damaged, or holds pickled objects, which are never
            loaded since they could run code.
    """
    try:
        with path.open("rb") as stream:  # numpy leaves a damaged file open
            held = np.load(stream, allow_pickle=False)
            if isinstance(held, np.ndarray):
                return held
            return {name: _array(held, name) for name in held.files}
    except _UNREADABLE as error:
        is_pickle = "pickle" in str(error).lower()
        raise CalibrationDataError(
            f"samples cannot be read from `{path.name}`",
            where=f"`{path}`",
            why="it holds pickled objects, which are never loaded"
            if is_pickle and zipfile.is_zipfile(path)
            else f"expected an .npz or .npy file: {error}",
            hint="write samples with `numpy.savez(path, **{input_name: array})`",
        ) from error


def _array(archive: np.lib.npyio.NpzFile, name: str) -> np.ndarray[Any, Any]:
    array = archive[name]
    if not isinstance(array, np.ndarray):  # numpy returns the bytes of what is no array
        raise ValueError(f"`{name}` in it is no array")  # noqa: TRY004 - reported as unreadable
    return array


def open_folder(folder: Path) -> list[Path]:
    """Return the sample files of a folder, sorted by name.

    Raises:
        CalibrationDataError: There is none.
    """
    # Folders list their files in any order, and the order of samples is part of their digest.
    files = sorted(path for path in folder.iterdir() if path.suffix in _SUFFIXES)
    if not files:
        raise CalibrationDataError(
            f"no samples in `{folder.name}`",
            where=f"`{folder}`",
            why="expected .npz or .npy files, images, or `test_data_set_*` folders, found none",
            hint="write one file per sample with `numpy.savez(path, **{input_name: array})`",
        )
    return files


def sampling_function(reference: str) -> Callable[[], Iterator[RawSample]]:
    """Return a function that calls the one that ``module:function`` names.

    Raises:
        CalibrationDataError: There is no such module or function; when called, whatever it raises.
    """
    function = import_function(reference, what="samples", failure=CalibrationDataError)
    return lambda: _called(function, reference)


def _called(function: Callable[[], Iterable[RawSample]], name: str) -> Iterator[RawSample]:
    with calling(name, what="samples", failure=CalibrationDataError):
        yield from function()
