"""Where states of a model lie while the runtime loads them, each weight once."""

from __future__ import annotations

import os
import weakref
from collections.abc import Hashable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

import onnx_ir as ir

from graphopt.ir import (
    FileTensor,
    SourceFile,
    TensorWriter,
    save_referring,
    scratch_folder,
    tensor_digest,
)

__all__ = ["StateFolder"]

_ALIGNMENT_BYTES = 4096
"""Where a weight lies decides how some kernels sum it: pages, as the runtime's own memory is."""


class StateFolder:
    """A scratch folder for states of one model; it goes with its owner.

    Many states share most weights. Files that hold them well aligned are linked to, where the disk
    is the same; the other weights are copied once, to a file that grows with each new one. The
    runtime maps both, so that they are not held in memory twice.
    """

    def __init__(self) -> None:
        stack = ExitStack()
        self._folder = stack.enter_context(scratch_folder())
        weakref.finalize(self, stack.close)
        self._stream = stack.enter_context((self._folder / _DATA).open("wb"))
        self._writer = TensorWriter(self._stream)
        self._places: dict[Hashable, tuple[str, int]] = {}
        self._links: dict[int, tuple[SourceFile, str | None]] = {}
        self._numbers = count()

    @contextmanager
    def written(self, model: ir.Model) -> Iterator[Path]:
        """Give the path of a file that holds ``model``, until the end of the block.

        Raises:
            OutputError: The disk is full.
        """
        path = self._folder / f"{next(self._numbers)}.onnx"
        save_referring(model, path, self._place)
        self._stream.flush()
        try:
            yield path
        finally:
            path.unlink()

    def _place(self, tensor: ir.TensorProtocol) -> tuple[str, int]:
        if isinstance(tensor, FileTensor):
            link = self._link(tensor.source)
            if link is not None and tensor.offset % _ALIGNMENT_BYTES == 0:
                return link, tensor.offset
            key: Hashable = (id(tensor.source), tensor.offset, tensor.nbytes)
        else:
            key = tensor_digest(tensor)  # by content: states that are gone must not be kept alive
        if key not in self._places:
            self._writer.write(bytes(-self._writer.position % _ALIGNMENT_BYTES))
            self._places[key] = (_DATA, self._writer.position)
            self._writer.tensor(tensor)
        return self._places[key]

    def _link(self, source: SourceFile) -> str | None:
        """Return the name of a link to ``source`` here; ``None`` where there can be none."""
        if id(source) not in self._links:
            name: str | None = f"linked-{len(self._links)}"
            try:
                # Only the very file that was loaded: by now another may have its name.
                os.link(source.path, self._folder / str(name))
                if not source.is_in_place():
                    name = None
            except OSError:
                name = None  # another disk, or one without links: it is copied
            self._links[id(source)] = (source, name)
        return self._links[id(source)][1]


_DATA = "weights"
