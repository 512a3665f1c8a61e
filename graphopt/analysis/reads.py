"""What nodes read, what their subgraphs capture included."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from graphopt.ir import subgraphs_of

__all__ = ["values_read"]


def values_read(node: ir.Node) -> Iterator[ir.Value]:
    """Yield what ``node`` reads, and all that its subgraphs read, of their own values too."""
    yield from (value for value in node.inputs if value is not None)
    for graph in subgraphs_of(node):
        yield from graph.outputs
        for inner in graph:
            yield from values_read(inner)
