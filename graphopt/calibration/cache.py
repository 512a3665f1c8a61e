"""Observations kept on disk, found again only for the very same question."""

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

from graphopt.calibration.observing import Observation
from graphopt.errors import OutputError, reason_of
from graphopt.ir.hashing import sha256
from graphopt.runtime import Histogram

__all__ = ["CalibrationCache"]

_FORMAT = 1
_UNREADABLE = (OSError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class CalibrationCache:
    """Observations in a folder, one file for each question that was asked.

    The name of a file is the digest of everything that the answer hangs on, so that another model,
    sample, setting or version is another file. A file that is damaged, or answers another question
    after all, is as good as none. Files are replaced whole; several programs may share a folder.

    Attributes:
        folder: Made when the first observation is kept.
    """

    folder: Path

    def find(self, question: dict[str, Any]) -> tuple[Observation, bool] | None:
        """Return what is kept for a question and whether it is complete; ``None`` for nothing."""
        path = self.path(question)
        try:
            # numpy leaves a damaged file open
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as held:
                record = json.loads(str(held["record"]))
                counts = held["counts"]
        except _UNREADABLE:
            return None
        # Held against the whole question, not its digest in the name alone.
        if record.get("question") != _plain(question):
            return None
        ends = np.cumsum([item["cells"] for item in record["values"]], dtype=np.int64)
        if record["digest"] != _digest(record, counts) or counts.size != (
            ends[-1] if len(ends) else 0
        ):
            return None
        observation = Observation(seen=dict(record["seen"]))
        for item, end in zip(record["values"], ends, strict=True):
            part = counts[end - item["cells"] : end]
            observation.histograms[item["name"]] = Histogram.of_state(item["state"], part)
        return observation, bool(record["is_complete"])

    def keep(
        self, question: dict[str, Any], observation: Observation, *, is_complete: bool
    ) -> None:
        """Keep what was observed, in place of what was kept for the question before.

        Raises:
            OutputError: The folder cannot be written.
        """
        held = observation.histograms
        counts = np.concatenate([np.zeros(0, np.int64), *(item.counts for item in held.values())])
        record: dict[str, Any] = {
            "question": _plain(question),
            "is_complete": is_complete,
            "seen": observation.seen,
            "values": [
                {"name": name, "cells": len(item.counts), "state": item.state()}
                for name, item in held.items()
            ],
        }
        record["digest"] = _digest(record, counts)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._replace(self.path(question), record, counts)
        except OSError as error:
            raise OutputError(
                "the calibration cache cannot be written",
                where=f"`{self.folder}`",
                why=reason_of(error),
                hint="give another folder with `--calibration-cache DIR`, or none",
            ) from error

    def path(self, question: dict[str, Any]) -> Path:
        """Return the file for a question, whether or not it exists."""
        text = json.dumps(_plain(question), sort_keys=True)
        return self.folder / f"{sha256(text.encode()).hexdigest()}.npz"

    def _replace(self, path: Path, record: dict[str, Any], counts: np.ndarray[Any, Any]) -> None:
        handle, name = tempfile.mkstemp(prefix=f"{path.stem[:16]}-", suffix=".tmp", dir=self.folder)
        try:
            with os.fdopen(handle, "wb") as stream:
                np.savez_compressed(stream, record=np.array(json.dumps(record)), counts=counts)
                stream.flush()
                os.fsync(stream.fileno())
            Path(name).replace(path)
        except BaseException:
            with suppress(OSError):
                Path(name).unlink()
            raise


def _plain(question: dict[str, Any]) -> dict[str, Any]:
    # There and back: tuples are lists in the file, and must be equal to what is asked for.
    plain: dict[str, Any] = json.loads(json.dumps({"format": _FORMAT, **question}))
    return plain


def _digest(record: dict[str, Any], counts: np.ndarray[Any, Any]) -> str:
    content = {key: value for key, value in record.items() if key != "digest"}
    text = json.dumps(content, sort_keys=True)
    return sha256(text.encode() + counts.tobytes()).hexdigest()
