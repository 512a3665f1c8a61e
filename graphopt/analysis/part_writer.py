"""Parts of a model as the bytes of a protobuf model, the way shape inference is shown them.

Inference is asked often, and of whole models. So plain nodes, nearly all there are, are written as
bytes at once, without a protobuf object for each; the rest goes through `ProtoWriter`.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import onnx
import onnx_ir as ir

from graphopt.analysis.contrib_functions import contrib_functions, stand_in_name
from graphopt.analysis.misread import MISREAD_PARAMETERS, is_misread
from graphopt.analysis.operators import Operators
from graphopt.analysis.proto_writer import PLAIN_ATTRIBUTES, ProtoWriter
from graphopt.ir import (
    CONTAINERS,
    constant_tensor,
    encode_bytes,
    encode_field,
    opset_version,
    subgraphs_of,
    tensor_dims,
)
from graphopt.rewrite import ValueShape

__all__ = [
    "Part",
    "PartWriter",
    "Written",
    "inner_nodes",
    "is_held_alike",
    "is_shown_alike",
    "reads",
    "shape_of_tensor",
]

_MAX_ELEMENTS = 64
"""Larger constants are shown to the inference by type only: no shape is computed from them."""

_MINIMUM_IR_VERSION = 10
_OPAQUE_DOMAIN = "graphopt.opaque"

# Numbers of fields in onnx.proto.
_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_INPUT = 1, 5, 11
_NODE_OPERATOR, _NODE_ATTRIBUTE = 4, 5
_INFO_TYPE, _TENSOR_RAW_DATA = 2, 9
# Keys of names: the number of a field, and that its length follows.
_INPUT_KEY, _OUTPUT_KEY, _INFO_NAME_KEY, _TENSOR_NAME_KEY = b"\x0a", b"\x12", b"\x0a", b"\x42"


@dataclass(frozen=True)
class Part:
    """Nodes of the main graph of which shapes are inferred together.

    Attributes:
        nodes: In an order in which they could run.
        known: The shapes of what they read and do not compute themselves.
        held: The elements of some of that, where they are known although they are computed.
    """

    nodes: Sequence[ir.Node]
    known: Mapping[ir.Value, ValueShape] = field(default_factory=dict)
    held: Mapping[ir.Value, ir.TensorProtocol] = field(default_factory=dict)


class PartWriter(ProtoWriter):
    """Writes nodes as a whole model; weights become inputs of the main graph.

    What inference would misread is written as an operator that it does not know.

    Attributes:
        constants: Shapes of the ``Constant`` nodes of the part, which inference does not repeat.
        has_subgraphs: Whether a node of the part has subgraphs.
    """

    def __init__(
        self,
        model: ir.Model,
        operators: Operators,
        opaque: frozenset[ir.Node],
        written: Written | None = None,
    ) -> None:
        self._written = written or Written()
        super().__init__(self._written.names)
        self.constants: dict[ir.Value, ValueShape] = {}
        self.has_subgraphs = False
        self._model = model
        self._operators = operators
        self._opaque = opaque
        self._main = onnx.GraphProto(name="part")
        self._tagged = self._written.tagged

    def part(self, part: Part) -> bytes:
        """Return ``part`` with weights and declared intermediate types left out."""
        pieces: list[bytes] = []
        special: list[ir.Node] = []  # nodes with subgraphs, or of other domains
        known, opaque = self._written.nodes, self._opaque
        defined: set[ir.Value | None] = {None}  # what the part has shown so far
        for node in part.nodes:
            op_type = node.op_type
            is_plain = op_type not in CONTAINERS and not node.domain
            if not is_plain:
                special.append(node)
            for value in node.inputs if is_plain else reads(node):
                if value not in defined and value is not None:
                    self._read_from_outside(value, part, pieces)
                    defined.add(value)
            defined.update(node.outputs)
            if op_type == "Constant" and self._write_constant_node(node, pieces):
                continue
            if is_plain and node not in opaque:
                plain = known.get(node)
                if plain is None:
                    plain = known[node] = b"" if self._is_misread(node) else self._plain(node)
                if plain:
                    pieces.append(plain)
                    continue
            written = onnx.GraphProto()
            self.inner_node(node, written)
            pieces.append(written.SerializeToString())
        self.has_subgraphs = bool(special)
        header = self._header(special).SerializeToString()
        graph = b"".join([self._main.SerializeToString(), *pieces])
        return b"".join([header, encode_field(_MODEL_GRAPH, len(graph)), graph])

    def _header(self, special: Iterable[ir.Node]) -> onnx.ModelProto:
        """Return the model without its graph; ``special`` nodes may need functions of their own."""
        model = self._model
        proto = onnx.ModelProto(ir_version=max(model.ir_version, _MINIMUM_IR_VERSION))
        for domain, version in model.opset_imports.items():
            proto.opset_import.add(domain=domain, version=version)
        proto.opset_import.add(domain=_OPAQUE_DOMAIN, version=1)
        for function in model.functions.values():
            self._function(function, proto.functions.add())
        proto.functions.extend(contrib_functions(inner_nodes(special), opset_version(model)))
        return proto

    # -- as bytes ----------------------------------------------------------------------------

    def _plain(self, node: ir.Node) -> bytes:
        """Return a node of a standard operator without subgraphs."""
        names, attributes, op_type = self._tagged, node.attributes.data, node.op_type
        pieces = [_INPUT_KEY + names[value] for value in node.inputs]
        pieces += [_OUTPUT_KEY + names[value] for value in node.outputs]
        if op_type == "PRelu" and not attributes:
            op_type = "Add"  # the runtime broadcasts both ways, inference only one
        pieces.append(_operator_bytes(op_type))
        if attributes:
            pieces += [self._attribute(attribute) for attribute in attributes.values()]
        return encode_bytes(_GRAPH_NODE, b"".join(pieces))

    def _attribute(self, attribute: ir.Attr) -> bytes:
        kind = attribute.type
        if kind in PLAIN_ATTRIBUTES and not attribute.is_ref():
            held = attribute.value
            return _attribute_bytes(
                attribute.name, kind, tuple(held) if kind is ir.AttributeType.INTS else held
            )
        proto = onnx.AttributeProto()
        self.write_attribute(attribute, proto)
        return encode_bytes(_NODE_ATTRIBUTE, proto.SerializeToString())

    def _read_from_outside(self, value: ir.Value, part: Part, pieces: list[bytes]) -> None:
        """Write what ``part`` reads and does not compute: a constant, or an input of its type."""
        tensor = part.held.get(value) or constant_tensor(value)
        if tensor is not None:
            pieces.append(self._constant_bytes(value, tensor))
        elif value.is_graph_input():
            self.input(value, self._main.input.add())
        elif value in part.known:
            pieces.append(self._stub_bytes(value, part.known[value]))

    def _write_constant_node(self, node: ir.Node, pieces: list[bytes]) -> bool:
        """Write a ``Constant`` as the initializer that it could be; tell if it is one."""
        value = node.outputs[0]
        tensor = constant_tensor(value)
        if tensor is None:
            return False
        pieces.append(self._constant_bytes(value, tensor))
        self.constants[value] = shape_of_tensor(tensor)
        return True

    def _constant_bytes(self, value: ir.Value, tensor: ir.TensorProtocol) -> bytes:
        if not _is_small(tensor):
            return self._stub_bytes(value, shape_of_tensor(tensor))
        shown = self._written.constants.get(value)
        if shown is not None and shown[0] is tensor:
            return shown[1]
        name = _TENSOR_NAME_KEY + self._tagged[value]
        data = encode_bytes(_TENSOR_RAW_DATA, tensor.tobytes())
        form = _form_bytes(tensor.dtype, tensor_dims(tensor))
        written = encode_bytes(_GRAPH_INITIALIZER, name + form + data)
        self._written.constants[value] = tensor, written
        return written

    def _stub_bytes(self, value: ir.Value, shape: ValueShape) -> bytes:
        name = _INFO_NAME_KEY + self._tagged[value]
        return encode_bytes(_GRAPH_INPUT, name + _type_bytes(shape))

    # -- as protobuf objects -----------------------------------------------------------------

    def names(self) -> Iterable[tuple[ir.Value, str]]:
        """Return every value written, here or by others, with the name it was given."""
        return self._names.items()

    def input(self, value: ir.Value, proto: onnx.ValueInfoProto) -> None:
        """Write an input; of the inputs of subgraphs the type counts, the shape may vary."""
        super().input(value, proto)
        if value.graph is not self._model.graph and proto.type.HasField("tensor_type"):
            proto.type.tensor_type.ClearField("shape")

    def inner_node(self, node: ir.Node, proto: onnx.GraphProto) -> None:
        """Write a node, or a typed input in the place of a large constant."""
        if node.op_type == "Constant" and not node.domain:
            tensor = constant_tensor(node.outputs[0])
            if tensor is not None and not _is_small(tensor):
                self._stub(node.outputs[0], shape_of_tensor(tensor))
                return
        written = proto.node.add()
        self.node(node, written)
        if node.domain:
            written.op_type = stand_in_name(node) or node.op_type
        if node in self._opaque or self._is_misread(node):
            written.domain = _OPAQUE_DOMAIN
        elif node.op_type == "PRelu" and not node.domain and not node.attributes:
            written.op_type = "Add"  # as in `_plain`

    def _is_misread(self, node: ir.Node) -> bool:
        if node.op_type not in MISREAD_PARAMETERS:
            return False
        return is_misread(node, self._operators.version(node) or 1)

    def _function(self, function: ir.Function, proto: onnx.FunctionProto) -> None:
        proto.CopyFrom(ir.to_proto(function))
        proto.opset_import.add(domain=_OPAQUE_DOMAIN, version=1)
        for node, written in zip(function, proto.node, strict=True):
            if self._is_misread(node):
                written.domain = _OPAQUE_DOMAIN

    def initializer(self, value: ir.Value, proto: onnx.GraphProto) -> None:
        """Write an initializer of a subgraph; one that can be overridden is an input already."""
        tensor = value.const_value
        if tensor is None or value.is_graph_input():
            return
        if _is_small(tensor):
            self.tensor(value, tensor, proto.initializer.add())
        else:
            self._stub(value, shape_of_tensor(tensor))

    def _stub(self, value: ir.Value, shape: ValueShape) -> None:
        """Write an input of the main graph, which subgraphs can see, too."""
        info = self._main.input.add(name=self.name(value))
        info.type.CopyFrom(_type_proto(shape))


class Written:
    """What writers of parts of one model have written, for those after them.

    Attributes:
        names: The names that values were given.
        tagged: The same as bytes.
        nodes: Plain nodes as bytes, which hold until a node is another one; those that must not be
            shown as they are count as no bytes.
        constants: Small constants as bytes, with the tensors that they were made of.
    """

    def __init__(self) -> None:
        self.names: dict[ir.Value, str] = {}
        self.tagged = _TaggedNames(ProtoWriter(self.names))
        self.nodes: dict[ir.Node, bytes] = {}
        self.constants: dict[ir.Value, tuple[ir.TensorProtocol, bytes]] = {}


class _TaggedNames(dict[ir.Value | None, bytes]):
    """The names of values as bytes, each behind its length; made when they are first asked for."""

    def __init__(self, writer: ProtoWriter) -> None:
        super().__init__({None: b"\0"})
        self._writer = writer

    def __missing__(self, value: ir.Value | None) -> bytes:
        name = self._writer.name(value).encode()
        found = self[value] = bytes((len(name),)) + name
        return found


@functools.lru_cache(maxsize=1024)
def _operator_bytes(op_type: str) -> bytes:
    return encode_bytes(_NODE_OPERATOR, op_type.encode())


@functools.lru_cache(maxsize=4096)
def _attribute_bytes(name: str, kind: ir.AttributeType, held: Hashable) -> bytes:
    """Return a plain attribute; equal ones are the same to inference, 0.0 and -0.0 included."""
    proto = onnx.AttributeProto(name=name, type=kind.value)  # type: ignore[arg-type]
    PLAIN_ATTRIBUTES[kind](proto, held)
    return encode_bytes(_NODE_ATTRIBUTE, proto.SerializeToString())


@functools.lru_cache(maxsize=4096)
def _type_bytes(shape: ValueShape) -> bytes:
    return encode_bytes(_INFO_TYPE, _type_proto(shape).SerializeToString())


@functools.lru_cache(maxsize=4096)
def _form_bytes(dtype: ir.DataType, dims: tuple[int, ...]) -> bytes:
    """Return the type and the sizes of a tensor."""
    return bytes(onnx.TensorProto(dims=dims, data_type=dtype.value).SerializeToString())


def _type_proto(shape: ValueShape) -> onnx.TypeProto:
    proto = onnx.TypeProto()
    tensor = proto.tensor_type
    tensor.SetInParent()
    if shape.dtype is not None:
        tensor.elem_type = shape.dtype.value
    if shape.dims is None:
        return proto
    tensor.shape.SetInParent()  # a scalar has a shape without dimensions, not no shape
    for size in shape.dims:
        if isinstance(size, int):
            tensor.shape.dim.add(dim_value=size)
        else:
            tensor.shape.dim.add(dim_param=size)
    return proto


def inner_nodes(nodes: Iterable[ir.Node]) -> Iterator[ir.Node]:
    """Yield ``nodes`` and the nodes of their subgraphs."""
    for node in nodes:
        yield node
        for graph in subgraphs_of(node):
            yield from inner_nodes(graph)


def reads(node: ir.Node) -> Iterator[ir.Value]:
    """Yield what ``node`` reads, and what its subgraphs read of outer values."""
    yield from [value for value in node.inputs if value is not None]
    inner = subgraphs_of(node)
    if not inner:
        return
    own: set[ir.Value] = set()
    used: dict[ir.Value, None] = {}
    for graph in inner:
        own.update(graph.inputs)
        own.update(graph.initializers.values())
        used.update(dict.fromkeys(graph.outputs))
        for child in graph:
            used.update(dict.fromkeys(reads(child)))
            own.update(child.outputs)
    yield from (value for value in used if value not in own)


def _is_small(tensor: ir.TensorProtocol) -> bool:
    # Text has no raw data in ONNX's format.
    return tensor.dtype != ir.DataType.STRING and tensor.size <= _MAX_ELEMENTS


def is_shown_alike(first: ir.TensorProtocol, second: ir.TensorProtocol) -> bool:
    """Tell whether inference is shown the same of two constants."""
    if first is second:
        return True
    if shape_of_tensor(first) != shape_of_tensor(second):
        return False
    return not _is_small(first) or first.tobytes() == second.tobytes()


def is_held_alike(first: ir.TensorProtocol, second: ir.TensorProtocol) -> bool:
    """Tell whether two constants hold the same; large ones only where they are one."""
    return first is second or (_is_small(first) and is_shown_alike(first, second))


def shape_of_tensor(tensor: ir.TensorProtocol) -> ValueShape:
    """Return the type and shape of a constant."""
    return _shape_of(tensor.dtype, tensor_dims(tensor))


@functools.lru_cache(maxsize=4096)
def _shape_of(dtype: ir.DataType, dims: tuple[int, ...]) -> ValueShape:
    return ValueShape(dtype, dims)
