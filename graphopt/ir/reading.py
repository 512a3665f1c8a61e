"""Graph objects made straight from a parsed model.

The IR has a reader of its own, which looks at every field there may be, object by object. Nearly
all of a model is plain: nodes with numbers for attributes, values that are tensors. That is read
here in half the time; a model with anything else in it is left to the IR as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import onnx
import onnx_ir as ir

from graphopt.ir.objects import Attr, Value, plain_attribute, plain_node, plain_value

__all__ = ["HAS_NO_ANNOTATIONS", "holds_a_map", "read_model"]

TensorReader = Callable[[onnx.TensorProto], ir.TensorProtocol | None]
_Values = dict[str, ir.Value]


def read_model(proto: onnx.ModelProto, read_tensor: TensorReader) -> ir.Model | None:
    """Return the model that ``proto`` describes, just as ``ir.from_proto`` would.

    Args:
        proto: The model.
        read_tensor: Makes a tensor, or ``None`` of what is none.

    Returns:
        ``None`` where something in it is unusual, or wrong: functions, devices, annotations, maps,
        what is sparse or for training, names that are missing, defined twice or not at all.
    """
    if proto.functions or proto.configuration or proto.training_info:
        return None
    try:
        graph = _Reader(read_tensor).graph(proto.graph, ())
    except _UnusualError:
        return None
    graph.opset_imports.update({opset.domain: opset.version for opset in proto.opset_import})
    model = ir.Model(
        graph,
        ir_version=proto.ir_version,
        producer_name=_given(proto, "producer_name"),
        producer_version=_given(proto, "producer_version"),
        domain=_given(proto, "domain"),
        model_version=_given(proto, "model_version"),
        doc_string=_given(proto, "doc_string"),
        metadata_props=_entries(proto.metadata_props),
    )
    model.meta[HAS_NO_ANNOTATIONS] = True
    return model


HAS_NO_ANNOTATIONS = "graphopt.has_no_annotations"
"""Where a model notes that it has no quantization annotation: to see takes a look at each value."""


class _UnusualError(Exception):
    """Something is met that the IR's own reader has to judge."""


class _Reader:
    """Reads graphs; equal types are decoded once, and frozen shapes and equal notes are shared."""

    def __init__(self, read_tensor: TensorReader) -> None:
        self._read_tensor = read_tensor
        self._types: dict[bytes, tuple[ir.DataType, ir.Shape | None]] = {}
        self._texts: dict[str, str] = {}

    def graph(self, proto: onnx.GraphProto, outer: tuple[_Values, ...]) -> ir.Graph:
        """Return a graph; ``outer`` are the values around it, the nearest first."""
        if proto.quantization_annotation or proto.sparse_initializer:
            raise _UnusualError
        inputs: list[ir.Value] = [Value(name=info.name) for info in proto.input]
        values = {value.name or "": value for value in inputs}
        for info, value in zip(proto.input, inputs, strict=True):
            self._declare(value, info)
        declared = {info.name: info for info in proto.value_info}
        initializers = [self._initializer(item, values, declared) for item in proto.initializer]
        written = list(proto.node)  # each is an object made when it is asked for
        # A subgraph may use what a later node around it computes: all are declared first.
        computed = [self._outputs(node, values, declared) for node in written]
        scopes = (values, *outer)
        nodes = [
            self._node(node, scopes, outputs)
            for node, outputs in zip(written, computed, strict=True)
        ]
        outputs = []
        for info in proto.output:
            if info.name not in values:
                raise _UnusualError
            self._declare(values[info.name], info)
            outputs.append(values[info.name])
        return ir.Graph(
            inputs,
            outputs,
            nodes=nodes,
            initializers=initializers,
            doc_string=_given(proto, "doc_string"),
            name=_given(proto, "name"),
            metadata_props=_entries(proto.metadata_props),
        )

    def _initializer(
        self, proto: onnx.TensorProto, values: _Values, declared: Mapping[str, onnx.ValueInfoProto]
    ) -> ir.Value:
        tensor, name = self._tensor(proto), proto.name
        if not name:
            raise _UnusualError
        if (value := values.get(name)) is not None:  # one that may be overridden
            if value.const_value is not None:
                raise _UnusualError
            value.const_value = tensor
            return value
        kind = ir.TensorType(tensor.dtype)
        shape: Any = tensor.shape
        value = values[name] = Value(name=name, type=kind, shape=shape, const_value=tensor)
        if (info := declared.get(name)) is not None:
            self._declare(value, info)
        return value

    def _tensor(self, proto: onnx.TensorProto) -> ir.TensorProtocol:
        tensor = self._read_tensor(proto)
        if tensor is None:
            raise _UnusualError
        return tensor

    def _outputs(
        self, proto: onnx.NodeProto, values: _Values, declared: Mapping[str, onnx.ValueInfoProto]
    ) -> tuple[ir.Value, ...]:
        found: list[ir.Value] = []
        for name in proto.output[:]:
            value = plain_value(name)
            found.append(value)
            if not name:
                continue
            if name in values:
                raise _UnusualError
            values[name] = value
            if (info := declared.get(name)) is not None:
                self._declare(value, info)
        return tuple(found)

    def _declare(self, value: ir.Value, info: onnx.ValueInfoProto) -> None:
        """Give a value the type and the shape that the file declares."""
        kind = info.type
        if not kind.HasField("tensor_type"):
            if holds_a_map(kind):
                raise _UnusualError
            ir.serde.deserialize_value_info_proto(info, value)
            return
        key = kind.SerializeToString()
        known = self._types.get(key)
        if known is None:
            ir.serde.deserialize_value_info_proto(info, value)
            # With a denotation the type is one of its own.
            if value.dtype is not None and not kind.HasField("denotation"):
                self._types[key] = value.dtype, value.shape
            return
        dtype, value.shape = known
        value.type = ir.TensorType(dtype)  # not shared: its element type may be set
        value.doc_string = _given(info, "doc_string")
        if info.metadata_props:
            value.metadata_props.update(_entries(info.metadata_props) or {})

    def _node(
        self, proto: onnx.NodeProto, scopes: tuple[_Values, ...], outputs: tuple[ir.Value, ...]
    ) -> ir.Node:
        if proto.device_configurations:
            raise _UnusualError
        values = scopes[0]
        # Copied whole: to go through a protobuf's own list takes three times as long.
        names = proto.input[:]
        try:
            inputs = [values[name] if name else None for name in names]
        except KeyError:
            inputs = [_find(name, scopes) if name else None for name in names]
        attributes: dict[str, ir.Attr] = {}
        if held := proto.attribute:
            attributes = {item.name: self._attribute(item, scopes) for item in held}
        kind, name = proto.op_type, proto.name
        node = plain_node(proto.domain, kind, tuple(inputs), attributes, outputs, name=name)
        if overload := proto.overload:
            node.overload = overload
        if proto.HasField("doc_string"):
            node.doc_string = proto.doc_string
        if entries := proto.metadata_props:
            # Exporters note the same source and module beside many nodes: two thirds of the text.
            share = self._texts.setdefault
            pairs = ((entry.key, entry.value) for entry in entries)
            node.metadata_props.update({share(key, key): share(text, text) for key, text in pairs})
        return node

    def _attribute(self, proto: onnx.AttributeProto, scopes: tuple[_Values, ...]) -> ir.Attr:
        kind = proto.type
        if proto.ref_attr_name:
            raise _UnusualError
        found = _PLAIN.get(kind)
        if found is not None:
            made = plain_attribute(proto.name, found[0], found[1](proto))
        elif kind == onnx.AttributeProto.TENSOR:
            made = plain_attribute(proto.name, ir.AttributeType.TENSOR, self._tensor(proto.t))
        elif kind == onnx.AttributeProto.GRAPH:
            made = Attr(proto.name, ir.AttributeType.GRAPH, self.graph(proto.g, scopes))
        elif kind == onnx.AttributeProto.GRAPHS:
            inner = [self.graph(graph, scopes) for graph in proto.graphs]
            made = Attr(proto.name, ir.AttributeType.GRAPHS, inner)
        else:
            raise _UnusualError
        if proto.HasField("doc_string"):
            made.doc_string = proto.doc_string
        return made


def holds_a_map(kind: onnx.TypeProto) -> bool:
    """Tell whether a type is one of maps, or of sequences or optional values of them."""
    if kind.HasField("sequence_type"):
        return holds_a_map(kind.sequence_type.elem_type)
    if kind.HasField("optional_type"):
        return holds_a_map(kind.optional_type.elem_type)
    return bool(kind.HasField("map_type"))


def _find(name: str, scopes: tuple[_Values, ...]) -> ir.Value:
    for values in scopes:
        if name in values:
            return values[name]
    raise _UnusualError


def _given(proto: Any, field: str) -> Any:
    """Return an optional field, or ``None`` where it is left out."""
    return getattr(proto, field) if proto.HasField(field) else None


def _entries(proto: Any) -> dict[str, str] | None:
    return {entry.key: entry.value for entry in proto} if proto else None


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise _UnusualError from error


_PLAIN: Mapping[int, tuple[ir.AttributeType, Callable[[onnx.AttributeProto], Any]]] = {
    onnx.AttributeProto.INT: (ir.AttributeType.INT, lambda proto: proto.i),
    onnx.AttributeProto.INTS: (ir.AttributeType.INTS, lambda proto: tuple(proto.ints[:])),
    onnx.AttributeProto.FLOAT: (ir.AttributeType.FLOAT, lambda proto: proto.f),
    onnx.AttributeProto.FLOATS: (ir.AttributeType.FLOATS, lambda proto: tuple(proto.floats[:])),
    onnx.AttributeProto.STRING: (ir.AttributeType.STRING, lambda proto: _text(proto.s)),
    onnx.AttributeProto.STRINGS: (
        ir.AttributeType.STRINGS,
        lambda proto: tuple([_text(item) for item in proto.strings]),
    ),
}
"""The kinds of attributes that hold numbers or texts, and how to read them."""
