"""Writing a file so that it is there whole, or not at all."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from graphopt.errors import OutputError

__all__ = ["atomic_file", "finish", "output_error", "temporary_file"]


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a temporary file that becomes ``path`` when the block ends without an error.

    A file that was there before is there until the new one is safe on the disk, also when the
    power fails. Where there was none, nothing waits for the disk.

    Raises:
        OutputError: The folder is missing or cannot be written, or the disk is full.
    """
    file = Path(path).absolute()
    with temporary_file(file) as (stream, temporary):
        yield stream
        is_replaced = file.exists()
        finish(stream, temporary, is_synced=is_replaced)
        temporary.replace(file)
        if is_replaced:
            _sync_folder(file.parent)


@contextmanager
def temporary_file(file: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """Open a temporary file in the folder of ``file``; it is gone after the block, if not renamed.

    Raises:
        OutputError: The folder is missing or cannot be written, or the disk is full.
    """
    try:
        handle, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    except OSError as error:
        raise output_error(file, error) from error
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream, temporary
    except OSError as error:
        raise output_error(file, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def finish(stream: BinaryIO, temporary: Path, *, is_synced: bool) -> None:
    """Complete a temporary file, on the disk if need be, with the permissions of a new file."""
    stream.flush()
    if is_synced:
        os.fsync(stream.fileno())
    temporary.chmod(0o666 & ~_umask())


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
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
