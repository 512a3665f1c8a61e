"""Writing a directory so that nobody ever sees half of it."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from graphopt.deploy.directory_lock import DirectoryLock
from graphopt.deploy.exchange import exchange, rename_new
from graphopt.errors import OutputError
from graphopt.ir import output_error

__all__ = ["check_destination", "publish", "recover"]

_ATTEMPTS = 100
_OUTPUT_ERRNOS = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO,
}  # fmt: skip


def _anything(path: Path) -> bool:
    del path
    return True


@contextmanager
def publish(
    destination: str | os.PathLike[str],
    *,
    force: bool = False,
    is_replaceable: Callable[[Path], bool] = _anything,
) -> Iterator[Path]:
    """Give the block a new directory that becomes `destination` when the block ends.

    The directory is a hidden sibling of `destination`, thus on the same filesystem, and locked
    for as long as its process lives. At the end everything in it is flushed to the disk, then it
    takes the name in one step: a rename, or an exchange with the old directory, which is deleted
    afterwards. Where the system cannot exchange, two renames do (see `recover`). When the block
    raises, `KeyboardInterrupt` included, nothing stays behind; what a killed process left is
    removed by the next `publish` to the same destination.

    Args:
        destination: Where the directory shall be; its parent must exist.
        force: Replace what is there.
        is_replaceable: Says of an old directory whether `force` may replace it.

    Yields:
        The path of the empty directory to fill.

    Raises:
        OutputError: The destination exists and may not be replaced, or cannot be written.
    """
    final = Path(os.path.abspath(destination))  # noqa: PTH100 - links must stay visible
    recover(final)
    _remove_stale(final)
    check_destination(final, force=force, is_replaceable=is_replaceable)
    lock = _new_sibling(final)
    try:
        with _explaining(final, lock.path):
            yield lock.path
            _flush_tree(lock.path)
            _take_name(lock.path, final, force)
            _flush(final.parent)
    finally:
        # After an exchange this is the old directory.
        _remove(lock.path)
        lock.release()


def recover(destination: str | os.PathLike[str]) -> bool:
    """Put an old directory back that a killed two-step replacement had moved aside.

    Needed only where directories cannot be exchanged: there a process killed between the two
    renames leaves the complete old directory under `.NAME.old-…` and nothing at `destination`.

    Returns:
        Whether something was put back.
    """
    final = Path(destination)
    if os.path.lexists(final):
        return False
    for aside in sorted(final.parent.glob(_pattern(final, "old"))):
        lock = DirectoryLock.try_lock(aside)
        if lock is None:
            continue  # its owner lives and is about to finish
        try:
            with suppress(OSError):
                return rename_new(aside, final)
        finally:
            lock.release()
    return False


def check_destination(
    destination: str | os.PathLike[str],
    *,
    force: bool = False,
    is_replaceable: Callable[[Path], bool] = _anything,
) -> None:
    """Refuse what `publish` would refuse, before any work is done.

    Raises:
        OutputError: The destination exists and may not be replaced, or cannot be written.
    """
    final = Path(destination).absolute()
    if final.parent.is_dir() and not os.access(final.parent, os.W_OK):
        raise OutputError(
            f"`{final}` cannot be written",
            why=f"the folder `{final.parent}` is read-only",
            hint="choose another place with `-o`",
        )
    if not os.path.lexists(final):
        if os.path.lexists(final.parent) and not final.parent.is_dir():
            raise OutputError(
                f"`{final}` cannot be written",
                why=f"`{final.parent}` is not a folder",
                hint="choose another place with `-o`",
            )
        if not final.parent.is_dir():
            raise OutputError(
                f"`{final}` cannot be written",
                why=f"the folder `{final.parent}` does not exist",
                hint=f"create the folder first: `mkdir -p {final.parent}`",
            )
        return
    if not force:
        raise OutputError(
            f"`{final}` exists already",
            hint="replace it with `--force`, or choose another place with `-o`",
        )
    if final.is_symlink() or not final.is_dir():
        kind = "a symbolic link" if final.is_symlink() else "not a directory"
        raise OutputError(
            f"`{final}` cannot be replaced", why=f"it is {kind}", hint="remove it first"
        )
    # `--force` with a path mistyped must not cost somebody a folder of his own.
    if any(final.iterdir()) and not is_replaceable(final):
        raise OutputError(
            f"`{final}` is not replaced",
            why="it is neither empty nor something that graphopt wrote",
            hint="remove it first, or choose another place with `-o`",
        )


def _new_sibling(final: Path) -> DirectoryLock:
    for _ in range(_ATTEMPTS):
        path = final.parent / f".{final.name}.tmp-{secrets.token_hex(6)}"
        with _explaining(final, path):
            path.mkdir()
        lock = DirectoryLock.try_lock(path, is_new=True)
        if lock is not None:
            return lock
    raise OutputError(f"`{final}` cannot be written", why="no temporary directory can be locked")


def _take_name(staged: Path, final: Path, force: bool) -> None:
    if rename_new(staged, final):
        return
    if not force:
        raise OutputError(f"`{final}` exists already", why="it appeared while this one was made")
    if exchange(staged, final):
        return
    _replace_in_two_steps(staged, final)


def _replace_in_two_steps(staged: Path, final: Path) -> None:
    aside = final.parent / f".{final.name}.old-{secrets.token_hex(6)}"
    lock = DirectoryLock.try_lock(final)
    try:
        final.rename(aside)
        staged.rename(final)
    finally:
        if not os.path.lexists(final):
            aside.rename(final)
        _remove(aside)
        if lock is not None:
            lock.release()


def _remove(folder: Path) -> None:
    """Remove a directory to the end, also where an interrupt comes in the middle."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _remove_stale(final: Path) -> None:
    """Remove what dead processes left; a directory whose lock is held belongs to a living one."""
    leftovers = [*final.parent.glob(_pattern(final, "tmp"))]
    if os.path.lexists(final):
        leftovers += final.parent.glob(_pattern(final, "old"))
    for path in leftovers:
        lock = DirectoryLock.try_lock(path)
        if lock is not None:
            _remove(path)
            lock.release()


def _pattern(final: Path, kind: str) -> str:
    name = "".join(f"[{letter}]" if letter in "*?[" else letter for letter in final.name)
    return f".{name}.{kind}-" + "[0-9a-f]" * 12


@contextmanager
def _explaining(final: Path, staged: Path) -> Iterator[None]:
    """Turn errors of writing below `staged` into an `OutputError` about `final`."""
    try:
        yield
    except OSError as error:
        if error.errno not in _OUTPUT_ERRNOS and not _is_below(error.filename, staged):
            raise  # reading something else failed
        raise output_error(final, error) from error


def _is_below(name: object, folder: Path) -> bool:
    return isinstance(name, str | os.PathLike) and Path(name).is_relative_to(folder)


def _flush_tree(folder: Path) -> None:
    # Files before the directory that names them: a name on the disk never leads to a file that is
    # not.
    for root, _, files in os.walk(folder, topdown=False):
        for name in files:
            _flush(Path(root, name))
        _flush(Path(root))


def _flush(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return  # directories cannot be opened there
    # Windows flushes only what is open for writing.
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
