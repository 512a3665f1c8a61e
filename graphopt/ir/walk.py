"""Walking the graphs of a model."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

__all__ = ["CONTAINERS", "graphs", "nodes", "subgraphs_of"]


def subgraphs_of(node: ir.Node) -> tuple[ir.Graph, ...]:
    """Return the graphs in the attributes of ``node``, in attribute order."""
    # Every walk over every model asks this of every node: most answers take one look-up.
    if node.op_type not in CONTAINERS and not node.domain:
        return ()
    found: list[ir.Graph] = []
    for attr in node.attributes.data.values():
        kind = attr.type
        if kind is ir.AttributeType.GRAPH:
            if attr.value is not None and not attr.is_ref():
                found.append(attr.value)
        elif kind is ir.AttributeType.GRAPHS and attr.value is not None and not attr.is_ref():
            found.extend(attr.value)
    return tuple(found)


CONTAINERS = frozenset({"If", "Loop", "Scan", "SequenceMap"})
"""The standard operators that have subgraphs."""


def _innermost_first(graph: ir.Graph) -> Iterator[ir.Graph]:
    # A list first: this walk is behind all others, and most graphs hold no container.
    for node in [node for node in graph if node.op_type in CONTAINERS or node.domain]:
        for inner in subgraphs_of(node):
            yield from _innermost_first(inner)
    yield graph


def graphs(model: ir.Model) -> Iterator[ir.Graph]:
    """Yield every graph: functions first, then the main graph, subgraphs before their owners."""
    for function in model.functions.values():
        yield from _innermost_first(function.graph)
    yield from _innermost_first(model.graph)


def nodes(model: ir.Model) -> Iterator[ir.Node]:
    """Yield every node of every graph."""
    for graph in graphs(model):
        yield from graph
