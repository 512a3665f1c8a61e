"""Recorded arrays are hostile until they are read. Part of `validate.py`: see `integrity`."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.deploy.integrity import Broken

__all__ = ["MAX_RECORD_BYTES", "check_record_sizes", "read_record"]

# Twice what graphopt records in one bundle: a file that unpacks to more is a bomb.
MAX_RECORD_BYTES = 64 << 20
UNREADABLE = (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error)


def check_record_sizes(folder: Path, manifest: dict[str, Any]) -> None:
    """Refuse records that would unpack to more than any record is, before anything is loaded.

    A member of an archive is never read beyond the size that its table of contents says, so that
    the sum of these bounds what reading can take. What is no archive is told when it is read.

    Raises:
        Broken: The first such file.
    """
    for name in sorted(name for name in manifest["files"] if name.endswith(".npz")):
        try:
            with zipfile.ZipFile(str(folder / name)) as archive:
                size = sum(member.file_size for member in archive.infolist())
        except (zipfile.BadZipFile, ValueError, EOFError):
            continue
        if size > MAX_RECORD_BYTES:
            raise Broken(f"`{name}` unpacks to {size} bytes, more than {MAX_RECORD_BYTES}")


def read_record(folder: Path, name: str) -> dict[str, Any]:
    """Return the arrays of a recorded `.npz` by their names; no object in it is made.

    Raises:
        Broken: It is damaged, or holds more than arrays.
    """
    try:
        with np.load(str(folder / name), allow_pickle=False) as file:
            return dict(file)
    except UNREADABLE as error:
        raise Broken(f"`{name}` cannot be read: {error}") from None
