"""Temporary folders that a killed program does not leave behind for ever."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

__all__ = ["scratch_folder"]

_PREFIX = "graphopt-scratch-"
_LOCK = ".graphopt-lock"
_FRESH_S = 600.0


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield a new folder for temporary files, which may be as large as models; removed at the end.

    A program that is killed cannot remove its folders. Each holds a locked file, and the lock
    ends with the process, so the next call removes the folders that nobody holds any more.

    Raises:
        OSError: No folder can be made where temporary files go.
    """
    _remove_abandoned(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as name:
        folder = Path(name)
        with (folder / _LOCK).open("w") as lock:
            _try_lock(lock)
            yield folder


def _remove_abandoned(parent: Path) -> None:
    """Remove scratch folders whose process has ended; whatever resists stays."""
    oldest_fresh = time.time() - _FRESH_S
    for folder in parent.glob(f"{_PREFIX}*"):
        try:
            # A folder is made a moment before it is locked, so a young one proves nothing. The
            # lock file tells ours from a folder that merely has such a name.
            if (folder / _LOCK).stat().st_mtime > oldest_fresh or folder.is_symlink():
                continue
            with (folder / _LOCK).open("r+") as lock:
                if _try_lock(lock):
                    shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue  # removed meanwhile, or another user's


def _try_lock(file: IO[str]) -> bool:
    """Lock a file until it is closed or the process ends; False where somebody holds it."""
    if os.name != "posix":
        return False  # no locks that end with the process: folders are never taken for abandoned
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
