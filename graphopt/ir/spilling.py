"""New weights that wait in scratch files, not in memory, until the model is written.

A pass that folds a scale into every layer makes as many bytes of weights as the model has. They go
to files without a name, which end with the program however it ends, and are read back, mapped,
like the weights of the model's own file.
"""

from __future__ import annotations

import os
import tempfile
import threading
import weakref
from pathlib import Path
from typing import Any, ClassVar

import onnx_ir as ir

from graphopt.ir.file_tensor import FileTensor, SourceFile, stored_bytes

__all__ = ["SPILLED_BYTES", "spilled"]

SPILLED_BYTES = 1 << 20
"""Smaller tensors stay in memory."""

_FILE_BYTES = 1 << 28
_ALIGNMENT_BYTES = 64


class _ScratchFile(SourceFile):
    """A file without a name; it goes with the last tensor in it."""

    is_scratch: ClassVar[bool] = True

    def __init__(self) -> None:
        with tempfile.TemporaryFile(buffering=0) as stream:
            # A descriptor of its own, which stays when the stream closes: the file has no name to
            # open it by.
            handle = os.dup(stream.fileno())
        super().__init__(Path(tempfile.gettempdir()), is_model=False, handle=handle)

    def add(self, tensor: ir.Tensor[Any]) -> FileTensor:
        offset = self.size + -self.size % _ALIGNMENT_BYTES
        content, end = stored_bytes(tensor), offset
        with self.opened() as handle:
            os.lseek(handle, offset, os.SEEK_SET)
            while content:
                count = os.write(handle, content)
                content, end = content[count:], end + count
        self.size = end
        return FileTensor(
            self,
            offset,
            tensor.dtype,
            ir.Shape(tensor.shape.numpy()),
            name=tensor.name,
            doc_string=tensor.doc_string,
            metadata_props=tensor.metadata_props,
        )


class _Scratch:
    """The file that takes the next tensor. Each is given up at some size, so that it can go."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._file: weakref.ref[_ScratchFile] | None = None

    def add(self, tensor: ir.Tensor[Any]) -> FileTensor:
        with self._lock:
            file = self._file() if self._file is not None else None
            if file is None or file.size > _FILE_BYTES:
                file = _ScratchFile()
                self._file = weakref.ref(file)
            return file.add(tensor)


_SCRATCH = _Scratch()


def spilled(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """Return ``tensor``, or where it is a large one in memory, the same one in a scratch file."""
    if not isinstance(tensor, ir.Tensor) or tensor.nbytes < SPILLED_BYTES:
        return tensor
    try:
        return _SCRATCH.add(tensor)
    except OSError:
        return tensor  # no space for temporary files: memory is the only other place
