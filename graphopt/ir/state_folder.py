"""Where states of a model lie while the runtime loads them, each weight once."""

from __future__ import annotations

import weakref
from collections.abc import Hashable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

import onnx_ir as ir

from graphopt.errors import OutputError
from graphopt.ir.copying import TensorWriter
from graphopt.ir.digest import tensor_digest
from graphopt.ir.file_tensor import FileTensor
from graphopt.ir.save import save_referring
from graphopt.ir.scratch import scratch_folder

__all__ = ["StateFolder"]

_ALIGNMENT_BYTES = 4096
"""Where a weight lies decides how some kernels sum it: pages, as the runtime's own memory is."""


_MOST_BYTES = 1 << 30
"""Of copied weights; where there are more, those of states that are gone go."""


class StateFolder:
    """A scratch folder for states of a model; it goes with its owner.

    Many states share most weights. Those that lie well aligned in a file already are read where
    they are; the others are copied once, to a file that grows with each new one. The runtime maps
    both, so that they are not held in memory twice. Nothing is on disk before the first state is
    written. A state lies beside neither kind of file, and a link would be no way to them: the
    runtime follows none that leads elsewhere, and of a file with two names `onnx` thinks the worst.
    So weights are located from the root of the file system: `SessionOptions.is_rooted`.
    """

    def __init__(self) -> None:
        self._folder = Path()
        self._copies: _Copies | None = None
        self._numbers = count()
        self._states = 0

    @contextmanager
    def written(self, model: ir.Model) -> Iterator[Path]:
        """Give the path of a file that holds ``model``, until the end of the block.

        The file is without the notes of exporters, and ``model`` is not held meanwhile.

        Raises:
            OutputError: The disk is full, or no model can hold the name of the temporary folder.
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
            # Where links lead, and where it stays when the program changes its folder.
            self._folder = stack.enter_context(scratch_folder()).resolve()
            weakref.finalize(self, stack.close)
            if self._location(self._folder) is None:
                raise OutputError(
                    "weights cannot be written to a temporary file",
                    why="the folder of temporary files has a name that is no UTF-8, which a model "
                    "cannot hold",
                    hint="set the environment variable `TMPDIR` to another folder",
                )
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
            if tensor.offset % _ALIGNMENT_BYTES == 0 and tensor.source.is_in_place():
                place = self._location(tensor.source.path)
                if place is not None:
                    return place, tensor.offset
            key: Hashable = (id(tensor.source), tensor.offset, tensor.nbytes)
        else:
            key = tensor_digest(tensor)  # by content: states that are gone must not be kept alive
        return str(self._location(copies.path)), copies.place(key, tensor)

    def _location(self, path: Path) -> str | None:
        """Return where a file lies from the root of this folder; ``None`` where that cannot be."""
        file = path.resolve()
        if file.anchor != self._folder.anchor:
            return None  # another drive
        try:
            str(file).encode()
        except UnicodeEncodeError:
            return None  # a protobuf holds text
        return file.relative_to(file.anchor).as_posix()


class _Copies:
    """A file of weights that grows with each new one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stream = path.open("wb")
        self.writer = TensorWriter(self.stream)
        self._offsets: dict[Hashable, int] = {}

    def place(self, key: Hashable, tensor: ir.TensorProtocol) -> int:
        """Return where ``tensor`` lies in the file, written if it is new."""
        if key not in self._offsets:
            self.writer.write(bytes(-self.writer.position % _ALIGNMENT_BYTES))
            self._offsets[key] = self.writer.position
            self.writer.tensor(tensor)
        return self._offsets[key]
