"""Weights that stay in the file they came from.

A tensor knows its range of bytes in a file. The file is held open, so that it stays the same one
when another takes its name: a model can be saved over the file that it is read from. Pages of a
mapped file count as memory of the process while they are resident, so they are given back as soon
as nobody holds the array, and what only passes through is read in blocks.
"""

from __future__ import annotations

import math
import mmap
import os
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import onnx_ir as ir

from graphopt.errors import ExternalDataError, InputError, ModelLoadError

__all__ = [
    "BLOCK_BYTES",
    "FileTensor",
    "SourceFile",
    "blocks",
    "external_files",
    "release_files",
    "sample_bytes",
]

BLOCK_BYTES = 1 << 20
_RELEASED_BYTES = 1 << 16
_WHOLE_BYTES = 1 << 16
_BITS_PER_BYTE = 8
_READ = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)

Array = np.ndarray[Any, Any]


class SourceFile:
    """A file that weights are read from.

    Args:
        path: Where it lies.
        is_model: Whether it is the model's own file, not one beside it.
        is_held: Whether it stays open. Else it is opened for each read, and refused when it is
            not the same one any more: for models in more files than a process may hold open.
        handle: A descriptor of it, where it is open already; it is closed with this object.

    Attributes:
        size: Its bytes.
        is_scratch: Whether it has no name and will be gone with the program.

    Raises:
        OSError: It cannot be opened.
    """

    is_scratch: ClassVar[bool] = False

    def __init__(
        self, path: Path, *, is_model: bool, is_held: bool = True, handle: int | None = None
    ) -> None:
        self.path = path
        self.is_model = is_model
        self._mapping: mmap.mmap | None = None
        self._handle = os.open(path, _READ) if is_held and handle is None else handle
        if self._handle is not None:
            # At its end the program closes all files itself.
            weakref.finalize(self, os.close, self._handle).atexit = False
        status = path.stat() if self._handle is None else os.fstat(self._handle)
        self.size = status.st_size
        self._identity = _identity(status)

    def is_in_place(self) -> bool:
        """Tell whether `path` still names this file, as it was when it was opened."""
        try:
            return _identity(self.path.stat()) == self._identity
        except OSError:
            return False

    @contextmanager
    def opened(self) -> Iterator[int]:
        """Give a descriptor of the file, for as long as the block runs.

        Raises:
            ExternalDataError, ModelLoadError: It is not there any more, or another one is.
        """
        if self._handle is not None:
            yield self._handle
            return
        try:
            handle = os.open(self.path, _READ)
        except OSError as error:
            raise self.failure(error.strerror or str(error)) from error
        try:
            if _identity(os.fstat(handle)) != self._identity:
                raise self.failure("another file has taken its place since it was loaded")
            yield handle
        finally:
            os.close(handle)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill ``buffer`` with the bytes from ``offset`` on.

        Raises:
            ExternalDataError, ModelLoadError: The file was cut short or cannot be read any more.
        """
        done = 0
        with self.opened() as handle:
            while done < len(buffer):
                try:
                    count = _read_at(handle, buffer[done:], offset + done)
                except OSError as error:
                    raise self.failure(error.strerror or str(error)) from error
                if not count:
                    raise self.failure(
                        f"the file ends {len(buffer) - done} bytes too early: "
                        "cut since the model was loaded"
                    )
                done += count

    def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes from ``offset`` on; raises like `read_into`."""
        if hasattr(os, "pread"):
            with self.opened() as handle:
                found = os.pread(handle, length, offset)
            if len(found) == length:  # nearly always; the other way holds the bytes twice
                return found
        buffer = bytearray(length)
        self.read_into(memoryview(buffer), offset)
        return bytes(buffer)

    def array(self, dtype: np.dtype[Any], offset: int, count: int) -> Array:
        """Return elements of the file, mapped where it is held open; their pages go with them.

        Raises:
            ExternalDataError, ModelLoadError: The file was cut short or cannot be read any more.
        """
        length = count * dtype.itemsize
        # numpy takes other paths through elements that are not aligned, slower ones that may sum
        # in another order: what a pass computes must not depend on where a tensor lies.
        if self._handle is None or not length or offset % dtype.itemsize:
            copy = np.empty(length, np.uint8)
            self.read_into(copy.data, offset)
            return copy.view(dtype)
        # A page behind the end of the file would kill the process when it is touched.
        if os.fstat(self._handle).st_size < offset + length:
            raise self.failure("the file was cut since the model was loaded")
        mapping = self.mapping()
        array = np.frombuffer(mapping, dtype, count, offset)
        if length >= _RELEASED_BYTES:
            weakref.finalize(array, _release, mapping, offset, length).atexit = False
        return array

    def mapping(self) -> mmap.mmap:
        """Return the whole file as mapped memory."""
        if self._mapping is None or len(self._mapping) < self.size:  # a scratch file grows
            with self.opened() as handle:
                self._mapping = mmap.mmap(handle, 0, access=mmap.ACCESS_READ)
        return self._mapping

    def release(self) -> None:
        """Give back the memory of every page of the mapping; they are read again when touched."""
        if self._mapping is not None:
            _release(self._mapping, 0, len(self._mapping))

    def failure(self, why: str) -> InputError:
        """Return the error that says that the file cannot be read any more."""
        kind = ModelLoadError if self.is_model else ExternalDataError
        return kind(
            f"the weights in `{self.path.name}` cannot be read",
            where=f"`{self.path}`",
            why=why,
            hint="copy the file again, and leave it alone while it is read",
        )


def _read_at(handle: int, buffer: memoryview, offset: int) -> int:
    if hasattr(os, "preadv"):
        return os.preadv(handle, [buffer], offset)
    os.lseek(handle, offset, os.SEEK_SET)
    found = os.read(handle, len(buffer))
    buffer[: len(found)] = found
    return len(found)


def _identity(status: os.stat_result) -> tuple[int, int, int, int]:
    # Size and time, too: a file may be overwritten in place.
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _release(mapping: mmap.mmap, offset: int, length: int) -> None:
    # Not offered by every system; there the pages stay until the system needs them.
    if hasattr(mmap, "MADV_DONTNEED") and not mapping.closed:
        start = offset - offset % mmap.PAGESIZE
        mapping.madvise(mmap.MADV_DONTNEED, start, offset + length - start)


class FileTensor(ir.TensorProtocol):
    """A tensor whose bytes lie in a file.

    Args:
        source: The file.
        offset: Where they begin.
        dtype: Element type, not text.
        shape: Its sizes.
        name: Its name.
        doc_string: What the file says about it.
        metadata_props: What else it says.
    """

    def __init__(
        self,
        source: SourceFile,
        offset: int,
        dtype: ir.DataType,
        shape: ir.Shape,
        *,
        name: str | None = None,
        doc_string: str | None = None,
        metadata_props: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.doc_string = doc_string
        self.metadata_props = dict(metadata_props or {})
        self.meta: dict[str, Any] = {}
        self.source = source
        self.offset = offset
        self.dtype = dtype
        self.shape = shape
        shape.freeze()
        # Asked for again and again.
        self._size = math.prod(shape.numpy())
        self._nbytes = (self._size * dtype.bitwidth + _BITS_PER_BYTE - 1) // _BITS_PER_BYTE
        self._array: weakref.ref[Array] | None = None

    @property
    def size(self) -> int:
        """Number of elements."""
        return self._size

    @property
    def nbytes(self) -> int:
        """Number of bytes in the file."""
        return self._nbytes

    @property
    def raw(self) -> SourceFile:
        """The file."""
        return self.source

    def __repr__(self) -> str:
        """Return what it is, without reading it."""
        return f"FileTensor<{self.dtype},{self.shape}>({self.source.path.name!r}, {self.offset})"

    def numpy(self) -> Array:
        """Return the elements, read-only: mapped where they are aligned in the file, else read.

        The array is not kept: it goes with its last reader, and its memory with it.
        """
        known = self._array() if self._array is not None else None
        if known is None:
            known = self._read()
            known.flags.writeable = False
            self._array = weakref.ref(known)
        return known

    def _read(self) -> Array:
        shape = self.shape.numpy()
        # Several elements share a byte: numpy has no view of that.
        if self.dtype.bitwidth < _BITS_PER_BYTE:
            packed = onnx.TensorProto(
                data_type=self.dtype.value, dims=shape, raw_data=self.tobytes()
            )
            return ir.serde.deserialize_tensor(packed).numpy().copy()
        # ONNX stores little endian whatever the machine is.
        dtype = np.dtype(self.dtype.numpy()).newbyteorder("<")
        return self.source.array(dtype, self.offset, self.size).reshape(shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """Return the elements for numpy."""
        array = self.numpy() if dtype is None else self.numpy().astype(dtype, copy=False)
        return array.copy() if copy else array

    def __dlpack__(self, *, stream: Any = None) -> Any:
        """Hand over a copy: consumers may write, and the file is read-only."""
        return self.numpy().copy().__dlpack__(stream=stream)

    def __dlpack_device__(self) -> tuple[int, int]:
        """Return the device, the CPU."""
        return np.empty(0).__dlpack_device__()

    def tobytes(self) -> bytes:
        """Return a copy of the bytes."""
        return self.source.read(self.offset, self.nbytes)

    def tofile(self, file: Any) -> None:
        """Write the bytes to an open file, in blocks."""
        for block in blocks(self):
            file.write(block)


def blocks(
    tensor: ir.TensorProtocol, size: int = BLOCK_BYTES, *, start: int = 0
) -> Iterator[memoryview]:
    """Yield the stored bytes of a tensor that holds no text, from ``start`` on, in parts.

    A part is valid until the next one is asked for.

    Raises:
        ExternalDataError, ModelLoadError: The file that they lie in was cut short.
    """
    if isinstance(tensor, ir.ExternalTensor) and tensor.length is not None:
        tensor = _in_file(tensor)
    if isinstance(tensor, FileTensor) and tensor.nbytes - start <= min(size, _WHOLE_BYTES):
        if tensor.nbytes > start:
            length = tensor.nbytes - start
            yield memoryview(tensor.source.read(tensor.offset + start, length))
        return
    if isinstance(tensor, FileTensor):
        buffer = memoryview(bytearray(min(size, tensor.nbytes)))
        for begin in range(start, tensor.nbytes, size):
            part = buffer[: min(size, tensor.nbytes - begin)]
            tensor.source.read_into(part, tensor.offset + begin)
            yield part
        return
    content = stored_bytes(tensor)
    for begin in range(start, len(content), size):
        yield content[begin : begin + size]


def sample_bytes(tensor: ir.TensorProtocol, start: int, length: int) -> bytes:
    """Return some of the stored bytes of a tensor that holds no text; no more of a file is read."""
    if isinstance(tensor, FileTensor):
        return tensor.source.read(tensor.offset + start, length)
    return bytes(stored_bytes(tensor)[start : start + length])


def _in_file(tensor: ir.ExternalTensor) -> FileTensor:
    """Return a tensor of the IR's own kind, which an onnx-ir pass may have made, as one of ours."""
    try:
        source = SourceFile(Path(tensor.path), is_model=False)
    except OSError as error:
        raise ExternalDataError(
            f"external data of tensor `{tensor.name}` cannot be used",
            where=f"`{tensor.path}`",
            why=error.strerror or str(error),
        ) from error
    return FileTensor(source, tensor.offset or 0, tensor.dtype, tensor.shape, name=tensor.name)


def stored_bytes(tensor: ir.TensorProtocol) -> memoryview:
    """Return the bytes of a tensor that holds no text, as they are stored.

    They are no copy where an array in memory holds them in that form.
    """
    if isinstance(tensor, ir.Tensor) and tensor.dtype.bitwidth >= _BITS_PER_BYTE:
        array = tensor.numpy()
        is_stored_so = (
            array.dtype.byteorder != ">" and array.dtype.itemsize == tensor.dtype.itemsize
        )
        if is_stored_so and array.flags.c_contiguous:
            return array.reshape(-1).view(np.uint8).data
    return memoryview(tensor.tobytes())


def external_files(model: ir.Model) -> frozenset[Path]:
    """Return the files beside the model's own that hold weights or other tensors of it."""
    from graphopt.ir.constants import attribute_tensors, initializer_tensors

    tensors = [*(tensor for _, tensor in initializer_tensors(model)), *attribute_tensors(model)]
    held = {item.source for item in tensors if isinstance(item, FileTensor)}
    named = {Path(item.path) for item in tensors if isinstance(item, ir.ExternalTensor)}
    return frozenset(
        named | {source.path for source in held if not (source.is_model or source.is_scratch)}
    )


def release_files(model: ir.Model) -> None:
    """Give back the memory of what was read of the files that hold weights of a model.

    A page that was touched, and those that the system maps around it, count for this process as
    long as it lives, also where a weight was looked at once.
    """
    from graphopt.ir.constants import initializer_tensors

    tensors = [tensor for _, tensor in initializer_tensors(model)]
    for source in {item.source for item in tensors if isinstance(item, FileTensor)}:
        source.release()
