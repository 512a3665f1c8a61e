"""The order in which the nodes of nested graphs could run."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from graphopt.ir import subgraphs_of

__all__ = ["in_order"]


def in_order(graph: ir.Graph) -> Iterator[ir.Node]:
    """Yield the nodes of ``graph`` and its subgraphs in an order in which they could run."""
    for node in graph:
        for inner in subgraphs_of(node):
            yield from in_order(inner)
        yield node
