"""Moments kept on disk, found again only for the very same question."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.errors import OutputError, reason_of
from graphopt.ir.hashing import sha256
from graphopt.rewrite import ChannelMoments

__all__ = ["MomentCache"]

_FORMAT = 3
_UNREADABLE = (OSError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile, zlib.error)
_PARTS = ("mean", "second", "largest", "gram", "minimum", "maximum")


@dataclass(frozen=True)
class MomentCache:
    """Moments of values in a folder, one file for each value and question.

    As with `CalibrationCache`, the name of a file is the digest of everything that the answer hangs
    on, a file that is damaged is as good as none, and files are replaced whole.

    Attributes:
        folder: Made when the first moments are kept.
    """

    folder: Path

    def find(self, question: dict[str, Any]) -> ChannelMoments | None:
        """Return what is kept for a question, or ``None``."""
        try:
            with self._path(question).open("rb") as stream, np.load(stream) as held:
                arrays = {name: held[name] for name in _PARTS if name in held}
                record = json.loads(str(held["record"]))
        except _UNREADABLE:
            return None
        if record.get("question") != _plain(question) or record["digest"] != _digest(arrays):
            return None
        return ChannelMoments(int(record["count"]), **arrays)

    def keep(self, question: dict[str, Any], moments: ChannelMoments) -> None:
        """Keep moments, in place of what was kept for the question before.

        Raises:
            OutputError: The folder cannot be written.
        """
        found = {name: getattr(moments, name) for name in _PARTS}
        arrays = {name: array for name, array in found.items() if array is not None}
        record = {
            "question": _plain(question),
            "count": moments.count,
            "digest": _digest(arrays),
        }
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _replace(self._path(question), record, arrays)
        except OSError as error:
            raise OutputError(
                "the calibration cache cannot be written",
                where=f"`{self.folder}`",
                why=reason_of(error),
                hint="give another folder with `--calibration-cache DIR`, or none",
            ) from error

    def _path(self, question: dict[str, Any]) -> Path:
        text = json.dumps(_plain(question), sort_keys=True)
        return self.folder / f"{sha256(text.encode()).hexdigest()}.moments.npz"


def _replace(path: Path, record: dict[str, Any], arrays: dict[str, Any]) -> None:
    handle, name = tempfile.mkstemp(prefix=f"{path.stem[:16]}-", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            # Moments do not compress: their last digits are noise.
            np.savez(stream, record=np.array(json.dumps(record)), **arrays)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise


def _plain(question: dict[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps({"format": _FORMAT, **question}))
    return plain


def _digest(arrays: dict[str, Any]) -> str:
    digest = sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
