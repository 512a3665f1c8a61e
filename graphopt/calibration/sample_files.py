"""Reading samples from files, folders and functions, one at a time."""

from __future__ import annotations

import importlib
import os
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from graphopt.errors import CalibrationDataError

__all__ = ["RawSample", "find_function", "open_folder", "read_sample_file"]

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
    files = sorted(path for path in folder.iterdir() if path.suffix in _SUFFIXES)
    if not files:
        raise CalibrationDataError(
            f"no samples in `{folder.name}`",
            where=f"`{folder}`",
            why="expected .npz or .npy files in it, found none",
            hint="write one file per sample with `numpy.savez(path, **{input_name: array})`",
        )
    return files


def find_function(reference: str) -> Callable[[], Iterator[RawSample]]:
    """Return the function that ``module:function`` names.

    The current directory is on the module path meanwhile, as under ``python -m``.

    Raises:
        CalibrationDataError: There is no such module or function.
    """
    module_name, _, attribute = reference.partition(":")
    try:
        with _current_directory_importable():
            found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise CalibrationDataError(
            f"samples cannot be found at `{reference}`",
            why=f"neither a file, nor a module: {error}",
            hint=f"run from the folder that holds `{module_name.split('.')[0]}.py`, or give a file",
        ) from error
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise CalibrationDataError(
            f"samples cannot be found at `{reference}`",
            why=f"module `{module_name}` has no function `{attribute}`",
            hint="name a function without arguments that returns an iterable of feeds",
        )
    function: Callable[[], Iterator[RawSample]] = found
    return function


@contextmanager
def _current_directory_importable() -> Iterator[None]:
    here = os.getcwd()  # noqa: PTH109 - an entry of the module path is text
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(here)
