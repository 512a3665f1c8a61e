"""Walking the graphs of a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import onnx_ir as ir

__all__ = [
    "CONTAINERS",
    "forget_graphs",
    "graphs",
    "may_hold_graphs",
    "nodes",
    "remembered_graphs",
    "subgraphs_of",
]


def subgraphs_of(node: ir.Node) -> tuple[ir.Graph, ...]:
    """Return the graphs in the attributes of ``node``, in attribute order."""
    # Every walk over every model asks this of every node: most answers take one look-up.
    if not may_hold_graphs(node):
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


def may_hold_graphs(node: ir.Node) -> bool:
    """Tell whether ``node`` is of an operator that may have subgraphs."""
    return node.op_type in CONTAINERS or bool(node.domain)


def _innermost_first(graph: ir.Graph) -> Iterator[ir.Graph]:
    # A list first: this walk is behind all others, and most graphs hold no container.
    for node in [node for node in graph if node.op_type in CONTAINERS or node.domain]:
        for inner in subgraphs_of(node):
            yield from _innermost_first(inner)
    yield graph


def graphs(model: ir.Model) -> Iterator[ir.Graph]:
    """Yield every graph: functions first, then the main graph, subgraphs before their owners."""
    memory = model.meta.get(_MEMORY)
    if not isinstance(memory, _Memory) or memory.model is not model:
        yield from _found_graphs(model)
        return
    if memory.graphs is None or memory.graphs[-1] is not model.graph:
        memory.graphs = tuple(_found_graphs(model))
    yield from memory.graphs


@dataclass
class _Memory:
    """The graphs of a model, found once for many walks; ``None``: to be found again."""

    model: ir.Model
    graphs: tuple[ir.Graph, ...] | None = None


_MEMORY = "graphopt.graphs"


@contextmanager
def remembered_graphs(model: ir.Model) -> Iterator[None]:
    """Let `graphs` remember what it found, within the block.

    Every walk over a model begins there, and to find out that a model has one graph takes a look
    at every node. Whoever changes the model within the block by other means than an editor calls
    `forget_graphs`.
    """
    model.meta[_MEMORY] = _Memory(model)
    try:
        yield
    finally:
        model.meta.pop(_MEMORY, None)


def forget_graphs(model: ir.Model) -> None:
    """Take note that nodes with subgraphs, or functions, came or went."""
    memory = model.meta.get(_MEMORY)
    if isinstance(memory, _Memory):
        memory.graphs = None


def _found_graphs(model: ir.Model) -> Iterator[ir.Graph]:
    for function in model.functions.values():
        yield from _innermost_first(function.graph)
    yield from _innermost_first(model.graph)


def nodes(model: ir.Model) -> Iterator[ir.Node]:
    """Yield every node of every graph."""
    for graph in graphs(model):
        yield from graph
