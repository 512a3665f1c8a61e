"""Writing a model to disk: streaming, deterministic, atomic."""

from __future__ import annotations

import contextlib
import filecmp
import glob
import os
import re
from collections.abc import Callable
from pathlib import Path

import onnx
import onnx_ir as ir

from graphopt.errors import GraphoptError, OutputError
from graphopt.ir.atomic import atomic_file, output_error, pending_file
from graphopt.ir.constants import weight_bytes
from graphopt.ir.copying import ByteProgress, TensorWriter, file_digest, sampled_digest
from graphopt.ir.file_tensor import FileTensor, stored_bytes
from graphopt.ir.inline_weights import LARGE_BYTES, Piece, StandIns
from graphopt.ir.structure import Structure, drop_notes, model_tensor_protos, take_structure
from graphopt.ir.writing import plain_pieces

__all__ = ["INLINE_LIMIT_BYTES", "PROTOBUF_LIMIT_BYTES", "model_bytes", "save", "save_referring"]

INLINE_LIMIT_BYTES = 1 << 30
"""Weights above this many bytes go to a file of their own; protobuf ends at 2 GiB."""

PROTOBUF_LIMIT_BYTES = 2**31 - 1

_EXTERNAL_MINIMUM_BYTES = 1024
_ALIGNMENT_BYTES = 4096


def save(
    model: ir.Model,
    path: str | os.PathLike[str],
    *,
    external_data: bool | str | None = None,
    alignment: int = _ALIGNMENT_BYTES,
    progress: ByteProgress | None = None,
) -> tuple[Path, ...]:
    """Write ``model``; the same model gives the same bytes.

    The ``.onnx`` file is renamed into place last. Its data file carries a digest in its name, so
    that an older model beside it stays whole until then, and is removed with the older model.

    Args:
        model: The model; it is left as it was.
        path: Where to write the ``.onnx`` file; it may be the file that the model is read from.
        external_data: ``True`` or ``False`` to force or forbid a data file, a file name to force
            one of that name, ``None`` to choose by `INLINE_LIMIT_BYTES`.
        alignment: Offsets of large tensors are multiples of this, in bytes, for memory mapping.
        progress: Called with the bytes written so far, and all of them.

    Returns:
        The files written, the ``.onnx`` file first.

    Raises:
        OutputError: The folder is missing or cannot be written, the disk is full, the name of the
            data file leads out of the folder, or the weights do not fit into one file.
        ExternalDataError, ModelLoadError: A file that weights are read from was cut short.
    """
    file = Path(path).absolute()
    if external_data is None:
        external_data = weight_bytes(model) > INLINE_LIMIT_BYTES
    if external_data is False:
        pieces, weights, total = _inline_pieces(model)
        if total > PROTOBUF_LIMIT_BYTES:
            raise _too_large(file, total)
        with atomic_file(file) as stream:
            _write(TensorWriter(stream, total=total, progress=progress), pieces, weights)
        return (file,)
    name = external_data if isinstance(external_data, str) else None
    if name is not None and (Path(name).name != name or name in ("", "..", file.name)):
        raise OutputError(
            f"external data cannot be written to `{name}`",
            why=f"expected the name of another file in the folder of `{file.name}`",
        )
    return _save_external(take_structure(model), file, name, alignment, progress)


def save_referring(
    model: ir.Model,
    path: Path,
    place: Callable[[ir.TensorProtocol], tuple[str, int]],
    *,
    has_notes: bool = True,
) -> None:
    """Write a model whose large initializers lie in other files, for a short time only.

    Args:
        model: The model; it is left as it was.
        path: Where to write it.
        place: Puts a weight into a file and returns its location, from the folder of ``path`` or
            from where else the reader looks for it, and the offset.
        has_notes: With what exporters note down beside nodes, which says nothing to a runtime.

    Raises:
        OutputError: The disk is full.
    """
    structure = take_structure(model)
    if not has_notes:
        drop_notes(structure.proto.graph)
    try:
        for proto, tensor in structure.weights(initializers_only=True):
            if tensor.nbytes >= LARGE_BYTES and tensor.dtype != ir.DataType.STRING:
                _locate(proto, *place(tensor), tensor.nbytes)
        with path.open("wb") as stream:
            pieces, weights, _ = _inline(structure)
            _write(TensorWriter(stream), pieces, weights)
    except OSError as error:
        raise output_error(path, error) from error


def model_bytes(model: ir.Model) -> bytes:
    """Return the protobuf of ``model`` with its weights inline.

    Raises:
        OutputError: It would be larger than a protobuf can be.
    """
    pieces, weights, total = _inline_pieces(model)
    if total > PROTOBUF_LIMIT_BYTES:
        raise _too_large(Path("model"), total)
    return b"".join(
        stored_bytes(weights[piece]) if isinstance(piece, int) else piece for piece in pieces
    )


def _too_large(file: Path, total: int) -> OutputError:
    return OutputError(
        f"`{file}` cannot be written",
        why=f"it would have {total} bytes; a protobuf file holds {PROTOBUF_LIMIT_BYTES} at most",
        hint="keep the weights in a file of their own: leave the form of the output open",
    )


def _inline_pieces(model: ir.Model) -> tuple[list[Piece], list[ir.TensorProtocol], int]:
    """Return the pieces of the file, the weights that they number, and the size of it all."""
    return plain_pieces(model) or _inline(take_structure(model))


def _inline(structure: Structure) -> tuple[list[Piece], list[ir.TensorProtocol], int]:
    """Return the same of any model, through protobuf objects."""
    stand_ins, weights = StandIns(), []
    for proto, tensor in structure.weights():
        if tensor.nbytes < LARGE_BYTES or tensor.dtype == ir.DataType.STRING:
            _fill(proto, tensor)
        else:
            _clear(proto)
            stand_ins.put(proto, tensor.nbytes)
            weights.append(tensor)
    _load_leftovers(structure.proto)
    pieces, total = stand_ins.pieces(structure.proto.SerializeToString(deterministic=True))
    return pieces, weights, total


def _write(writer: TensorWriter, pieces: list[Piece], weights: list[ir.TensorProtocol]) -> None:
    for piece in pieces:
        if isinstance(piece, int):
            writer.tensor(weights[piece])
        else:
            writer.write(piece)


def _fill(proto: onnx.TensorProto, tensor: ir.TensorProtocol) -> None:
    _clear(proto)
    if tensor.dtype == ir.DataType.STRING:
        proto.string_data.extend(bytes(text) for text in tensor.numpy().reshape(-1).tolist())
    else:
        proto.raw_data = tensor.tobytes()


def _clear(proto: onnx.TensorProto) -> None:
    del proto.external_data[:]
    proto.ClearField("data_location")


def _load_leftovers(model: onnx.ModelProto) -> None:
    """Take in small tensors of ``Constant`` nodes that were external: only initializers stay so."""
    for proto in model_tensor_protos(model):
        if proto.data_location == onnx.TensorProto.EXTERNAL:
            location = {entry.key: entry.value for entry in proto.external_data}
            if not Path(location.get("location", "")).is_absolute():
                continue
            with open(location["location"], "rb") as stream:  # noqa: PTH123 - already resolved
                stream.seek(int(location["offset"]))
                proto.raw_data = stream.read(int(location["length"]))
            _clear(proto)


def _save_external(
    structure: Structure,
    file: Path,
    name: str | None,
    alignment: int,
    progress: ByteProgress | None,
) -> tuple[Path, ...]:
    apart = [
        (proto, tensor)
        for proto, tensor in structure.weights(initializers_only=True)
        if tensor.nbytes >= _EXTERNAL_MINIMUM_BYTES and tensor.dtype != ir.DataType.STRING
    ]
    places, total = _layout([tensor for _, tensor in apart], alignment)
    with pending_file(file.parent / (name or f"{file.stem}.data")) as data:
        writer = TensorWriter(data.stream, total=total, progress=progress)
        for offset, tensor in places.values():
            # Zeros up to the next page, so that the same model gives the same bytes.
            writer.write(bytes(offset - writer.position))
            writer.tensor(tensor)
        data.stream.flush()
        data_name = name or _data_name(file, sampled_digest(places.values()), data.path)
        for proto, tensor in apart:
            _locate(proto, data_name, places[_content_key(tensor)][0], tensor.nbytes)
        data_file = file.parent / data_name
        with atomic_file(file) as stream:
            pieces, weights, _ = _inline(structure)
            _write(TensorWriter(stream), pieces, weights)
            data.publish(data_file)
    _remove_stale_data(file, keep=data_file)
    return (file, data_file)


def _data_name(file: Path, digest: str, written: Path) -> str:
    """Return a name for the data file ``written``, other than that of one with other content."""
    name = f"{file.stem}-{digest[:16]}.data"
    older = file.parent / name
    # An older model may have all samples in common with this one, and must stay whole.
    if older.exists() and not filecmp.cmp(older, written, shallow=False):
        name = f"{file.stem}-{file_digest(written)[:16]}.data"
    return name


def _layout(
    tensors: list[ir.TensorProtocol], alignment: int
) -> tuple[dict[object, tuple[int, ir.TensorProtocol]], int]:
    """Give each tensor a place; tensors that share their data share it. Returns the size, too."""
    places: dict[object, tuple[int, ir.TensorProtocol]] = {}
    end = 0
    for tensor in tensors:
        key = _content_key(tensor)
        if key not in places:
            offset = end + (-end % alignment if tensor.nbytes >= alignment else 0)
            places[key] = (offset, tensor)
            end = offset + tensor.nbytes
    return places, end


def _content_key(tensor: ir.TensorProtocol) -> object:
    if isinstance(tensor, FileTensor):
        # Two tensors over one range of one file are tied, whatever object holds them.
        return (id(tensor.source), tensor.offset, tensor.nbytes)
    return id(tensor)


def _locate(proto: onnx.TensorProto, name: str, offset: int, length: int) -> None:
    _clear(proto)
    proto.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", name), ("offset", offset), ("length", length)):
        proto.external_data.add(key=key, value=str(value))


def _remove_stale_data(file: Path, keep: Path) -> None:
    pattern = re.compile(re.escape(file.stem) + r"-[0-9a-f]{16}\.data\Z")
    for other in file.parent.glob(f"{glob.escape(file.stem)}-*.data"):
        if pattern.match(other.name) and other != keep and other.resolve() not in _needed(file):
            other.unlink(missing_ok=True)


def _needed(file: Path) -> frozenset[Path]:
    """Return the data of models beside ``file`` that are called as it is but for the suffix."""
    from graphopt.ir.file_tensor import external_files
    from graphopt.ir.load import load

    found: frozenset[Path] = frozenset()
    for other in file.parent.glob(f"{glob.escape(file.stem)}.*"):
        if other != file and other.is_file():
            with contextlib.suppress(GraphoptError):  # it is no model, and refers to nothing
                found |= {path.resolve() for path in external_files(load(other))}
    return found
