"""Moving and copying whole pieces of graphs: what inlining, hoisting and unrolling are made of.

Each function takes the rewrite that it becomes a part of; nothing happens before that is applied.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from functools import partial

import onnx_ir as ir

from graphopt.ir import Attr, Node, Value, graphs
from graphopt.rewrite.attachment import copy_shape, graph_of
from graphopt.rewrite.change import Change

__all__ = ["Bindings", "adopt_initializers", "copy_nodes", "move_nodes", "repeated_names"]

Bindings = MutableMapping[ir.Value, ir.Value | None]
"""What stands for each value of the piece where it is copied to; ``None``: it is left out."""


def repeated_names(model: ir.Model) -> frozenset[str]:
    """Return the names that values of several graphs share, as those of two branches may.

    A value that moves to an outer graph has to give up such a name, which the other one would hide.
    """
    counts = Counter(value.name for graph in graphs(model) for value in _defined_in(graph))
    return frozenset(name for name, count in counts.items() if count > 1 and name)


def _defined_in(graph: ir.Graph) -> Iterator[ir.Value]:
    # An initializer that may be overridden is both, and one value.
    yield from dict.fromkeys((*graph.inputs, *graph.initializers.values()))
    for node in graph:
        yield from node.outputs


def move_nodes(
    change: Change, nodes: Iterable[ir.Node], before: ir.Node, repeated: frozenset[str]
) -> None:
    """Move nodes, in this order, to before the node ``before`` of an outer graph.

    They keep their names, but for those of their outputs that are in ``repeated``.
    """
    for node in nodes:
        for value in node.outputs:
            _give_up_name(change, value, repeated)
        change.then(partial(_move, change, node, before), changed=(node.name or node.op_type,))


def _move(change: Change, node: ir.Node, before: ir.Node) -> None:
    graph_of(node).remove(node)
    graph_of(before).insert_before(before, node)
    change.touched.nodes[node] = None


def _give_up_name(change: Change, value: ir.Value, repeated: frozenset[str]) -> None:
    if value.name and value.name in repeated:
        name = change.fresh_name(value.name)
        change.then(lambda: setattr(value, "name", name))


def adopt_initializers(
    change: Change, weights: Iterable[ir.Value], repeated: frozenset[str]
) -> Mapping[ir.Value, ir.Value]:
    """Move initializers of subgraphs to the main graph, which all can see.

    Where there can be none (inside functions, in old models), they become ``Constant`` nodes at the
    place of the rewrite.

    Returns:
        What each initializer has become.
    """
    found: dict[ir.Value, ir.Value] = {}
    for value in tuple(weights):
        # A caller may give another value: it is no constant.
        if value.is_graph_input() or value.const_value is None:
            continue
        if change.can_own_initializers():
            _give_up_name(change, value, repeated)
            change.then(partial(_adopt, change.model, value))
            found[value] = value
        else:
            found[value] = change.initializer(value.const_value, name=value.name or "weight")
            change.replace(value, found[value])
    return found


def _adopt(model: ir.Model, value: ir.Value) -> None:
    owner = value.graph
    assert owner is not None
    # By the object: it may have given up the name under which it is registered.
    registered = next(name for name, held in owner.initializers.items() if held is value)
    del owner.initializers[registered]
    model.graph.register_initializer(value)


# -- copying --------------------------------------------------------------------------------------


def copy_nodes(
    change: Change,
    nodes: Iterable[ir.Node],
    bindings: Bindings,
    *,
    before: ir.Node,
    given: Mapping[str, ir.Attr] | None = None,
) -> None:
    """Copy nodes, in this order, to before the node ``before``.

    Args:
        change: The rewrite.
        nodes: What to copy; its subgraphs are copied with it.
        bindings: What stands for the values that the nodes read, where not these themselves. The
            copies of their outputs are added to it.
        before: Where the copies go.
        given: For bodies of functions: the attributes that the call gives, by name. One that is
            not among them is left out of the copies.
    """
    copier = _Copier(change, bindings, given)
    for node in nodes:
        outputs = copier.new_outputs(node)
        name = change.fresh_name(node.name or node.op_type)
        change.then(partial(copier.insert, node, name, outputs, before), added=(name,))


class _Copier:
    """Makes copies of nodes and of their subgraphs, under names of their own."""

    def __init__(
        self, change: Change, bindings: Bindings, given: Mapping[str, ir.Attr] | None
    ) -> None:
        self._change = change
        self._bindings = bindings
        self._given = given

    def new_outputs(self, node: ir.Node) -> list[ir.Value]:
        """Create what stands for the outputs of ``node``."""
        return [self._new_value(value) for value in node.outputs]

    def insert(
        self, node: ir.Node, name: str, outputs: Sequence[ir.Value], before: ir.Node
    ) -> None:
        """Put the copy of ``node`` before another node."""
        graph_of(before).insert_before(before, self._copied(node, name, outputs))

    def _copied(self, node: ir.Node, name: str, outputs: Sequence[ir.Value]) -> ir.Node:
        attributes = (self._attribute(attribute) for attribute in node.attributes.values())
        copy = Node(
            node.domain,
            node.op_type,
            [self._bound(value) for value in node.inputs],
            [attribute for attribute in attributes if attribute is not None],
            overload=node.overload,
            outputs=outputs,
            name=name,
            doc_string=node.doc_string,
            metadata_props=dict(node.metadata_props),
        )
        copy.meta.update(node.meta)
        self._change.touched.nodes[copy] = None
        return copy

    def _bound(self, value: ir.Value | None) -> ir.Value | None:
        return None if value is None else self._bindings.get(value, value)

    def _new_value(self, value: ir.Value) -> ir.Value:
        new = Value(
            name=self._change.fresh_name(value.name) if value.name else "",
            shape=copy_shape(value.shape),
            type=value.type,
            doc_string=value.doc_string,
            const_value=value.const_value,
            metadata_props=dict(value.metadata_props),
        )
        self._bindings[value] = new
        return new

    def _attribute(self, attribute: ir.Attr) -> ir.Attr | None:
        if attribute.is_ref():
            return self._resolved(attribute)
        if attribute.type == ir.AttributeType.GRAPH:
            return ir.AttrGraph(attribute.name, self._graph(attribute.value))
        if attribute.type == ir.AttributeType.GRAPHS:
            copies = [self._graph(graph) for graph in attribute.value]
            return ir.AttrGraphs(attribute.name, copies)
        return attribute

    def _resolved(self, attribute: ir.Attr) -> ir.Attr | None:
        """Return what the call of a function gives for an attribute of one of its nodes."""
        if self._given is None:
            return attribute
        given = self._given.get(attribute.ref_attr_name or "")
        if given is None:
            return None
        if given.is_ref():  # the call stands in a function itself
            return ir.RefAttr(attribute.name, given.ref_attr_name or "", given.type)
        return Attr(attribute.name, given.type, given.value)

    def _graph(self, graph: ir.Graph) -> ir.Graph:
        inputs = [self._new_value(value) for value in graph.inputs]
        initializers = [
            self._bindings.get(value) or self._new_value(value)
            for value in graph.initializers.values()
        ]
        nodes = []
        for node in graph:
            outputs = self.new_outputs(node)
            name = self._change.fresh_name(node.name or node.op_type)
            nodes.append(self._copied(node, name, outputs))
        outputs = [self._bindings.get(value) or value for value in graph.outputs]
        return ir.Graph(
            inputs,
            outputs,
            nodes=nodes,
            initializers=initializers,
            doc_string=graph.doc_string,
            name=graph.name,
            metadata_props=dict(graph.metadata_props),
        )
