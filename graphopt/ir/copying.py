"""Writing the bytes of tensors to files, in blocks, without holding a tensor in memory."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

import onnx_ir as ir

from graphopt.ir.file_tensor import BLOCK_BYTES, FileTensor, SourceFile, blocks, sample_bytes
from graphopt.ir.hashing import sha256

__all__ = ["ByteProgress", "TensorWriter", "file_digest", "sampled_digest"]

ByteProgress = Callable[[int, int], None]
"""Called during long work with the bytes done so far, and all of them."""

_KERNEL_COPY_BYTES = 1 << 25
_SMALL_BYTES = 1 << 16
_CANNOT_COPY = frozenset(
    {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF}
)
_SAMPLE_BYTES = 1 << 12
_SAMPLES = 16


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
        # The copy moved the descriptor, of which the stream's own count knows nothing.
        self._stream.seek(0, os.SEEK_END)
        return done

    def _advance(self, count: int) -> None:
        self.position += count
        if self._progress is not None and count >= BLOCK_BYTES:
            self._progress(self.position, self._total)


def sampled_digest(places: Iterable[tuple[int, ir.TensorProtocol]]) -> str:
    """Return a digest of tensors and their offsets that reads only a little of large ones.

    It names data files: versions of one model nearly always differ in it. Whoever relies on it
    must look at the bytes as well; reading them all costs as much as copying them.
    """
    whole = sha256()
    for offset, tensor in places:
        whole.update(f"{offset} {tensor.nbytes} ".encode())
        if tensor.nbytes <= _SAMPLES * _SAMPLE_BYTES:
            whole.update(sample_bytes(tensor, 0, tensor.nbytes))
            continue
        last = tensor.nbytes - _SAMPLE_BYTES
        for number in range(_SAMPLES):
            whole.update(sample_bytes(tensor, last * number // (_SAMPLES - 1), _SAMPLE_BYTES))
    return whole.hexdigest()


def file_digest(path: Path) -> str:
    """Return the sha256 of a file."""
    import hashlib

    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
