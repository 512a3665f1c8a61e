"""Where states of a model lie while the runtime loads them, each weight once."""

from __future__ import annotations

import os
import weakref
from collections.abc import Hashable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

import onnx_ir as ir

from graphopt.ir.copying import TensorWriter
from graphopt.ir.digest import tensor_digest
from graphopt.ir.file_tensor import FileTensor, SourceFile
from graphopt.ir.save import save_referring
from graphopt.ir.scratch import scratch_folder

__all__ = ["StateFolder"]

_ALIGNMENT_BYTES = 4096
"""Where a weight lies decides how some kernels sum it: pages, as the runtime's own memory is."""


_MOST_BYTES = 1 << 30
"""Of copied weights; where there are more, those of states that are gone go."""


class StateFolder:
    """A scratch folder for states of a model; it goes with its owner.

    Many states share most weights. Files that hold them well aligned are linked to, where the disk
    is the same; the other weights are copied once, to a file that grows with each new one. The
    runtime maps both, so that they are not held in memory twice. Nothing is on disk before the
    first state is written.
    """

    def __init__(self) -> None:
        self._folder = Path()
        self._copies: _Copies | None = None
        self._links: dict[int, tuple[SourceFile, str | None]] = {}
        self._numbers = count()
        self._states = 0

    @contextmanager
    def written(self, model: ir.Model) -> Iterator[Path]:
        """Give the path of a file that holds ``model``, until the end of the block.

        The file is without the notes of exporters, and ``model`` is not held meanwhile.

        Raises:
            OutputError: The disk is full.
        """
        copies = self._with_room()
        path = self._folder / f"{next(self._numbers)}.onnx"
        save_referring(model, path, lambda tensor: self._place(tensor, copies), has_notes=False)
        del model
        copies.stream.flush()
        self._states += 1
        try:
            yield path
        finally:
            self._states -= 1
            path.unlink()

    def _with_room(self) -> _Copies:
        """Return the file for weights: another one where there is none yet, or it is too large."""
        if self._copies is None:
            stack = ExitStack()
            self._folder = stack.enter_context(scratch_folder())
            weakref.finalize(self, stack.close)
        elif self._states or self._copies.writer.position <= _MOST_BYTES:
            return self._copies
        else:
            self._copies.stream.close()
            self._copies.path.unlink()
        # Under another name: the runtime may still have the old file mapped.
        self._copies = _Copies(self._folder / f"weights-{next(self._numbers)}")
        weakref.finalize(self._copies, self._copies.stream.close)
        return self._copies

    def _place(self, tensor: ir.TensorProtocol, copies: _Copies) -> tuple[str, int]:
        if isinstance(tensor, FileTensor):
            link = self._link(tensor.source)
            if link is not None and tensor.offset % _ALIGNMENT_BYTES == 0:
                return link, tensor.offset
            key: Hashable = (id(tensor.source), tensor.offset, tensor.nbytes)
        else:
            key = tensor_digest(tensor)  # by content: states that are gone must not be kept alive
        return copies.place(key, tensor)

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


class _Copies:
    """A file of weights that grows with each new one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stream = path.open("wb")
        self.writer = TensorWriter(self.stream)
        self._offsets: dict[Hashable, int] = {}

    def place(self, key: Hashable, tensor: ir.TensorProtocol) -> tuple[str, int]:
        """Return the name of the file and where ``tensor`` lies in it, written if it is new."""
        if key not in self._offsets:
            self.writer.write(bytes(-self.writer.position % _ALIGNMENT_BYTES))
            self._offsets[key] = self.writer.position
            self.writer.tensor(tensor)
        return self.path.name, self._offsets[key]
