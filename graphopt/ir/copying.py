"""Writing the bytes of tensors to files, in blocks, without holding a tensor in memory."""

from __future__ import annotations

import errno
import hashlib
import os
import zlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
import onnx_ir as ir

from graphopt.ir.file_tensor import BLOCK_BYTES, FileTensor, SourceFile, blocks

__all__ = ["ByteProgress", "Checksum", "TensorWriter"]

ByteProgress = Callable[[int, int], None]
"""Called during long work with the bytes done so far, and all of them."""

_KERNEL_COPY_BYTES = 1 << 23
_SMALL_BYTES = 1 << 16
_CANNOT_COPY = frozenset(
    {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF}
)
_WORD_BYTES = 8


class TensorWriter:
    """Writes bytes and tensors one after the other to an open file.

    Args:
        stream: The file.
        total: Bytes that will be written, for ``progress``.
        progress: Called after each few megabytes.
    """

    def __init__(
        self, stream: BinaryIO, *, total: int = 0, progress: ByteProgress | None = None
    ) -> None:
        self._stream = stream
        self._total = total
        self._progress = progress
        self.position = 0

    def write(self, data: bytes | memoryview) -> None:
        """Write bytes."""
        self._stream.write(data)
        self._advance(len(data))

    def tensor(self, tensor: ir.TensorProtocol) -> None:
        """Write the stored bytes of a tensor; the system copies those that lie in a file.

        Raises:
            ExternalDataError, ModelLoadError: Its file was cut short.
            OSError: The disk is full.
        """
        copied = 0
        if isinstance(tensor, FileTensor) and tensor.nbytes >= _SMALL_BYTES:
            copied = self._copy(tensor.source, tensor.offset, tensor.nbytes)
        for block in blocks(tensor, start=copied):
            self.write(block)

    def _copy(self, source: SourceFile, offset: int, length: int) -> int:
        """Let the system copy a range of a file; return how many bytes it did."""
        if not hasattr(os, "copy_file_range"):
            return 0
        self._stream.flush()  # what follows goes past the buffer of the stream
        target, done = self._stream.fileno(), 0
        with source.opened() as handle:
            while done < length:
                size = min(_KERNEL_COPY_BYTES, length - done)
                try:
                    count = os.copy_file_range(handle, target, size, offset + done)
                except OSError as error:
                    if error.errno in _CANNOT_COPY:  # files of two kinds of disk, for example
                        break
                    raise
                if not count:
                    break  # the end of the source: who reads on says so
                done += count
                self._advance(count)
        self._stream.seek(0, os.SEEK_END)
        return done

    def _advance(self, count: int) -> None:
        self.position += count
        if self._progress is not None and count >= BLOCK_BYTES:
            self._progress(self.position, self._total)


class Checksum:
    """A digest of many tensors, computed beside the writing of them.

    It tells versions of a data file apart; it does not resist forgery, and is several times
    faster than a digest that does.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._parts: list[Future[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def add(self, offset: int, tensor: ir.TensorProtocol) -> None:
        """Take in the bytes of a tensor and its place."""
        self._parts.append(self._pool.submit(_checksum, offset, tensor))

    def hexdigest(self) -> str:
        """Return the digest of all that was added; waits for it."""
        return hashlib.sha256(b"".join(part.result() for part in self._parts)).hexdigest()


def _checksum(offset: int, tensor: ir.TensorProtocol) -> bytes:
    """Return a cyclic checksum and a sum of words; together 96 bits, and far from each other."""
    cyclic = words = 0
    for block in blocks(tensor):
        cyclic = zlib.crc32(block, cyclic)
        whole = len(block) - len(block) % _WORD_BYTES
        words += int(np.frombuffer(block[:whole], "<u8").sum())
        words += int.from_bytes(block[whole:], "little")
    numbers = (offset, tensor.nbytes, cyclic, words % 2**64)
    return b"".join(number.to_bytes(8, "little") for number in numbers)
