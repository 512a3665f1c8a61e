"""The plain half of the tar format (POSIX.1-1988 ustar): regular files, nothing else.

Not `tarfile`: that one follows extensions of the format whose sizes nobody bounds, before its
caller sees a name.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, Protocol

from graphopt.deploy.integrity import Broken
from graphopt.errors import OutputError

__all__ = ["read_members", "write_member", "write_tar_end"]

_BLOCK = 512
_NAME, _PREFIX = 100, 155
_MOST_BYTES = 8 << 30  # eleven octal digits
_COPY_BYTES = 1 << 20


class _Stream(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


class _Sink(Protocol):
    def write(self, data: bytes, /) -> int: ...


class _Member:
    """The content of one file, and no byte of the next."""

    def __init__(self, stream: _Stream, size: int) -> None:
        self._stream, self.left = stream, size

    def read(self, size: int = -1, /) -> bytes:
        wanted = self.left if size < 0 else min(size, self.left)
        block = self._stream.read(wanted) if wanted else b""
        if wanted and not block:
            raise EOFError("it ends within a file")
        self.left -= len(block)
        return block


def read_members(stream: _Stream) -> Iterator[tuple[str, _Member]]:
    """Yield name and content of each file; what is not read of one is skipped.

    Raises:
        Broken: It holds something else than regular files.
        EOFError: It ends too early.
    """
    while any(header := _exactly(stream, _BLOCK)):
        name, size = _parse(header)
        member = _Member(stream, size)
        yield name, member
        while member.read(_COPY_BYTES):
            pass
        _exactly(stream, -size % _BLOCK)


def _parse(header: bytes) -> tuple[str, int]:
    checked = header[:148] + b" " * 8 + header[156:]
    if _octal(header[148:156]) != sum(checked):
        raise Broken("a checksum of the archive is wrong")
    prefix = header[345 : 345 + _PREFIX] if header[257:262] == b"ustar" else b""
    try:
        name = "/".join(_text(part) for part in (prefix, header[:_NAME]) if part.strip(b"\0"))
    except UnicodeDecodeError:
        raise Broken("a name in the archive is not text") from None
    # Links, devices and the records of extensions among them.
    if header[156:157] not in (b"0", b"\0"):
        raise Broken(f"`{name}` is not a regular file; `graphopt pack` writes what is read here")
    return name, _octal(header[124:136])


def _text(part: bytes) -> str:
    return part.split(b"\0")[0].decode()


def _octal(digits: bytes) -> int:
    text = digits.strip(b" \0") or b"0"
    # GNU writes large sizes in base 256: a size that cannot be bounded by its digits.
    if not all(digit in b"01234567" for digit in text):
        raise Broken("a number in the archive is not octal")
    return int(text, 8)


def _exactly(stream: _Stream, size: int) -> bytes:
    """Return `size` bytes; a stream may give them in pieces."""
    found = b""
    while len(found) < size:
        block = stream.read(size - len(found))
        if not block:
            raise EOFError("it ends too early")
        found += block
    return found


def write_member(sink: _Sink, name: str, size: int, source: BinaryIO) -> None:
    """Write one file of `size` bytes.

    Raises:
        OutputError: The name is too long, or the file too large, for this format.
    """
    head, tail = _split(name)
    if size >= _MOST_BYTES or len(tail) > _NAME or len(head) > _PREFIX:
        raise OutputError(
            f"`{name}` does not fit into a tar file",
            why=f"a file has less than {_MOST_BYTES} bytes, and a name about {_NAME}",
            hint="write a folder or a `.zip`",
        )
    fields = (
        tail.ljust(_NAME, b"\0"), b"0000644\0", b"0000000\0", b"0000000\0",
        b"%011o\0" % size, b"%011o\0" % 0, b" " * 8, b"0", b"\0" * 100, b"ustar\0", b"00",
        b"\0" * 64, b"0000000\0", b"0000000\0", head.ljust(_PREFIX, b"\0"), b"\0" * 12,
    )  # fmt: skip
    header = b"".join(fields)
    header = header[:148] + b"%06o\0 " % sum(header) + header[156:]
    sink.write(header)
    while block := source.read(_COPY_BYTES):
        sink.write(block)
    sink.write(b"\0" * (-size % _BLOCK))


def _split(name: str) -> tuple[bytes, bytes]:
    """Split a long name at a slash, as the format wants it."""
    encoded = name.encode()
    if len(encoded) <= _NAME:
        return b"", encoded
    cut = encoded.rfind(b"/", 0, _PREFIX + 1)
    return encoded[: max(cut, 0)], encoded[cut + 1 :]


def write_tar_end(sink: _Sink) -> None:
    """Write what ends a tar file."""
    sink.write(b"\0" * 2 * _BLOCK)
