"""Keys under which nodes are equal exactly if they compute the same bits from the same values."""

from __future__ import annotations

import struct
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import onnx
import onnx_ir as ir

from graphopt.analysis.operators import Operators
from graphopt.ir import tensor_dims
from graphopt.ir.hashing import blake2b

__all__ = ["NodeKeys"]

_Scope = Mapping[ir.Value, Hashable]
"""Names of the values that a subgraph defines; every other value stands for itself."""


class NodeKeys:
    """Makes the keys of one model's nodes.

    Two nodes have equal keys if operator, version, attributes (defaults filled in, floats and
    tensors by their bits), inputs by identity, and the pattern of outputs that are there agree,
    and their subgraphs are alike up to the names of the values that these define. Effects are not
    looked at: two draws of a random number have equal keys.
    """

    def __init__(self, operators: Operators) -> None:
        self._operators = operators

    def of(self, node: ir.Node, names: Mapping[ir.Value, Hashable] | None = None) -> Hashable:
        """Return the key of ``node``; a value counts as what ``names`` calls it."""
        return self._node(node, names or {})

    def are_alike(self, one: ir.Graph, other: ir.Graph) -> bool:
        """Tell whether two subgraphs compute the same, up to the names of what they define."""
        return self._graph(one, {}) == self._graph(other, {})

    def _node(self, node: ir.Node, scope: _Scope) -> Hashable:
        attributes = dict(self._defaults(node))
        attributes.update((a.name, self._attribute(a, scope)) for a in node.attributes.values())
        return (
            node.op_identifier(),
            self._operators.version(node),
            tuple(_reference(value, scope) for value in node.inputs),
            tuple(bool(value.name) for value in node.outputs),
            frozenset(attributes.items()),
        )

    def _defaults(self, node: ir.Node) -> Mapping[str, Hashable]:
        schema = self._operators.schema(node)
        return {} if schema is None else _defaults(schema)

    def _attribute(self, attribute: ir.Attr, scope: _Scope) -> Hashable:
        if attribute.is_ref():
            return ("ref", attribute.ref_attr_name)
        kind, value = attribute.type, attribute.value
        if kind == ir.AttributeType.GRAPH:
            return (kind, self._graph(value, scope))
        if kind == ir.AttributeType.GRAPHS:
            return (kind, tuple(self._graph(graph, scope) for graph in value))
        return (kind, _plain(kind, value))

    def _graph(self, graph: ir.Graph, outer: _Scope) -> Hashable:
        scope = dict(outer)
        for value in graph.inputs:
            scope[value] = len(scope)
        initializers = []
        for value in graph.initializers.data.values():
            scope.setdefault(value, len(scope))
            initializers.append((scope[value], _tensor(value.const_value)))
        body = []
        for node in graph:
            body.append(self._node(node, scope))
            for value in node.outputs:
                scope[value] = len(scope)
        inputs = tuple((str(value.type), str(value.shape)) for value in graph.inputs)
        outputs = tuple(_reference(value, scope) for value in graph.outputs)
        return (inputs, tuple(initializers), tuple(body), outputs)


def _reference(value: ir.Value | None, scope: _Scope) -> Hashable:
    return None if value is None else scope.get(value, value)


def _plain(kind: ir.AttributeType, value: Any) -> Hashable:
    """Return an attribute's value so that equal means equal bits."""
    make = _PLAIN.get(kind, id)  # types, sparse tensors: alike only if the very same object
    return make(value)


def _tensor(tensor: ir.TensorProtocol | None) -> Hashable:
    if tensor is None:
        return None
    shape = tensor_dims(tensor)
    if tensor.dtype == ir.DataType.STRING:
        return (tensor.dtype, shape, tuple(bytes(t) for t in tensor.numpy().reshape(-1).tolist()))
    return (tensor.dtype, shape, blake2b(tensor.tobytes()).digest())


_PLAIN: Mapping[ir.AttributeType, Callable[[Any], Hashable]] = {
    ir.AttributeType.FLOAT: lambda value: struct.pack("<d", value),
    ir.AttributeType.FLOATS: lambda value: struct.pack(f"<{len(value)}d", *value),
    ir.AttributeType.INT: int,
    ir.AttributeType.INTS: tuple,
    ir.AttributeType.STRING: str,
    ir.AttributeType.STRINGS: tuple,
    ir.AttributeType.TENSOR: _tensor,
    ir.AttributeType.TENSORS: lambda value: tuple(_tensor(item) for item in value),
}
_DEFAULTS: dict[tuple[str, str, int], Mapping[str, Hashable]] = {}


def _defaults(schema: onnx.defs.OpSchema) -> Mapping[str, Hashable]:
    """Return the keys of the attributes that have a default, by name; remembered by schema."""
    identity = (schema.domain, schema.name, schema.since_version)
    if identity not in _DEFAULTS:
        found: dict[str, Hashable] = {}
        for name, attribute in schema.attributes.items():
            if attribute.default_value.type != onnx.AttributeProto.UNDEFINED:
                default = ir.serde.deserialize_attribute(attribute.default_value)
                found[name] = (default.type, _plain(default.type, default.value))
        _DEFAULTS[identity] = found
    return _DEFAULTS[identity]
