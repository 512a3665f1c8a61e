"""Frames between a worker process and its owner: a JSON header, then raw buffers.

A frame on the wire, integers little-endian::

    magic      4 bytes  b"GOF1"
    length     8 bytes  of the header
    header     JSON, UTF-8; its key `buffers` lists the size of each buffer in bytes
    buffers    raw bytes, one after the other

Nothing is ever unpickled: a frame can carry data, never code.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

__all__ = ["Buffer", "FrameError", "Header", "read_frame", "write_frame"]

Header: TypeAlias = dict[str, Any]
Buffer: TypeAlias = memoryview

_MAGIC = b"GOF1"
_PREFIX = struct.Struct("<4sQ")
# No header comes near this; a larger length means that the stream holds something else.
_MAX_HEADER_BYTES = 1 << 28


class FrameError(Exception):
    """The stream holds something that is not a frame."""


def write_frame(
    stream: io.RawIOBase, header: Mapping[str, Any], buffers: Sequence[Buffer] = ()
) -> None:
    """Write one frame.

    Args:
        stream: Unbuffered stream.
        header: Anything JSON can hold; infinities and NaN are kept.
        buffers: Contiguous views of bytes, written without a copy.

    Raises:
        OSError: The other end is gone.
    """
    sizes = [buffer.nbytes for buffer in buffers]
    text = json.dumps({**header, "buffers": sizes}, separators=(",", ":")).encode()
    _write_all(stream, memoryview(_PREFIX.pack(_MAGIC, len(text)) + text))
    for buffer in buffers:
        _write_all(stream, buffer)


def read_frame(stream: io.RawIOBase) -> tuple[Header, list[Buffer]]:
    """Read one frame; the buffers are writable memory of their own.

    Raises:
        EOFError: The other end is gone.
        FrameError: The stream holds something that is not a frame.
    """
    prefix = memoryview(bytearray(_PREFIX.size))
    _read_all(stream, prefix)
    magic, length = _PREFIX.unpack(prefix)
    if magic != _MAGIC or length > _MAX_HEADER_BYTES:
        raise FrameError(f"not a frame: {bytes(prefix)!r}")
    text = memoryview(bytearray(length))
    _read_all(stream, text)
    header: Header = json.loads(bytes(text))
    return header, [_read_buffer(stream, size) for size in header.pop("buffers")]


def _read_buffer(stream: io.RawIOBase, size: int) -> Buffer:
    # `np.empty` does not touch the pages that are about to be overwritten; `bytearray` would.
    buffer = np.empty(size, np.uint8).data
    _read_all(stream, buffer)
    return buffer


def _read_all(stream: io.RawIOBase, view: memoryview) -> None:
    done = 0
    while done < view.nbytes:
        count = stream.readinto(view[done:])
        if not count:
            raise EOFError("the pipe was closed")
        done += count


def _write_all(stream: io.RawIOBase, view: memoryview) -> None:
    done = 0
    while done < view.nbytes:
        done += stream.write(view[done:]) or 0
