"""External data: where it may lie, and that it is really there.

The rules: a location is relative and stays in the folder of the model, links included. A link of a
Hugging Face cache may point into the ``blobs`` of the same repository, every other link out of the
folder is refused. Each range lies within its file, fits its tensor, and overlaps no other range
unless it is the very same one (tensors that share their data).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx
import onnx_ir as ir

from graphopt.errors import ExternalDataError
from graphopt.ir.structure import model_tensor_protos

__all__ = ["resolve_external_data"]


@dataclass(frozen=True, order=True)
class _Extent:
    """Where one tensor lies: a range of bytes in one file."""

    file: Path
    offset: int
    end: int
    tensor: str


def resolve_external_data(
    proto: onnx.ModelProto, model_file: Path, is_inside: Callable[[onnx.TensorProto], bool]
) -> frozenset[Path]:
    """Check every external tensor and make its location absolute, in place.

    Args:
        proto: The model.
        model_file: Where it lies.
        is_inside: Tells of an external tensor that its bytes are in the model's own file, known
            to be there; it is left alone.

    Returns:
        The files that tensors lie in.

    Raises:
        ExternalDataError: A range is unsafe, missing, malformed, too short or overlapping; the
            error names the tensor.
    """
    known: dict[str, tuple[Path, int]] = {}
    extents = [
        _resolve(tensor, model_file, known)
        for tensor in model_tensor_protos(proto)
        if tensor.data_location == onnx.TensorProto.EXTERNAL and not is_inside(tensor)
    ]
    for first, second in itertools.pairwise(sorted(extents)):
        same = (first.offset, first.end) == (second.offset, second.end)
        if first.file == second.file and second.offset < first.end and not same:
            raise ExternalDataError(
                f"external data of `{first.tensor}` and `{second.tensor}` overlap",
                where=f"`{first.file}`",
                why=f"bytes {first.offset}-{first.end} and {second.offset}-{second.end}",
                hint="export the model again; the file is damaged",
            )
    return frozenset(extent.file for extent in extents)


def _resolve(
    tensor: onnx.TensorProto, model_file: Path, known: dict[str, tuple[Path, int]]
) -> _Extent:
    """Check one tensor; ``known`` holds files by location with their sizes, looked up once."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if location not in known:
        found = _safe_file(tensor.name, location, model_file)
        known[location] = (found, found.stat().st_size)
    file, available = known[location]
    offset = _whole_number(tensor.name, "offset", entries.get("offset", "0"))
    size = _size_bytes(tensor)
    length = _whole_number(tensor.name, "length", entries.get("length", str(size)))
    if length != size:
        raise _refusal(
            tensor.name,
            f"declares {length} bytes; type and shape need {size}",
        )
    if offset + length > available:
        raise _refusal(
            tensor.name,
            f"needs bytes {offset}-{offset + length} of `{file.name}`, which has {available}",
            hint="the data file was cut short; copy it again",
        )
    del tensor.external_data[:]
    for key, value in (("location", str(file)), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
    return _Extent(file, offset, offset + length, tensor.name)


def _safe_file(name: str, location: str, model_file: Path) -> Path:
    base = model_file.parent
    if not location:
        raise _refusal(name, "names no file (`location` is missing)")
    # Both ways to read it: a model made to do harm elsewhere is refused here, too.
    windows = PureWindowsPath(location)
    if PurePosixPath(location).is_absolute() or windows.is_absolute() or windows.drive:
        raise _refusal(name, f"lies at the absolute path `{location}`")
    if ".." in PurePosixPath(location).parts or ".." in windows.parts:
        raise _refusal(name, f"leaves the folder of the model: `{location}`")
    real = (base / location).resolve()
    if not real.is_relative_to(base.resolve()) and not _is_hugging_face_blob(real, model_file):
        raise _refusal(name, f"`{location}` is a link out of the folder of the model")
    if not real.is_file():
        raise _refusal(
            name,
            f"`{location}` does not exist beside `{model_file.name}`",
            hint="copy the data file into the folder of the model",
        )
    try:
        str(real).encode()
    except UnicodeEncodeError:
        raise _refusal(
            name,
            "it lies in a folder whose name is no UTF-8, which a model cannot hold",
            hint="rename the folder, or copy the model with its data elsewhere",
        ) from None
    return real


def _is_hugging_face_blob(real: Path, model_file: Path) -> bool:
    """Tell whether ``real`` is a blob of the cached repository that ``model_file`` belongs to.

    The layout is ``models--X/snapshots/REVISION/...`` with links into ``models--X/blobs``.
    """
    for parent in model_file.parents:
        if parent.parent.name == "snapshots":
            return real.parent == (parent.parent.parent / "blobs").resolve()
    return False


def _whole_number(name: str, key: str, text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        raise _refusal(name, f"`{key}` is `{text}`, not a whole number") from None
    if number < 0:
        raise _refusal(name, f"`{key}` is negative: {number}")
    return number


def _size_bytes(tensor: onnx.TensorProto) -> int:
    try:
        bits = ir.DataType(tensor.data_type).bitwidth
    except (ValueError, TypeError):
        raise _refusal(tensor.name, f"has the data type {tensor.data_type}") from None
    elements = 1
    for dim in tensor.dims:
        if dim < 0:
            raise _refusal(tensor.name, f"has a negative dimension: {dim}")
        elements *= dim
    return (elements * bits + 7) // 8


def _refusal(name: str, why: str, hint: str | None = None) -> ExternalDataError:
    return ExternalDataError(
        f"external data of tensor `{name}` cannot be used", where=f"`{name}`", why=why, hint=hint
    )
