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

__all__ = ["HAS_NO_ANNOTATIONS", "read_model"]

TensorReader = Callable[[onnx.TensorProto], ir.TensorProtocol | None]
_Values = dict[str, ir.Value]


def read_model(proto: onnx.ModelProto, read_tensor: TensorReader) -> ir.Model | None:
    """Return the model that ``proto`` describes, just as ``ir.from_proto`` would.

    Args:
        proto: The model.
        read_tensor: Makes a tensor, or ``None`` of what is none.

    Returns:
        ``None`` where something in it is unusual, or wrong: functions, devices, annotations, names
        that are missing, defined twice or not at all.
    """
    if proto.functions or proto.configuration:
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
    """Reads graphs; equal types are decoded once, and frozen shapes are shared."""

    def __init__(self, read_tensor: TensorReader) -> None:
        self._read_tensor = read_tensor
        self._types: dict[bytes, tuple[ir.DataType, ir.Shape | None]] = {}

    def graph(self, proto: onnx.GraphProto, outer: tuple[_Values, ...]) -> ir.Graph:
        """Return a graph; ``outer`` are the values around it, the nearest first."""
        if proto.quantization_annotation:
            raise _UnusualError
        inputs = [ir.Value(name=info.name) for info in proto.input]
        values = {value.name or "": value for value in inputs}
        for info, value in zip(proto.input, inputs, strict=True):
            self._declare(value, info)
        declared = {info.name: info for info in proto.value_info}
        initializers = [self._initializer(item, values, declared) for item in proto.initializer]
        # A subgraph may use what a later node around it computes: all are declared first.
        for node in proto.node:
            for name in node.output:
                self._declare_output(name, values, declared)
        scopes = (values, *outer)
        nodes = [self._node(node, scopes) for node in proto.node]
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
            value.const_value = tensor
            return value
        kind = ir.TensorType(tensor.dtype)
        shape: Any = tensor.shape
        value = values[name] = ir.Value(name=name, type=kind, shape=shape, const_value=tensor)
        if (info := declared.get(name)) is not None:
            self._declare(value, info)
        return value

    def _tensor(self, proto: onnx.TensorProto) -> ir.TensorProtocol:
        tensor = self._read_tensor(proto)
        if tensor is None:
            raise _UnusualError
        return tensor

    def _declare_output(
        self, name: str, values: _Values, declared: Mapping[str, onnx.ValueInfoProto]
    ) -> None:
        if not name:
            return
        if name in values:
            raise _UnusualError
        value = values[name] = ir.Value(name=name)
        if (info := declared.get(name)) is not None:
            self._declare(value, info)

    def _declare(self, value: ir.Value, info: onnx.ValueInfoProto) -> None:
        """Give a value the type and the shape that the file declares."""
        kind = info.type
        if not kind.HasField("tensor_type"):
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

    def _node(self, proto: onnx.NodeProto, scopes: tuple[_Values, ...]) -> ir.Node:
        if proto.device_configurations:
            raise _UnusualError
        values = scopes[0]
        try:
            inputs = [values[name] if name else None for name in proto.input]
        except KeyError:
            inputs = [_find(name, scopes) if name else None for name in proto.input]
        attributes = proto.attribute
        return ir.Node(
            proto.domain,
            proto.op_type,
            inputs,
            [self._attribute(item, scopes) for item in attributes] if attributes else (),
            overload=proto.overload,
            outputs=[values[name] if name else ir.Value(name="") for name in proto.output],
            name=proto.name,
            doc_string=_given(proto, "doc_string"),
            metadata_props=_entries(proto.metadata_props),
        )

    def _attribute(self, proto: onnx.AttributeProto, scopes: tuple[_Values, ...]) -> ir.Attr:
        kind, doc_string = proto.type, _given(proto, "doc_string")
        if proto.ref_attr_name:
            raise _UnusualError
        found = _PLAIN.get(kind)
        if found is not None:
            return ir.Attr(proto.name, found[0], found[1](proto), doc_string=doc_string)
        if kind == onnx.AttributeProto.TENSOR:
            held: Any = self._tensor(proto.t)
        elif kind == onnx.AttributeProto.GRAPH:
            held = self.graph(proto.g, scopes)
        elif kind == onnx.AttributeProto.GRAPHS:
            held = [self.graph(inner, scopes) for inner in proto.graphs]
        else:
            raise _UnusualError
        return ir.Attr(proto.name, ir.AttributeType(kind), held, doc_string=doc_string)


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
    onnx.AttributeProto.INTS: (ir.AttributeType.INTS, lambda proto: proto.ints),
    onnx.AttributeProto.FLOAT: (ir.AttributeType.FLOAT, lambda proto: proto.f),
    onnx.AttributeProto.FLOATS: (ir.AttributeType.FLOATS, lambda proto: proto.floats),
    onnx.AttributeProto.STRING: (ir.AttributeType.STRING, lambda proto: _text(proto.s)),
    onnx.AttributeProto.STRINGS: (
        ir.AttributeType.STRINGS,
        lambda proto: [_text(item) for item in proto.strings],
    ),
}
"""The kinds of attributes that hold numbers or texts, and how to read them."""
