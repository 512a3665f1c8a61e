"""The bytes of a model written straight from its graph objects.

The IR writes protobuf objects, field by field, which are serialized then. Nearly all of a model is
plain; that is written here as bytes at once, each equal attribute only the first time. The bytes
are those that protobuf makes of the IR's own objects: fields in the order of their numbers.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import onnx
import onnx_ir as ir

from graphopt.ir.constants import tensor_dims
from graphopt.ir.inline_weights import LARGE_BYTES, Piece
from graphopt.ir.objects import node_list
from graphopt.ir.reading import HAS_NO_ANNOTATIONS
from graphopt.ir.wire import encode_bytes, encode_field, encode_varint

__all__ = ["plain_pieces"]

# Numbers of fields in onnx.proto.
_MODEL_GRAPH, _MODEL_METADATA = 7, 14
_GRAPH_NODE, _GRAPH_NAME, _GRAPH_INITIALIZER, _GRAPH_DOC = 1, 2, 5, 10
_GRAPH_INPUT, _GRAPH_OUTPUT, _GRAPH_VALUE_INFO, _GRAPH_METADATA = 11, 12, 13, 16
_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_OPERATOR, _NODE_ATTRIBUTE = 1, 2, 3, 4, 5
_NODE_DOC, _NODE_DOMAIN, _NODE_OVERLOAD, _NODE_METADATA = 6, 7, 8, 9
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS = 5, 6, 11
# Before each name that a node reads or computes; its length follows.
_INPUT_KEY, _OUTPUT_KEY = bytes((_NODE_INPUT << 3 | 2,)), bytes((_NODE_OUTPUT << 3 | 2,))
_VALUE_NAME, _VALUE_TYPE, _VALUE_DOC, _VALUE_METADATA = 1, 2, 3, 4
_TENSOR_NAME, _TENSOR_RAW_DATA, _TENSOR_DOC, _TENSOR_METADATA = 8, 9, 12, 16


def plain_pieces(
    model: ir.Model,
) -> tuple[list[Piece], list[ir.TensorProtocol], int] | None:
    """Return the pieces of the file that holds ``model`` with its weights inline.

    Returns:
        The pieces, the weights that they number, and the size of it all in bytes; ``None`` where
        something in the model is unusual: functions, devices, annotations, references.
    """
    has_annotations = not model.meta.get(HAS_NO_ANNOTATIONS)
    if model.functions or model.device_configurations or has_annotations:
        return None
    writer = _Writer()
    try:
        graph = writer.graph(model.graph)
    except _UnusualError:
        return None
    whole = _Message()
    whole.add(_head(model).SerializeToString())
    whole.add_message(_MODEL_GRAPH, graph)
    whole.add(_tail(model))
    return list(_joined(whole.pieces)), writer.weights, whole.size


def _joined(pieces: Iterable[Piece]) -> Iterable[Piece]:
    """Yield the pieces, those between two weights as one."""
    data: list[bytes] = []
    for piece in pieces:
        if isinstance(piece, bytes):
            data.append(piece)
        else:
            yield b"".join(data)
            yield piece
            data = []
    yield b"".join(data)


class _UnusualError(Exception):
    """Something is met that the IR's own writer has to write."""


@dataclass
class _Message:
    """The pieces of a message and their size."""

    pieces: list[Piece] = field(default_factory=list)
    size: int = 0

    def add(self, data: bytes) -> None:
        """Add fields."""
        self.pieces.append(data)
        self.size += len(data)

    def add_weight(self, number: int, size: int) -> None:
        """Add the bytes of a weight, given by its number."""
        self.pieces.append(number)
        self.size += size

    def add_message(self, number: int, other: _Message) -> None:
        """Add a message as a field."""
        self.add(encode_field(number, other.size))
        self.pieces += other.pieces
        self.size += other.size


class _Writer:
    """Writes graphs.

    Attributes:
        weights: Large tensors, by the numbers that stand for them in the pieces.
    """

    def __init__(self) -> None:
        self.weights: list[ir.TensorProtocol] = []
        self._texts: dict[str | None, bytes] = {}

    def graph(self, graph: ir.Graph) -> _Message:
        """Return a graph and all in it."""
        message = _Message()
        for node in node_list(graph):
            self._node(node, message)
        if graph.name:
            message.add(encode_bytes(_GRAPH_NAME, graph.name.encode()))
        for value in graph.initializers.data.values():
            if value.const_value is not None:
                written = self._tensor(value.const_value, value.name or "")
                message.add_message(_GRAPH_INITIALIZER, written)
        if graph.doc_string:
            message.add(encode_bytes(_GRAPH_DOC, graph.doc_string.encode()))
        message.add(b"".join(_value_bytes(value, _GRAPH_INPUT) for value in graph.inputs))
        message.add(b"".join(_value_bytes(value, _GRAPH_OUTPUT) for value in graph.outputs))
        message.add(b"".join(_value_bytes(value, _GRAPH_VALUE_INFO) for value in _declared(graph)))
        message.add(_entries(_GRAPH_METADATA, graph.metadata_props))
        return message

    def _node(self, node: ir.Node, message: _Message) -> None:
        if node.device_configurations:
            raise _UnusualError
        pieces = [
            _INPUT_KEY + self._text(value.name if value is not None else None)
            for value in node.inputs
        ]
        outputs = [value.name for value in node.outputs]
        while outputs and not outputs[-1]:
            outputs.pop()  # left out where nothing follows
        pieces += [_OUTPUT_KEY + self._text(name) for name in outputs]
        if node.name:
            pieces.append(encode_bytes(_NODE_NAME, node.name.encode()))
        pieces.append(_operator_bytes(node.op_type))
        held: _Message | None = None
        for attribute in node.attributes.data.values():
            if attribute.type in _PLAIN:
                pieces.append(_plain_attribute(attribute))
            else:  # more than a few numbers: weights, which stay apart, may be in it
                held = held or _Message()
                held.add(b"".join(pieces))
                pieces = []
                self._attribute(attribute, held)
        if _says_of(node):
            pieces.append(_node_tail(node))
        if held is None:
            message.add(encode_bytes(_GRAPH_NODE, b"".join(pieces)))
        else:
            held.add(b"".join(pieces))
            message.add_message(_GRAPH_NODE, held)

    def _text(self, name: str | None) -> bytes:
        """Return a name with its length: it occurs where it is computed, and at each reader."""
        found = self._texts.get(name)
        if found is None:
            text = (name or "").encode()
            found = self._texts[name] = encode_varint(len(text)) + text
        return found

    def _attribute(self, attribute: ir.Attr, message: _Message) -> None:
        kind, held = attribute.type, attribute.value
        if attribute.is_ref():
            raise _UnusualError
        if kind in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
            is_one = kind is ir.AttributeType.GRAPH
            number = _ATTRIBUTE_GRAPH if is_one else _ATTRIBUTE_GRAPHS
            graphs = [self.graph(graph) for graph in ([held] if is_one else held)]
            self._holder(attribute, number, graphs, message)
        elif kind is ir.AttributeType.TENSOR and _is_large(held):
            written = self._tensor(held, held.name or "")
            self._holder(attribute, _ATTRIBUTE_TENSOR, [written], message)
        elif kind is ir.AttributeType.TENSOR and isinstance(held, ir.ExternalTensor):
            raise _UnusualError
        else:
            message.add(encode_bytes(_NODE_ATTRIBUTE, _serialized(attribute)))

    def _holder(
        self, attribute: ir.Attr, number: int, held: Iterable[_Message], message: _Message
    ) -> None:
        """Write an attribute that holds messages; its type has the largest number of a field."""
        whole = _Message()
        whole.add(onnx.AttributeProto(name=attribute.name).SerializeToString())
        for inner in held:
            whole.add_message(number, inner)
        tail = onnx.AttributeProto(type=attribute.type.value)  # type: ignore[arg-type]
        if attribute.doc_string:
            tail.doc_string = attribute.doc_string
        whole.add(tail.SerializeToString())
        message.add_message(_NODE_ATTRIBUTE, whole)

    def _tensor(self, tensor: ir.TensorProtocol, name: str) -> _Message:
        """Return a tensor whose elements are stored as bytes, but for text."""
        message = _Message()
        head = _form_bytes(tensor.dtype, tensor_dims(tensor))
        label = encode_bytes(_TENSOR_NAME, name.encode()) if name else b""
        if tensor.dtype == ir.DataType.STRING:
            texts = [bytes(text) for text in tensor.numpy().reshape(-1).tolist()]
            message.add(head + onnx.TensorProto(string_data=texts).SerializeToString() + label)
        elif _is_large(tensor):
            message.add(head + label + encode_field(_TENSOR_RAW_DATA, tensor.nbytes))
            message.add_weight(len(self.weights), tensor.nbytes)
            self.weights.append(tensor)
        else:
            message.add(head + label + encode_bytes(_TENSOR_RAW_DATA, tensor.tobytes()))
        if tensor.doc_string:
            message.add(encode_bytes(_TENSOR_DOC, tensor.doc_string.encode()))
        message.add(_entries(_TENSOR_METADATA, tensor.metadata_props))
        return message


def _head(model: ir.Model) -> onnx.ModelProto:
    """Return the fields of a model before its graph."""
    proto = onnx.ModelProto(ir_version=model.ir_version)
    for name in ("producer_name", "producer_version", "domain", "model_version", "doc_string"):
        if given := getattr(model, name):
            setattr(proto, name, given)
    return proto


def _tail(model: ir.Model) -> bytes:
    """Return the fields of a model after its graph."""
    proto = onnx.ModelProto()
    for domain, version in model.opset_imports.items():
        proto.opset_import.add(version=version)
        if domain:
            proto.opset_import[-1].domain = domain
    return bytes(proto.SerializeToString()) + _entries(_MODEL_METADATA, model.metadata_props)


def _node_tail(node: ir.Node) -> bytes:
    """Return the fields of a node after its attributes."""
    said = (
        (_NODE_DOC, node.doc_string),
        (_NODE_DOMAIN, node.domain),
        (_NODE_OVERLOAD, node.overload),
    )
    texts = [encode_bytes(number, text.encode()) for number, text in said if text]
    return b"".join(texts) + _entries(_NODE_METADATA, node.metadata_props)


def _entries(number: int, texts: Mapping[str, str]) -> bytes:
    """Return the field ``number`` of a message, which holds texts by name, in their order."""
    # The dynamo exporter tells of each node where in the source it comes from, in a kilobyte.
    pieces: list[bytes] = []
    # As a deterministic protobuf would order a map, so that the same model gives the same bytes.
    for key in sorted(texts):
        text = texts[key].encode()
        head = _key_bytes(key) + encode_field(2, len(text))
        pieces += (encode_field(number, len(head) + len(text)), head, text)
    return b"".join(pieces)


@functools.lru_cache(maxsize=1024)
def _key_bytes(key: str) -> bytes:
    return encode_bytes(1, key.encode())


def _declared(graph: ir.Graph) -> Iterable[ir.Value]:
    """Yield the values between the nodes of which the model declares anything."""
    given = set(graph.inputs)
    for value in graph.initializers.data.values():
        if value not in given and _says_more(value):
            yield value
    for node in node_list(graph):
        for value in node.outputs:
            is_said = value.type is not None or value.shape is not None
            is_said = is_said or bool(value.doc_string or value.metadata_props)
            if is_said and value.name and not value.is_graph_output():
                yield value


def _says_more(value: ir.Value) -> bool:
    """Tell whether something is declared of an initializer that its tensor does not say itself."""
    kind, shape, tensor = value.type, value.shape, value.const_value
    if value.doc_string or value.metadata_props or (kind is not None and kind.denotation):
        return True
    if shape is None or (tensor is not None and shape is tensor.shape):
        return False
    return any(shape.get_denotation(axis) for axis in range(len(shape)))


def _value_bytes(value: ir.Value, number: int) -> bytes:
    kind, shape = value.type, value.shape
    dims = None if shape is None else shape.dims
    if type(kind) is not ir.TensorType or kind.denotation or not _are_plain(shape):
        proto = onnx.ValueInfoProto()
        ir.serde.serialize_value_into(proto, value)
        return encode_bytes(number, proto.SerializeToString())
    held = encode_bytes(_VALUE_NAME, (value.name or "").encode()) + _type_bytes(kind.dtype, dims)
    if value.doc_string:
        held += encode_bytes(_VALUE_DOC, value.doc_string.encode())
    return encode_bytes(number, held + _entries(_VALUE_METADATA, value.metadata_props))


def _are_plain(shape: ir.Shape | None) -> bool:
    """Tell whether all that a shape says is numbers, none of them below zero."""
    if shape is None:
        return True
    if not all(isinstance(size, int) and size >= 0 for size in shape.dims):
        return False
    return not any(map(shape.get_denotation, range(len(shape))))


@functools.lru_cache(maxsize=4096)
def _type_bytes(dtype: ir.DataType, dims: tuple[int, ...] | None) -> bytes:
    """Return the field of a value that holds its type."""
    # TypeProto.tensor_type: elem_type, and a shape of dim, each with a dim_value.
    tensor = b"\x08" + encode_varint(dtype.value)
    if dims is not None:
        sizes = [encode_bytes(1, b"\x08" + encode_varint(size)) for size in dims]
        tensor += encode_bytes(2, b"".join(sizes))
    return encode_bytes(_VALUE_TYPE, encode_bytes(1, tensor))


def _is_large(tensor: ir.TensorProtocol) -> bool:
    return tensor.dtype != ir.DataType.STRING and tensor.nbytes >= LARGE_BYTES


def _says_of(node: ir.Node) -> bool:
    """Tell whether anything is to be written of a node after its attributes."""
    return bool(node.doc_string or node.domain or node.overload or node.metadata_props)


def _plain_attribute(attribute: ir.Attr) -> bytes:
    if attribute.is_ref():
        raise _UnusualError
    if attribute.doc_string or attribute.type not in _REPEATED:
        return encode_bytes(_NODE_ATTRIBUTE, _serialized(attribute))
    return _attribute_bytes(attribute.name, attribute.type, attribute.value)


def _serialized(attribute: ir.Attr) -> bytes:
    proto = onnx.AttributeProto()
    ir.serde.serialize_attribute_into(proto, attribute)
    return bytes(proto.SerializeToString())


_REPEATED = frozenset({ir.AttributeType.INT, ir.AttributeType.INTS, ir.AttributeType.STRING})
"""Attributes of which equal values are the same bytes: 0.0 and -0.0 are not."""

_PLAIN = _REPEATED | {ir.AttributeType.FLOAT}
"""Attributes that hold a few numbers."""


@functools.lru_cache(maxsize=4096)
def _attribute_bytes(
    name: str, kind: ir.AttributeType, held: int | str | bytes | tuple[int, ...]
) -> bytes:
    return encode_bytes(_NODE_ATTRIBUTE, _serialized(ir.Attr(name, kind, held)))


@functools.lru_cache(maxsize=1024)
def _operator_bytes(op_type: str) -> bytes:
    return encode_bytes(_NODE_OPERATOR, op_type.encode())


@functools.lru_cache(maxsize=4096)
def _form_bytes(dtype: ir.DataType, dims: tuple[int, ...]) -> bytes:
    """Return the type and the sizes of a tensor."""
    return bytes(onnx.TensorProto(dims=dims, data_type=dtype.value).SerializeToString())
