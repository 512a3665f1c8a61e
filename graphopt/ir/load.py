"""Reading a model from disk."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import google.protobuf.message
import google.protobuf.text_format
import onnx
import onnx_ir as ir

from graphopt.errors import (
    ExternalDataError,
    InvalidModelError,
    ModelLoadError,
    UnsupportedModelError,
)
from graphopt.ir.constants import initializer_tensors
from graphopt.ir.external import resolve_external_data
from graphopt.ir.file_tensor import FileTensor, SourceFile
from graphopt.ir.forms import ONNX_TEXT_SUFFIXES, TEXTPROTO_SUFFIXES
from graphopt.ir.inline_weights import NOTHING_STRIPPED, Stripped, strip_weights
from graphopt.ir.normalise import normalise
from graphopt.ir.parsed_tensor import ParsedTensor, is_known_type
from graphopt.ir.reading import holds_a_map, read_model
from graphopt.ir.save import PROTOBUF_LIMIT_BYTES
from graphopt.ir.walk import CONTAINERS, nodes

__all__ = ["load"]

_HELD_FILES = 128
"""External data in more files than this is opened for each read; processes may hold 1,024 open."""

_SIGNATURE_BYTES = 64


def load(path: str | os.PathLike[str]) -> ir.Model:
    """Read a model and normalise it; large weights stay in their files, held open, until read.

    Args:
        path: A protobuf (``.onnx``), textproto (``.textproto``) or ONNX text (``.onnxtxt``) file.

    Raises:
        ModelLoadError: The file is missing, unreadable, or not an ONNX model.
        InvalidModelError: It is an ONNX model that breaks the specification.
        ExternalDataError: Weights outside the file are missing, malformed or unsafe to read.
        UnsupportedModelError: It uses a feature that the IR would lose.
    """
    file = Path(path).absolute()  # a bare name would leave external data without a base folder
    source = _open(file)
    proto, stripped = _parse(source)
    _refuse_what_is_not_a_model(proto, source)
    # What is plain throughout holds nothing to refuse, and nothing that lies in other files.
    model = read_model(proto, _TensorReader({stripped.location: source}, stripped))
    return normalise(model or _read_any(proto, source, stripped))


def _read_any(proto: onnx.ModelProto, source: SourceFile, stripped: Stripped) -> ir.Model:
    """Read a model that may hold anything.

    Raises:
        InvalidModelError, ExternalDataError, UnsupportedModelError: See `load`.
    """
    file = source.path
    _refuse_what_the_ir_loses(proto, file)
    beside = resolve_external_data(proto, file, stripped.is_stripped)
    sources = {str(path): _open_beside(path, len(beside)) for path in beside}
    sources[stripped.location] = source
    model = read_model(proto, _TensorReader(sources))
    if model is None:
        try:
            model = ir.from_proto(proto)
        except ir.serde.SerdeError as error:
            raise InvalidModelError(
                f"`{file.name}` cannot be read as a graph", why=_root_cause(error)
            ) from error
        _adopt_weights(model, sources)
    return model


def _open(file: Path) -> SourceFile:
    if file.is_dir():
        raise ModelLoadError(
            f"`{file}` is a folder", why="expected an ONNX file", hint="name the `.onnx` file in it"
        )
    try:
        source = SourceFile(file, is_model=True)
    except FileNotFoundError as error:
        raise ModelLoadError(f"`{file}` does not exist", why="no such file") from error
    except OSError as error:
        raise ModelLoadError(f"`{file}` cannot be read", why=str(error.strerror)) from error
    if not source.size:
        raise ModelLoadError(f"`{file}` is empty", why="expected an ONNX model, found 0 bytes")
    if source.size > PROTOBUF_LIMIT_BYTES:
        raise ModelLoadError(
            f"`{file}` has {source.size} bytes",
            why="a protobuf message cannot exceed 2 GiB",
            hint="export the model with external data",
        )
    return source


def _open_beside(path: Path, count: int) -> SourceFile:
    try:
        return SourceFile(path, is_model=False, is_held=count <= _HELD_FILES)
    except OSError as error:
        raise ExternalDataError(
            f"external data in `{path.name}` cannot be read",
            where=f"`{path}`",
            why=error.strerror or str(error),
        ) from error


def _parse(source: SourceFile) -> tuple[onnx.ModelProto, Stripped]:
    file, proto, stripped = source.path, onnx.ModelProto(), NOTHING_STRIPPED
    try:
        if file.suffix in ONNX_TEXT_SUFFIXES:
            proto = onnx.parser.parse_model(source.read(0, source.size).decode())
        elif file.suffix in TEXTPROTO_SUFFIXES:
            text = source.read(0, source.size).decode()
            google.protobuf.text_format.Parse(text, proto)
        else:
            stripped = strip_weights(source)
            proto.ParseFromString(stripped.data)
    except (
        google.protobuf.message.DecodeError,
        google.protobuf.text_format.ParseError,
        onnx.parser.ParseError,
        UnicodeDecodeError,
    ) as error:
        raise ModelLoadError(
            f"`{file}` is not an ONNX model",
            why=f"{_kind_of(source)}; it cannot be parsed: {str(error).splitlines()[0]}",
            hint="check that the file was copied completely and is an `.onnx` file",
        ) from error
    return proto, stripped


class _TensorReader:
    """Makes tensors of ours: those that lie in files are read from files that are held open.

    Args:
        sources: The files, by the locations that tensors name.
        stripped: Where other locations were not looked at yet: what was left out of the model.
    """

    def __init__(self, sources: Mapping[str, SourceFile], stripped: Stripped | None = None) -> None:
        self._sources = sources
        self._stripped = stripped
        self._shapes: dict[tuple[int, ...], ir.Shape] = {}  # frozen, so that tensors may share them

    def __call__(self, proto: onnx.TensorProto) -> ir.TensorProtocol | None:
        """Return the tensor that ``proto`` holds or refers to.

        ``None`` where its type is none, or where it lies in a file that was not looked at yet.
        """
        if proto.data_type == onnx.TensorProto.STRING:
            return ir.serde.deserialize_tensor(proto)
        if not is_known_type(proto):
            return None
        dims = tuple(proto.dims)
        if dims not in self._shapes:
            self._shapes[dims] = ir.Shape(dims, frozen=True)
        if proto.data_location != onnx.TensorProto.EXTERNAL:
            return ParsedTensor(proto, self._shapes[dims])
        if self._stripped is not None and not self._stripped.is_stripped(proto):
            return None
        place = {entry.key: entry.value for entry in proto.external_data}
        return FileTensor(
            self._sources[place["location"]],
            int(place.get("offset", "0")),
            ir.DataType(proto.data_type),
            self._shapes[dims],
            name=proto.name if proto.HasField("name") else None,
            doc_string=proto.doc_string if proto.HasField("doc_string") else None,
            metadata_props={entry.key: entry.value for entry in proto.metadata_props},
        )


def _adopt_weights(model: ir.Model, sources: Mapping[str, SourceFile]) -> None:
    """Let tensors be ours: those that lie in files are read from files that are held open."""
    for value, tensor in initializer_tensors(model):
        value.const_value = _adopted(tensor, sources)
    for node in nodes(model):
        for attr in tuple(node.attributes.data.values()):
            if attr.type is not ir.AttributeType.TENSOR or attr.is_ref():
                continue
            tensor = _adopted(attr.value, sources)
            if tensor is not attr.value:
                node.attributes[attr.name] = ir.AttrTensor(attr.name, tensor, attr.doc_string)


def _adopted(tensor: ir.TensorProtocol, sources: Mapping[str, SourceFile]) -> ir.TensorProtocol:
    if isinstance(tensor, ir.TensorProtoTensor):
        return ParsedTensor.of(tensor)
    if not isinstance(tensor, ir.ExternalTensor):
        return tensor
    return FileTensor(
        sources[str(tensor.location)],
        tensor.offset or 0,
        tensor.dtype,
        tensor.shape,
        name=tensor.name,
        doc_string=tensor.doc_string,
        metadata_props=tensor.metadata_props,
    )


def _kind_of(source: SourceFile) -> str:
    data = source.read(0, min(source.size, _SIGNATURE_BYTES))
    signatures = {
        b"\x89PNG": "the file is a PNG image",
        b"\xff\xd8\xff": "the file is a JPEG image",
        b"PK\x03\x04": "the file is a zip archive (a PyTorch checkpoint is one)",
        b"\x80\x02": "the file is a Python pickle",
        b"version https://git-lfs": "the file is a Git LFS pointer, not the model itself",
        b"{": "the file looks like JSON",
        b"<": "the file looks like a web page",
    }
    for signature, kind in signatures.items():
        if data.startswith(signature):
            return kind
    return "the file is damaged, cut short, or of another kind"


def _refuse_what_is_not_a_model(proto: onnx.ModelProto, source: SourceFile) -> None:
    file = source.path
    if not proto.HasField("graph") or (not proto.graph.node and not proto.graph.output):
        raise ModelLoadError(
            f"`{file}` is not an ONNX model",
            why=f"{_kind_of(source)}; it parses as protobuf, but holds no graph",
            hint="check that the file was copied completely and is an `.onnx` file",
        )
    if proto.ir_version < 1 or not proto.opset_import:
        raise InvalidModelError(
            f"`{file.name}` declares no {'IR version' if proto.ir_version < 1 else 'opset'}",
            why="`ir_version` and `opset_import` are required",
        )


def _refuse_what_the_ir_loses(proto: onnx.ModelProto, file: Path) -> None:
    def refuse(what: str, name: str) -> None:
        raise UnsupportedModelError(
            f"`{file.name}` uses {what}",
            where=f"`{name}`",
            why="the graph library drops it, so that the written model would be another one",
            hint="export the model without it",
        )

    if proto.training_info:
        refuse("training information", "training_info")
    found = list(_node_protos(proto))
    inner = (graph for node in found for graph in _subgraph_protos(node))
    for graph in (proto.graph, *inner):
        _refuse_duplicate_initializers(graph, file)
        if graph.sparse_initializer:
            refuse("a sparse initializer", graph.sparse_initializer[0].values.name)
        for info in (*graph.input, *graph.output, *graph.value_info):
            if holds_a_map(info.type):
                refuse("a map type", info.name)
    for node in found:
        if node.op_type != "Constant" and not node.domain:
            continue  # no other standard operator takes one
        if any(attribute.type in _SPARSE for attribute in node.attribute):
            refuse("a sparse constant", node.output[0] if node.output else node.name)


_SPARSE = (onnx.AttributeProto.SPARSE_TENSOR, onnx.AttributeProto.SPARSE_TENSORS)


def _refuse_duplicate_initializers(graph: onnx.GraphProto, file: Path) -> None:
    counts = Counter(tensor.name for tensor in graph.initializer)
    for name, count in counts.items():
        if count > 1:
            raise InvalidModelError(
                f"`{file.name}` has {count} initializers called `{name}`",
                where=f"graph `{graph.name}`",
                why="every value of a graph needs a name of its own",
            )


def _node_protos(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield every node of a model, those of functions and subgraphs included."""
    pending = [*proto.graph.node, *(node for function in proto.functions for node in function.node)]
    while pending:
        node = pending.pop()
        yield node
        pending += [inner for graph in _subgraph_protos(node) for inner in graph.node]


def _subgraph_protos(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    if node.op_type not in CONTAINERS and not node.domain:
        return
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).splitlines()[0] if str(error) else type(error).__name__
