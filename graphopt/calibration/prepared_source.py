"""What a source of raw samples yields: feeds, what they were made of, and how."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphopt.calibration.sample_files import RawSample
from graphopt.calibration.unprepared import LibraryMissing, Unprepared
from graphopt.errors import CalibrationDataError, MissingExtraError

__all__ = ["ITEMS", "PreparedSource", "explaining"]

ITEMS = "__items__"
"""The key under which a sample holds what its rows were made of, one object for each row."""


@dataclass(frozen=True, kw_only=True)
class PreparedSource:
    """Samples made of texts, images or sound.

    Attributes:
        read: Returns the samples, afresh with every call, each with its `ITEMS`.
        spec: How they are made, as `preprocessing.json` says it to a device: what was left to
            names and sizes of the model's inputs is settled, and paths are those of a bundle.
        files: What the device needs for it, by its name in a bundle.
    """

    read: Callable[[], Iterable[RawSample]]
    spec: Mapping[str, Any]
    files: Mapping[str, Path]


@contextmanager
def explaining(where: Path) -> Iterator[None]:
    """Turn what is the matter with raw things into errors of graphopt.

    Raises:
        CalibrationDataError: Something cannot be made into inputs.
        MissingExtraError: A library is not installed.
    """
    try:
        yield
    except LibraryMissing as error:
        raise MissingExtraError(
            error.message, why=error.why, hint="`pip install 'graphopt[data]'`"
        ) from error
    except Unprepared as error:
        raise CalibrationDataError(
            error.message, where=f"`{where}`", why=error.why, hint=error.hint or None
        ) from error
