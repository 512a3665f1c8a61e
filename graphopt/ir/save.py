"""Writing a model to disk: streaming, deterministic, atomic."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import onnx
import onnx_ir as ir

from graphopt.errors import ExternalDataError, OutputError
from graphopt.ir.constants import weight_bytes
from graphopt.ir.structure import Structure, model_tensor_protos, take_structure

__all__ = ["INLINE_LIMIT_BYTES", "atomic_file", "model_bytes", "save"]

INLINE_LIMIT_BYTES = 1 << 30
"""Weights above this many bytes go to a file of their own; protobuf ends at 2 GiB."""

_EXTERNAL_MINIMUM_BYTES = 1024
_ALIGNMENT_BYTES = 4096
_PIECE_BYTES = 1 << 23


def save(
    model: ir.Model,
    path: str | os.PathLike[str],
    *,
    external_data: bool | str | None = None,
    alignment: int = _ALIGNMENT_BYTES,
) -> tuple[Path, ...]:
    """Write ``model``; the same model gives the same bytes.

    The ``.onnx`` file is renamed into place last. Its data file carries a digest in its name, so
    that an older model beside it stays whole until then, and is removed with the older model.

    Args:
        model: The model; it is left as it was.
        path: Where to write the ``.onnx`` file.
        external_data: ``True`` or ``False`` to force or forbid a data file, a file name to force
            one of that name, ``None`` to choose by `INLINE_LIMIT_BYTES`.
        alignment: Offsets of large tensors are multiples of this, in bytes, for memory mapping.

    Returns:
        The files written, the ``.onnx`` file first.

    Raises:
        OutputError: The folder is missing or cannot be written, the disk is full, or the name of
            the data file leads out of the folder.
    """
    file = Path(path).absolute()
    structure = take_structure(model)
    if external_data is None:
        external_data = weight_bytes(model) > INLINE_LIMIT_BYTES
    if external_data is False:
        with atomic_file(file) as stream:
            stream.write(_inline(structure))
        return (file,)
    name = external_data if isinstance(external_data, str) else None
    if name is not None and (Path(name).name != name or name in ("", "..", file.name)):
        raise OutputError(
            f"external data cannot be written to `{name}`",
            why=f"expected the name of another file in the folder of `{file.name}`",
        )
    return _save_external(structure, file, name, alignment)


def model_bytes(model: ir.Model) -> bytes:
    """Return the protobuf of ``model`` with its weights inline; below 2 GiB only."""
    return _inline(take_structure(model))


def _inline(structure: Structure) -> bytes:
    for proto, tensor in structure.weights():
        _fill(proto, tensor)
    _load_leftovers(structure.proto)
    return bytes(structure.proto.SerializeToString(deterministic=True))


def _fill(proto: onnx.TensorProto, tensor: ir.TensorProtocol) -> None:
    del proto.external_data[:]
    proto.ClearField("data_location")
    if tensor.dtype == ir.DataType.STRING:
        proto.string_data.extend(bytes(text) for text in tensor.numpy().reshape(-1).tolist())
    else:
        proto.raw_data = tensor.tobytes()


def _load_leftovers(model: onnx.ModelProto) -> None:
    """Take in tensors of ``Constant`` nodes that were external: only initializers may stay so."""
    for proto in model_tensor_protos(model):
        if proto.data_location == onnx.TensorProto.EXTERNAL:
            location = {entry.key: entry.value for entry in proto.external_data}
            if not Path(location.get("location", "")).is_absolute():
                continue
            with open(location["location"], "rb") as stream:  # noqa: PTH123 - already resolved
                stream.seek(int(location["offset"]))
                proto.raw_data = stream.read(int(location["length"]))
            del proto.external_data[:]
            proto.ClearField("data_location")


def _save_external(
    structure: Structure, file: Path, name: str | None, alignment: int
) -> tuple[Path, ...]:
    placed: dict[int, tuple[int, int]] = {}
    whole = hashlib.sha256()
    temporary = file.parent / f".{file.name}.{os.getpid()}.data"
    try:
        with _writing(temporary) as stream:
            for proto, tensor in structure.weights():
                if tensor.nbytes < _EXTERNAL_MINIMUM_BYTES or tensor.dtype == ir.DataType.STRING:
                    _fill(proto, tensor)
                elif id(tensor) not in placed:
                    placed[id(tensor)] = _append(stream, tensor, alignment, whole)
        data_name = name or f"{file.stem}-{whole.hexdigest()[:16]}.data"
        for proto, tensor in structure.weights():
            _locate(proto, data_name, *placed[id(tensor)])
        _load_leftovers(structure.proto)
        data_file = file.parent / data_name
        with atomic_file(file) as stream:
            stream.write(structure.proto.SerializeToString(deterministic=True))
            temporary.replace(data_file)
    finally:
        temporary.unlink(missing_ok=True)
    _remove_stale_data(file, keep=data_file)
    return (file, data_file)


def _append(
    stream: BinaryIO, tensor: ir.TensorProtocol, alignment: int, digest: hashlib._Hash
) -> tuple[int, int]:
    padding = -stream.tell() % alignment if tensor.nbytes >= alignment else 0
    offset = stream.tell() + padding
    for piece in itertools.chain([bytes(padding)], _pieces(tensor)):
        stream.write(piece)
        digest.update(piece)
    return offset, stream.tell() - offset


def _pieces(tensor: ir.TensorProtocol) -> Iterator[bytes]:
    """Yield the bytes of a tensor; one that lies in a file is read in parts, never mapped whole."""
    if not isinstance(tensor, ir.ExternalTensor) or tensor.length is None:
        yield tensor.tobytes()
        return
    with open(tensor.path, "rb") as source:  # noqa: PTH123 - a path of the IR, resolved at loading
        source.seek(tensor.offset or 0)
        left = tensor.length
        while left:
            piece = source.read(min(left, _PIECE_BYTES))
            if not piece:
                raise ExternalDataError(
                    f"external data of tensor `{tensor.name}` cannot be used",
                    where=f"`{tensor.path}`",
                    why=f"the file ends {left} bytes too early: cut since the model was loaded",
                    hint="copy the data file again",
                )
            left -= len(piece)
            yield piece


def _locate(proto: onnx.TensorProto, name: str, offset: int, length: int) -> None:
    del proto.external_data[:]
    for key, value in (("location", name), ("offset", offset), ("length", length)):
        proto.external_data.add(key=key, value=str(value))


def _remove_stale_data(file: Path, keep: Path) -> None:
    pattern = re.compile(re.escape(file.stem) + r"-[0-9a-f]{16}\.data\Z")
    for other in file.parent.glob(f"{glob_escape(file.stem)}-*.data"):
        if pattern.match(other.name) and other != keep:
            other.unlink(missing_ok=True)


def glob_escape(text: str) -> str:
    """Escape ``text`` for use in a glob pattern."""
    return re.sub(r"([*?[])", r"[\1]", text)


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a temporary file that becomes ``path`` when the block ends without an error.

    Raises:
        OutputError: The folder is missing or cannot be written, or the disk is full.
    """
    file = Path(path).absolute()
    try:
        handle, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    except OSError as error:
        raise output_error(file, error) from error
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(file)
        _sync_folder(file.parent)
    except OSError as error:
        raise output_error(file, error) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _writing(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise output_error(path, error) from error


def output_error(path: Path, error: OSError) -> OutputError:
    """Say in one error why ``path`` could not be written."""
    hints = {
        errno.ENOSPC: "free some space, or choose another disk with `-o`",
    }
    if error.errno == errno.ENOENT and not path.parent.exists():
        hints[errno.ENOENT] = f"create the folder first: `mkdir -p {path.parent}`"
    return OutputError(
        f"`{path}` cannot be written",
        why=error.strerror or str(error),
        hint=hints.get(error.errno or 0, "choose another place with `-o`"),
    )


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
