"""The IR's nodes, values and attributes, with fields that are read without a call.

Every pass asks every node for its operator and its inputs, some hundred times in all. The IR's
own classes answer by calling a Python function that returns a slot; these show the slot itself,
which takes a tenth of the time, and are the IR's classes in everything else.
"""

# ruff: noqa: SLF001 - to fill the slots of the IR's objects is what this file is for

from __future__ import annotations

from types import MemberDescriptorType
from typing import Any

import onnx_ir as ir

__all__ = [
    "Attr",
    "Node",
    "Value",
    "detach_inputs",
    "node_list",
    "plain_attribute",
    "plain_node",
    "plain_value",
    "take_out",
    "use_count",
]


class Node(ir.Node):
    """A node; who sets `domain` must not call the default domain ``ai.onnx``.

    What the IR forbids stays forbidden: `inputs` and `outputs` are never assigned to.
    """

    __slots__ = ()


class Value(ir.Value):
    """A value."""

    __slots__ = ()


class Attr(ir.Attr):
    """An attribute of a node; it is never changed."""

    __slots__ = ()


_SHOWN: dict[type, tuple[str, ...]] = {
    Node: ("attributes", "domain", "graph", "inputs", "name", "op_type", "outputs", "overload"),
    # Not the name and the shape of a value: to set these does more than to fill the slot.
    Value: ("const_value", "type"),
    Attr: ("name", "type", "value"),
}
"""Properties of which the IR reads and writes just the slot of the same name."""


def _show_slots(kind: type, fields: tuple[str, ...]) -> None:
    for field in fields:
        slot = getattr(kind, f"_{field}", None)
        # A release of the IR that stores the field otherwise keeps its own property.
        if isinstance(slot, MemberDescriptorType):
            setattr(kind, field, slot)


for _kind, _fields in _SHOWN.items():
    _show_slots(_kind, _fields)


def detach_inputs(node: ir.Node) -> None:
    """Let ``node`` read nothing; the IR's own way makes new inputs for each one that goes."""
    if node.device_configurations or not _IS_KNOWN_FORM:
        for index in range(len(node.inputs)):
            node.replace_input_with(index, None)
        return
    for index, value in enumerate(node.inputs):
        if value is not None:
            del value._uses[_NEW_TUPLE(_Usage, (node, index))]
    node._inputs = (None,) * len(node.inputs)


def take_out(node: ir.Node) -> None:
    """Take ``node`` out of its graph, which does not look at who reads what it computes."""
    graph: Any = node.graph
    if _IS_KNOWN_LIST and isinstance(graph, ir.Graph):
        graph._nodes.remove(node)
        node.graph = None
    else:
        graph.remove(node)


def node_list(graph: ir.Graph) -> list[ir.Node]:
    """Return the nodes of ``graph`` as they are now.

    The IR's own walk stands edits under way, and takes four times as long for it.
    """
    if not _IS_KNOWN_LIST:
        return list(graph)
    chain: Any = graph._nodes
    end = chain._root
    found: list[ir.Node] = []
    link = end.next
    while link is not end:
        found.append(link.value)
        link = link.next
    return found


def use_count(value: ir.Value) -> int:
    """Return how many inputs of nodes read ``value``; `uses` makes a copy of them first."""
    return len(value._uses)


# -- making many --------------------------------------------------------------------------------


def plain_node(
    domain: str,
    op_type: str,
    inputs: tuple[ir.Value | None, ...],
    attributes: dict[str, ir.Attr],
    outputs: tuple[ir.Value, ...],
    *,
    name: str,
) -> ir.Node:
    """Make a node of values and attributes of which nothing is left to check.

    The constructor of the IR converts and checks what it is given, for three times as long as it
    takes to fill the fields. The reader of whole models knows what it gives.

    Args:
        domain: As the file calls it.
        op_type: Operator.
        inputs: Values; ``None`` for an optional input left out.
        attributes: By name; the node keeps this very object.
        outputs: Values that no node computes yet, each once.
        name: Name of the node.
    """
    if not _IS_KNOWN_FORM:
        return Node(domain, op_type, inputs, attributes, outputs=outputs, name=name)
    node: Any = Node.__new__(Node)
    node._name = name
    # As the IR's own constructor does.
    node._domain = "" if domain == "ai.onnx" else domain
    node._op_type = op_type
    node._inputs = inputs
    node._outputs = outputs
    node._attributes = _Attributes(attributes, node)
    node._overload = ""
    node._version = node._metadata = node._metadata_props = node._graph = None
    node.device_configurations = ()
    node.doc_string = None
    for index, value in enumerate(outputs):
        value._producer, value._index = node, index
    for index, given in enumerate(inputs):
        if given is not None:
            given._uses[_NEW_TUPLE(_Usage, (node, index))] = None
    return node  # type: ignore[no-any-return]


def plain_value(name: str) -> ir.Value:
    """Make a value of which nothing but the name is known yet."""
    if not _IS_KNOWN_VALUE:
        return Value(name=name)
    value: Any = Value.__new__(Value)
    value._name = name
    value._uses = {}
    value._producer = value._index = value._shape = value._type = value._const_value = None
    value._metadata = value._metadata_props = value._graph = value.doc_string = None
    value._is_graph_input = value._is_graph_output = value._is_initializer = False
    return value  # type: ignore[no-any-return]


def plain_attribute(name: str, kind: ir.AttributeType, held: Any) -> ir.Attr:
    """Make an attribute of what the IR would hold: numbers of Python, tuples of these, a tensor."""
    if not _IS_KNOWN_FORM:
        return Attr(name, kind, held)
    attribute: Any = Attr.__new__(Attr)
    attribute._name = name
    attribute._type = kind
    attribute._value = held
    attribute._ref_attr_name = attribute._metadata = attribute.doc_string = None
    return attribute  # type: ignore[no-any-return]


_NEW_TUPLE = tuple.__new__  # a named tuple's own constructor is a function of Python


def _kinds_within() -> tuple[Any, Any]:
    """Return the classes of what a node holds its attributes in, and a value its readers."""
    value = ir.Value()
    node = ir.Node("", "", [value])
    (usage,) = value.uses()
    return type(node.attributes), type(usage)


_IrAttributes, _Usage = _kinds_within()


class _Attributes(_IrAttributes):  # type: ignore[misc, valid-type]
    """The attributes of a node, of a dictionary that is right already."""

    def __init__(self, held: dict[str, ir.Attr], owner: ir.Node) -> None:
        self._owner = owner
        self.data = held


_IS_KNOWN_FORM = (
    frozenset(ir.Node.__slots__)
    == {
        *("_attributes", "_domain", "_graph", "_inputs", "_metadata", "_metadata_props", "_name"),
        *("_op_type", "_outputs", "_overload", "_version", "device_configurations", "doc_string"),
    }
    and frozenset(ir.Attr.__slots__)
    == {"_metadata", "_name", "_ref_attr_name", "_type", "_value", "doc_string"}
    and {"_index", "_producer", "_uses"} <= frozenset(ir.Value.__slots__)
    and vars(ir.Node("", "", []).attributes).keys() == {"_owner", "data"}
)
"""Whether this release of the IR holds what the functions above know of."""

_IS_KNOWN_VALUE = frozenset(ir.Value.__slots__) == {
    *("_const_value", "_graph", "_index", "_is_graph_input", "_is_graph_output", "_is_initializer"),
    *("_metadata", "_metadata_props", "_name", "_producer", "_shape", "_type", "_uses"),
    "doc_string",
}
"""Whether a value of this release of the IR has the slots that `plain_value` fills."""

_IS_KNOWN_LIST = frozenset(type(ir.Graph([], [], nodes=[])._nodes).__slots__) == {
    *("_length", "_root", "_value_ids_to_boxes")
}
"""Whether this release of the IR links the nodes of a graph as `node_list` knows it."""
