"""Samples as the tests of ONNX backends hold them: ``test_data_set_0/input_0.pb`` and so on."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.calibration.sample_files import RawSample
from graphopt.errors import CalibrationDataError
from graphopt.runtime import TensorSpec

__all__ = ["find_data_sets", "read_data_sets"]

_INPUT = re.compile(r"input_(\d+)\.pb")


def find_data_sets(folder: Path) -> list[Path]:
    """Return the data sets in a folder, or the folder where it is one, in order of numbers."""
    if any(_INPUT.fullmatch(path.name) for path in folder.iterdir()):
        return [folder]
    return sorted(
        (path for path in folder.glob("test_data_set_*") if path.is_dir()),
        # `..._10` comes after `..._9`.
        key=lambda path: (len(path.name), path.name),
    )


def read_data_sets(
    folders: Sequence[Path], inputs: Sequence[TensorSpec] | None
) -> Callable[[], Iterable[RawSample]]:
    """Return a function that reads one feed from each folder.

    A tensor is for the input that it is called like, else for the input of its number.

    Args:
        folders: Data sets.
        inputs: The model's inputs; needed where tensors have no names.
    """
    names = [item.name for item in inputs or ()]

    def read() -> Iterator[RawSample]:
        for folder in folders:
            yield _feed(folder, names)

    return read


def _feed(folder: Path, names: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    numbered = [(_INPUT.fullmatch(path.name), path) for path in folder.iterdir()]
    files = sorted((int(match[1]), path) for match, path in numbered if match is not None)
    if not files:
        raise CalibrationDataError(
            f"no samples in `{folder.name}`",
            where=f"`{folder}`",
            why="expected `input_0.pb` and so on in it, found none",
        )
    feed: dict[str, npt.NDArray[Any]] = {}
    for number, path in files:
        name, array = _tensor(path)
        # Many of these tests leave names out, or have those of a model before it was renamed.
        if name not in names and number < len(names):
            name = names[number]
        feed[name or f"input {number}"] = array
    return feed


def _tensor(path: Path) -> tuple[str, npt.NDArray[Any]]:
    import onnx
    from google.protobuf.message import DecodeError

    tensor = onnx.TensorProto()
    try:
        tensor.ParseFromString(path.read_bytes())
        # Data beside the file could lie anywhere; backend tests have none.
        is_whole = tensor.data_type and tensor.data_location != onnx.TensorProto.EXTERNAL
        array = np.asarray(onnx.numpy_helper.to_array(tensor)) if is_whole else None
    except (OSError, ValueError, TypeError, DecodeError) as error:
        raise _unreadable(path, str(error)) from error
    if array is None:
        raise _unreadable(path, "it is a sequence, or its data lies in another file")
    return tensor.name, array


def _unreadable(path: Path, why: str) -> CalibrationDataError:
    return CalibrationDataError(
        f"samples cannot be read from `{path.name}`",
        where=f"`{path}`",
        why=f"expected a tensor of ONNX: {why}",
    )
