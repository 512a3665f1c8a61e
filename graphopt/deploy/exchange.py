"""The two renames that only the system can make atomic."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["exchange", "rename_new"]

_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_RENAME_EXCHANGE = 2
_UNSUPPORTED = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP}


def exchange(first: Path, second: Path) -> bool:
    """Exchange two directories in one step.

    Returns:
        False where the system or the filesystem cannot.
    """
    return _rename(first, second, _RENAME_EXCHANGE)


def rename_new(source: Path, destination: Path) -> bool:
    """Rename `source` in one step, never over something.

    Returns:
        False where `destination` exists.
    """
    try:
        if _rename(source, destination, _RENAME_NOREPLACE):
            return True
        # Without system support: `rename` replaces an empty directory, hence the look before.
        if os.path.lexists(destination):
            return False
        source.rename(destination)
    except OSError as error:
        if error.errno in {errno.EEXIST, errno.ENOTEMPTY}:
            return False
        raise
    return True


def _rename(source: Path, destination: Path, flags: int) -> bool:
    function = _renameat2()
    if function is None:
        return False
    status = function(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(destination), flags)
    if status == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNSUPPORTED:
        return False
    raise OSError(number, os.strerror(number), str(source), None, str(destination))


@cache
def _renameat2() -> Any:
    """Return `renameat2` (Linux 3.15, glibc 2.28), or None."""
    if sys.platform != "linux":
        return None
    # Python's `os` has no rename with flags, and older libraries of C have no such function.
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is not None:
        function.argtypes = (
            ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint,
        )  # fmt: skip
    return function
