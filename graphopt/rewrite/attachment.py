"""What ties nodes, values and graphs of the IR to each other, beyond what the IR looks after."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.errors import PassError
from graphopt.ir import detach_inputs, subgraphs_of, take_out, use_count
from graphopt.rewrite.overwriting import is_overwritten

__all__ = [
    "can_replace",
    "copy_shape",
    "detach_subgraphs",
    "graph_of",
    "insert_at_value",
    "is_within_function",
    "remove_node",
    "take_over_output",
]


def graph_of(node: ir.Node) -> ir.Graph | ir.Function:
    """Return the graph that ``node`` stands in.

    Raises:
        PassError: It stands in none.
    """
    if node.graph is None:
        raise PassError(
            f"node `{node.name}` is in no graph",
            why="an earlier rewrite removed it",
            hint="a pass must not act on nodes that it removed; please report this",
        )
    return node.graph


def insert_at_value(node: ir.Node, value: ir.Value, graph: ir.Graph | ir.Function) -> bool:
    """Put ``node`` behind what computes ``value``, else first in ``graph``.

    Returns:
        Whether later nodes have to follow this one: there are nodes that they could come behind.
    """
    producer = value.producer()
    if producer is not None:
        graph_of(producer).insert_after(producer, node)
        return True
    is_first = not len(graph)
    if is_first:
        graph.append(node)
    else:
        graph.insert_before(graph[0], node)
    return not is_first


def copy_shape(shape: ir.Shape | None) -> ir.Shape | None:
    """Return a shape of its own for another value; shapes can be changed in place."""
    return shape.copy() if shape is not None else None


def detach_subgraphs(node: ir.Node) -> None:
    """Release what the subgraphs of ``node`` capture, which the IR would go on counting as used."""
    for graph in subgraphs_of(node):
        for inner in graph:
            detach_subgraphs(inner)
            detach_inputs(inner)


def remove_node(node: ir.Node) -> None:
    """Take ``node`` out of its graph.

    Raises:
        ValueError: Somebody reads what it computes.
    """
    graph = graph_of(node)
    if any(use_count(value) or value.is_graph_output() for value in node.outputs):
        graph.remove((node,), safe=True)  # which says what is wrong
        return
    detach_inputs(node)
    take_out(node)


def is_within_function(model: ir.Model, place: ir.Node | ir.Value | ir.Graph) -> bool:
    """Tell whether a graph is the body of a function or a subgraph of it, or stands in one."""
    if not model.functions:
        return False
    graph = place if isinstance(place, ir.Graph) else place.graph
    inside = (
        inner
        for function in model.functions.values()
        for inner in (function.graph, *function.graph.subgraphs())
    )
    return any(inner is graph for inner in inside)


def take_over_output(old: ir.Value, new: ir.Value, spare_name: str) -> None:
    """Let ``new`` be returned in the place of ``old``, under its name, which gets another one."""
    producer = old.producer()
    graph = producer.graph if producer is not None else None
    assert graph is not None
    # The old value first: at no moment do two values have one name.
    public_name, old.name = old.name, spare_name
    new.name = public_name
    new.type, new.shape = old.type, copy_shape(old.shape)
    new.doc_string = old.doc_string
    # What a file says of an output (denotations, annotations of quantization) is said of what is
    # returned.
    new.metadata_props.update(old.metadata_props)
    new.meta.update(old.meta)
    # A value may be returned more than once.
    for index, output in enumerate(graph.outputs):
        if output is old:
            graph.outputs[index] = new


def can_replace(old: ir.Value, new: ir.Value) -> bool:
    """Tell whether `Change.replace` may put ``new`` in the place of ``old``.

    A value that a reader overwrites has to be a copy of its own: see `is_overwritten`. A value that
    the graph returns keeps its public name, so that what replaces it must be able to take that
    name: the output of a node of the same graph that is not returned already.
    """
    if is_overwritten(old):
        return False
    if not old.is_graph_output():
        return True
    producer, owner = new.producer(), old.producer()
    if producer is None or owner is None or new.is_graph_output():
        return False
    # A subgraph cannot return an outer value: ONNX wants its outputs made inside.
    return producer.graph is owner.graph
