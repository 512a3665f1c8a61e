"""A bundle as one file: `.zip`, or `.tar.zst` where the extra is installed.

What is unpacked is hostile until it is checked. The manifest comes first and says how large every
other file is: nothing that it does not name is written, and of no file more than it says.
"""

from __future__ import annotations

import os
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from graphopt.deploy.integrity import MANIFEST, MAX_MANIFEST_BYTES, Broken, read_manifest
from graphopt.deploy.integrity import SIGNATURE as SIGNATURE_NAME
from graphopt.deploy.signature import MAX_SIGNATURE_BYTES
from graphopt.deploy.tar_stream import read_members, write_member, write_tar_end
from graphopt.errors import BundleError, MissingExtraError
from graphopt.ir import atomic_file

__all__ = ["ARCHIVE_SUFFIXES", "archive_suffix", "pack", "unpack"]

ARCHIVE_SUFFIXES = (".zip", ".tar.zst")

LARGEST_EXPANSION = 100
"""Weights hardly shrink; what grows by more than this is a bomb, or zeros that need no shipping."""

FREE_EXPANSION_BYTES = 64 << 20
"""Small bundles may be as empty as they like."""

_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same bundle gives the same bytes at any time
_ZSTD_LEVEL = 10
_MAX_WINDOW_BYTES = 128 << 20  # what a decompressor must hold in memory
_BLOCK_BYTES = 1 << 20
_MOST_PADDING_BYTES = 64 << 10  # zeros behind the last file; other programs fill up to 10 KiB
_READ_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError)


class _Readable(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


def archive_suffix(path: str | os.PathLike[str]) -> str | None:
    """Return `.zip` or `.tar.zst` where a path ends so; None for a folder."""
    return next((end for end in ARCHIVE_SUFFIXES if Path(path).name.lower().endswith(end)), None)


def pack(folder: Path, path: Path) -> None:
    """Write a whole bundle as one file, the same bytes each time; it appears at once.

    Raises:
        BundleError: It would be refused as a bomb when it is unpacked.
        MissingExtraError: `.tar.zst` without `zstandard`.
        OutputError: `path` cannot be written.
    """
    names = _names(folder)
    with atomic_file(path) as stream:
        (_write_zip if archive_suffix(path) == ".zip" else _write_tar)(stream, folder, names)
        packed = stream.tell()
        total = sum((folder / name).stat().st_size for name in names)
        if total > _allowed(packed):
            raise BundleError(
                f"`{folder}` shrinks to less than 1/{LARGEST_EXPANSION} of its size",
                why="nobody could tell the archive from a bomb",
                hint="ship the folder, or a smaller model: most of its weights are zero",
            )


def _names(folder: Path) -> list[str]:
    """Return the files in the order of the archive: what says what the others must be, first."""
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    first = [name for name in (MANIFEST, SIGNATURE_NAME) if name in found]
    return [*first, *sorted(found - set(first))]


def _allowed(packed_bytes: int) -> int:
    return FREE_EXPANSION_BYTES + LARGEST_EXPANSION * packed_bytes


def _write_zip(stream: BinaryIO, folder: Path, names: list[str]) -> None:
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            facts = zipfile.ZipInfo(name, _ZIP_EPOCH)
            # Rights of the one who packs are nobody else's: all files are plain ones that anybody
            # may read.
            facts.compress_type, facts.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            size = (folder / name).stat().st_size
            with (folder / name).open("rb") as source:
                # Whether a member needs the large form must be known before it is written.
                facts.file_size = size
                with archive.open(facts, "w") as member:
                    shutil.copyfileobj(source, member, _BLOCK_BYTES)


def _write_tar(stream: BinaryIO, folder: Path, names: list[str]) -> None:
    compressor = _zstandard().ZstdCompressor(level=_ZSTD_LEVEL, write_checksum=True)
    with compressor.stream_writer(stream, closefd=False) as packed:
        for name in names:
            with (folder / name).open("rb") as source:
                write_member(packed, name, (folder / name).stat().st_size, source)
        write_tar_end(packed)


def unpack(path: Path, folder: Path) -> str:
    """Unpack an archive into the new directory `folder`, and say what was there.

    The files are what their sizes and names say and no more is known: their hashes are checked as
    those of any bundle.

    Raises:
        Broken: The archive is damaged, or holds what no bundle holds.
        MissingExtraError: `.tar.zst` without `zstandard`.
    """
    folder.mkdir()
    reading = _zip_members if archive_suffix(path) == ".zip" else _tar_members
    try:
        with reading(path) as members:
            return _write_members(path, members, folder)
    except _READ_ERRORS as error:
        raise Broken(f"`{path.name}` is damaged: {error}") from None
    except OSError as error:
        raise Broken(f"`{path.name}` cannot be unpacked: {error.strerror or error}") from None
    except RuntimeError as error:  # zipfile's way to say that a password is needed
        raise Broken(f"`{path.name}` cannot be unpacked: {error}") from None


def _write_members(path: Path, members: Iterator[tuple[str, _Readable]], folder: Path) -> str:
    name, stream = next(members, ("", None))
    if name != MANIFEST or stream is None:
        raise Broken(f"`{MANIFEST}` is not the first file of `{path.name}`")
    _write(stream, folder / MANIFEST, MAX_MANIFEST_BYTES)
    expected = _expected(path, folder)
    count = len(expected)
    for name, stream in members:
        if name not in expected:
            raise Broken(f"`{name}` is not in the manifest, or there twice")
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        _write(stream, target, expected.pop(name))
    return f"{count - len(expected) + 1} files unpacked"


def _expected(path: Path, folder: Path) -> dict[str, int]:
    """Return the largest size of every file that may follow the manifest."""
    manifest = read_manifest(folder)
    sizes = {name: int(facts["size_bytes"]) for name, facts in manifest["files"].items()}
    total, packed = sum(sizes.values()), path.stat().st_size
    if total > _allowed(packed):
        raise Broken(
            f"`{path.name}` says that its {packed} bytes are {total}: no bundle shrinks so much"
        )
    if total > shutil.disk_usage(folder).free:
        raise Broken(f"there is no room here for {total} bytes of `{path.name}`")
    return {SIGNATURE_NAME: MAX_SIGNATURE_BYTES, **sizes}


def _write(source: _Readable, path: Path, limit: int) -> None:
    left = limit
    # Never over something: two members of one name, or a link that an earlier one left, end here.
    with path.open("xb") as target:
        while block := source.read(min(_BLOCK_BYTES, left + 1)):
            left -= len(block)
            if left < 0:
                raise Broken(f"`{path.name}` is larger than it may be ({limit} bytes)")
            target.write(block)


@contextmanager
def _zip_members(path: Path) -> Iterator[Iterator[tuple[str, _Readable]]]:
    with zipfile.ZipFile(path) as archive:
        files = [facts for facts in archive.infolist() if not facts.is_dir()]
        # A zip has a table of contents, so that the order of writing does not matter.
        files.sort(key=lambda facts: facts.filename != MANIFEST)
        yield ((facts.filename, archive.open(facts)) for facts in files)


@contextmanager
def _tar_members(path: Path) -> Iterator[Iterator[tuple[str, _Readable]]]:
    zstandard = _zstandard()
    decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
    try:
        with path.open("rb") as packed, decompressor.stream_reader(packed) as stream:
            yield read_members(stream)
            _read_to_the_end(stream, path)
    except zstandard.ZstdError as error:
        raise Broken(f"`{path.name}` is damaged: {error}") from None


def _read_to_the_end(stream: _Readable, path: Path) -> None:
    """Let the decompressor come to its check sum, which covers the manifest's own bytes, too."""
    left = _MOST_PADDING_BYTES
    while block := stream.read(_BLOCK_BYTES):
        left -= len(block)
        if left < 0 or any(block):
            raise Broken(f"something follows the end of `{path.name}`")


def _zstandard() -> Any:
    try:
        import zstandard
    except ImportError as error:
        raise MissingExtraError(
            "a `.tar.zst` needs zstandard",
            hint="`pip install 'graphopt[archives]'`, or use `.zip`",
        ) from error
    return zstandard
