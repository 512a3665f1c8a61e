"""The order in which the nodes of nested graphs could run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx_ir as ir

from graphopt.ir import subgraphs_of

__all__ = ["always_run", "in_order"]


def in_order(graph: ir.Graph) -> Iterator[ir.Node]:
    """Yield the nodes of ``graph`` and its subgraphs in an order in which they could run."""
    for node in graph:
        for inner in subgraphs_of(node):
            yield from in_order(inner)
        yield node


def always_run(graph: ir.Graph, nodes: Sequence[ir.Node]) -> frozenset[ir.Node]:
    """Return those of ``nodes`` that the outputs of ``graph`` depend on, its subgraphs apart.

    Args:
        graph: The main graph of a model.
        nodes: Nodes of it, and of graphs within it, in an order in which they could run.
    """
    # From the end: no value is asked for its producer, which would take most of the time.
    needed: set[ir.Value | None] = set(graph.outputs)
    found = []
    for node in reversed(nodes):
        outputs = node.outputs
        # Nearly all have one, and to look that up takes half the time.
        is_needed = outputs[0] in needed if len(outputs) == 1 else not needed.isdisjoint(outputs)
        if is_needed and node.graph is graph:
            found.append(node)
            needed.update(node.inputs)
    return frozenset(found)
