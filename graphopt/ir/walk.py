"""Walking the graphs of a model."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

__all__ = ["graphs", "nodes", "subgraphs_of"]


def subgraphs_of(node: ir.Node) -> tuple[ir.Graph, ...]:
    """Return the graphs in the attributes of ``node``, in attribute order."""
    found: list[ir.Graph] = []
    for attr in node.attributes.data.values():  # every walk passes here: the plain dict is faster
        if attr.type not in _GRAPH_TYPES or attr.is_ref() or attr.value is None:
            continue
        if attr.type == ir.AttributeType.GRAPH:
            found.append(attr.value)
        else:
            found.extend(attr.value)
    return tuple(found)


_GRAPH_TYPES = frozenset({ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS})


def _innermost_first(graph: ir.Graph) -> Iterator[ir.Graph]:
    for node in graph:
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
