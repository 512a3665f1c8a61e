"""Small files of settings that come with models: JSON of strangers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from graphopt.errors import CalibrationDataError

__all__ = ["read_json"]

_LARGEST = 1 << 24  # settings have kilobytes; a parser makes objects of ten times the size


def read_json(path: Path) -> Any:
    """Return what a file of settings holds.

    Raises:
        CalibrationDataError: It cannot be read, is no JSON, is nested too deeply, or is larger than
            16 MiB.
    """
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_LARGEST + 1)
        if len(text) <= _LARGEST:
            return json.loads(text)
        why = f"it has more than {_LARGEST >> 20} MiB"
    except (OSError, ValueError) as error:
        why = str(error)
    except RecursionError:
        why = "it is nested too deeply"
    raise CalibrationDataError(f"`{path.name}` cannot be read", where=f"`{path}`", why=why)
