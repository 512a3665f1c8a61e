"""Parts of a model as protobuf under names of their own.

Names in ONNX are scoped, and sibling subgraphs may use one name twice. What is written here calls
every value by a number instead, so that a result is found again by value, not by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import onnx
import onnx_ir as ir

from graphopt.ir import tensor_dims

__all__ = ["PLAIN_ATTRIBUTES", "ProtoWriter"]


class ProtoWriter:
    """Writes nodes and subgraphs of one model; the same value always gets the same name.

    Args:
        names: The names that values have got already; more are added.
    """

    def __init__(self, names: dict[ir.Value, str] | None = None) -> None:
        self._names = {} if names is None else names

    def name(self, value: ir.Value | None) -> str:
        """Return the name of ``value`` in what is written; empty for one left out."""
        if value is None or value.name == "":
            return ""
        known = self._names.get(value)
        if known is None:
            known = self._names[value] = f"v{len(self._names)}"
        return known

    def node(self, node: ir.Node, proto: onnx.NodeProto) -> None:
        """Write ``node`` into ``proto``; subgraphs are written with it."""
        proto.op_type = node.op_type
        if node.domain:
            proto.domain = node.domain
        if node.overload:
            proto.overload = node.overload
        proto.input.extend([self.name(value) for value in node.inputs])
        proto.output.extend([self.name(value) for value in node.outputs])
        for attribute in node.attributes.data.values():
            self.write_attribute(attribute, proto.attribute.add())

    def write_attribute(self, attribute: ir.Attr, proto: onnx.AttributeProto) -> None:
        """Write one attribute; graphs in it are written with it."""
        write = None if attribute.is_ref() else PLAIN_ATTRIBUTES.get(attribute.type)
        if write is not None:  # nearly all attributes there are
            proto.name = attribute.name
            proto.type = attribute.type.value  # type: ignore[assignment]
            write(proto, attribute.value)
            return
        if attribute.is_ref() or attribute.type not in _GRAPH_TYPES:
            ir.serde.serialize_attribute_into(proto, attribute)
            return
        proto.name = attribute.name
        proto.type = attribute.type.value  # type: ignore[assignment]
        if attribute.type == ir.AttributeType.GRAPH:
            self.graph(attribute.value, proto.g)
        else:
            for graph in attribute.value:
                self.graph(graph, proto.graphs.add())

    def graph(self, graph: ir.Graph, proto: onnx.GraphProto) -> None:
        """Write a whole graph; of inner values and outputs neither type nor shape is written."""
        proto.name = graph.name or "graph"
        for value in graph.inputs:
            self.input(value, proto.input.add())
        for value in graph.initializers.values():
            self.initializer(value, proto)
        for node in graph:
            self.inner_node(node, proto)
        for value in graph.outputs:
            proto.output.add().name = self.name(value)

    def inner_node(self, node: ir.Node, proto: onnx.GraphProto) -> None:
        """Write one node of a subgraph; a hook for subclasses."""
        self.node(node, proto.node.add())

    def initializer(self, value: ir.Value, proto: onnx.GraphProto) -> None:
        """Write one initializer with its data; a hook for subclasses."""
        if value.const_value is not None:
            self.tensor(value, value.const_value, proto.initializer.add())

    def tensor(self, value: ir.Value, data: ir.TensorProtocol, proto: onnx.TensorProto) -> None:
        """Write ``data`` under the name of ``value``; text and packed types included."""
        proto.name = self.name(value)
        proto.data_type = data.dtype.value
        proto.dims.extend(tensor_dims(data))
        if data.dtype == ir.DataType.STRING:
            proto.string_data.extend(bytes(text) for text in data.numpy().reshape(-1).tolist())
        else:
            proto.raw_data = data.tobytes()

    def input(self, value: ir.Value, proto: onnx.ValueInfoProto) -> None:
        """Write an input with the type and shape that the model declares; a hook for subclasses."""
        if value.type is not None:
            ir.serde.serialize_value_into(proto, value)
        proto.name = self.name(value)


_GRAPH_TYPES = frozenset({ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS})


def _write_int(proto: onnx.AttributeProto, value: int) -> None:
    proto.i = value


def _write_float(proto: onnx.AttributeProto, value: float) -> None:
    proto.f = value


def _write_string(proto: onnx.AttributeProto, value: str) -> None:
    proto.s = value.encode()


PLAIN_ATTRIBUTES: Mapping[ir.AttributeType, Callable[[onnx.AttributeProto, Any], None]] = {
    ir.AttributeType.INT: _write_int,
    ir.AttributeType.INTS: lambda proto, value: proto.ints.extend(value),
    ir.AttributeType.FLOAT: _write_float,
    ir.AttributeType.STRING: _write_string,
}
"""How the kinds of attributes that nearly all are of are written."""
