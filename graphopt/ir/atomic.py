"""Writing a file so that it is there whole, or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from graphopt.errors import OutputError

__all__ = ["PendingFile", "atomic_file", "output_error", "pending_file"]

_DESCRIPTORS = Path("/proc/self/fd")
_CANNOT_LINK = {errno.EXDEV, errno.EPERM, errno.EACCES, errno.ENOENT, errno.EOPNOTSUPP}


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a temporary file that becomes ``path`` when the block ends without an error.

    Raises:
        OutputError: The folder is missing or cannot be written, or the disk is full.
    """
    file = Path(path).absolute()
    with pending_file(file) as pending:
        yield pending.stream
        pending.publish(file)


class PendingFile:
    """A file that has no name yet, or a hidden one where the system knows no files without.

    Attributes:
        stream: Where to write it.
        path: Where it can be read while it is pending.
    """

    def __init__(self, folder: Path, hidden: str) -> None:
        self._hidden = folder / f".{hidden}.{os.getpid()}.{os.urandom(4).hex()}"
        handle = _nameless(folder)
        self.path = _DESCRIPTORS / str(handle) if handle is not None else self._hidden
        if handle is None:
            handle, name = tempfile.mkstemp(prefix=f".{hidden}.", dir=folder)
            self.path = self._hidden = Path(name)
            self._hidden.chmod(0o666 & ~_umask())
        self.stream: BinaryIO = os.fdopen(handle, "wb")

    def publish(self, file: Path) -> None:
        """Give the file its name, in its folder; one that had it before is replaced.

        The one before is there until this one is safe on the disk, also when the power fails.
        Where there was none, nothing waits for the disk.
        """
        self.stream.flush()
        is_replacing = file.exists()
        if is_replacing:
            os.fsync(self.stream.fileno())
        if self.path != self._hidden:
            self._give_name()
        self._hidden.replace(file)
        if is_replacing:
            _sync_folder(file.parent)

    def _give_name(self) -> None:
        try:
            # Without a descriptor, here of no use, Python links to the link that `path` is.
            os.link(self.path, self._hidden, src_dir_fd=self.stream.fileno(), follow_symlinks=True)
        except OSError as error:
            if error.errno not in _CANNOT_LINK:
                raise
            # Some sandboxes and network disks open such files, and then refuse to name them.
            with self.path.open("rb") as written, self._hidden.open("xb") as named:
                shutil.copyfileobj(written, named)
                named.flush()
                os.fsync(named.fileno())

    def discard(self) -> None:
        """Close the file; unless it was published it is gone."""
        try:
            self.stream.close()
        finally:
            self._hidden.unlink(missing_ok=True)


def _nameless(folder: Path) -> int | None:
    """Open a file without a name, of which nothing stays when the program is killed."""
    if not hasattr(os, "O_TMPFILE") or not _DESCRIPTORS.exists():
        return None
    try:
        return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o666)
    except OSError:
        return None  # not every kind of disk has them; what else is wrong shows again


@contextmanager
def pending_file(file: Path) -> Iterator[PendingFile]:
    """Open a file that may become ``file``, or another one in its folder.

    Raises:
        OutputError: The folder is missing or cannot be written, the disk is full, or ``file`` is
            there and is no file.
    """
    try:
        # Who may rename in `/dev` would replace the device, for every program of the machine.
        if file.exists() and not file.is_file():
            raise OutputError(
                f"`{file}` cannot be written",
                why="it is a folder" if file.is_dir() else "it is a device, a pipe or a socket",
                hint="choose another place with `-o`",
            )
        pending = PendingFile(file.parent, file.name)
    except OSError as error:
        raise output_error(file, error) from error
    try:
        try:
            yield pending
        finally:
            pending.discard()
    except OSError as error:
        raise output_error(file, error) from error


def output_error(path: Path, error: OSError) -> OutputError:
    """Say in one error why ``path`` could not be written."""
    hints = {
        errno.ENOSPC: "free some space, or choose another disk with `-o`",
        errno.EDQUOT: "free some space, or choose another disk with `-o`",
        errno.EFBIG: "raise the limit (`ulimit -f`), or choose another disk with `-o`",
    }
    if error.errno == errno.ENOENT and not path.parent.exists():
        hints[errno.ENOENT] = f"create the folder first: `mkdir -p {path.parent}`"
    return OutputError(
        f"`{path}` cannot be written",
        why=error.strerror or str(error),
        hint=hints.get(error.errno or 0, "choose another place with `-o`"),
    )


def _umask() -> int:
    # There is no other way to ask for it.
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
