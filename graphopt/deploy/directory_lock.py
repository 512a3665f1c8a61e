"""A lock on a directory that ends with its process."""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["DirectoryLock"]


class DirectoryLock:
    """An advisory lock, held by an open descriptor, so that the system drops it at any death.

    A process number in the file name would not do: numbers are used again, and mean nothing to
    another container or machine that shares the disk.
    """

    def __init__(self, path: Path, handle: int | None) -> None:
        self.path = path
        self._handle = handle

    @classmethod
    def try_lock(cls, path: Path, *, is_new: bool = False) -> DirectoryLock | None:
        """Lock `path`, or return None where it is gone, somebody else's, or nobody can tell.

        Args:
            path: A directory.
            is_new: The caller has just made it. Where the system has no such locks its maker may
                go on without, because then nobody can claim it as abandoned either.
        """
        if sys.platform == "win32":
            return cls(path, None) if is_new else None
        import fcntl

        try:
            # A link in its place may lead to somebody else's directory.
            handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            return None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            is_ours = False
        except OSError:  # some network filesystems
            is_ours = is_new
        else:
            is_ours = _is_still(path, handle)
        if not is_ours:
            os.close(handle)
            return None
        return cls(path, handle)

    def release(self) -> None:
        """Unlock; a second call does nothing."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def _is_still(path: Path, handle: int) -> bool:
    """Whether `path` was not removed or replaced between opening and locking it."""
    try:
        return os.path.samestat(os.fstat(handle), path.lstat())
    except OSError:
        return False
