"""Walking the graphs of a model."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter

import onnx_ir as ir

from graphopt.ir.objects import node_list

__all__ = [
    "CONTAINERS",
    "forget_graphs",
    "forget_nodes",
    "graphs",
    "is_call",
    "may_hold_graphs",
    "nodes",
    "nodes_of_types",
    "operators_of",
    "ordered_nodes",
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


def is_call(node: ir.Node, model: ir.Model) -> bool:
    """Tell whether ``node`` calls a function of ``model``; most models have none."""
    return bool(model.functions) and node.op_identifier() in model.functions


def may_hold_graphs(node: ir.Node) -> bool:
    """Tell whether ``node`` is of an operator that may have subgraphs."""
    return node.op_type in CONTAINERS or bool(node.domain)


def _innermost_first(graph: ir.Graph) -> Iterator[ir.Graph]:
    # A list first: this walk is behind all others, and most graphs hold no container.
    for node in [node for node in node_list(graph) if node.op_type in CONTAINERS or node.domain]:
        for inner in subgraphs_of(node):
            yield from _innermost_first(inner)
    yield graph


def graphs(model: ir.Model) -> Iterator[ir.Graph]:
    """Yield every graph: functions first, then the main graph, subgraphs before their owners."""
    memory = _memory_of(model)
    if memory is None:
        yield from _found_graphs(model)
        return
    if memory.graphs is None or memory.graphs[-1] is not model.graph:
        memory.graphs = tuple(_found_graphs(model))
    yield from memory.graphs


def ordered_nodes(model: ir.Model) -> Sequence[ir.Node]:
    """Return the nodes of the main graph and its subgraphs in an order in which they could run.

    They are as they are now: edits made while they are walked do not show.
    """
    memory = _memory_of(model)
    if memory is None:
        return tuple(_in_order(model.graph))
    if memory.order is None:
        has_one = len(tuple(graphs(model))) == 1  # there are no subgraphs to look for
        memory.order = tuple(node_list(model.graph) if has_one else _in_order(model.graph))
    return memory.order


def nodes_of_types(
    model: ir.Model,
    op_types: Collection[str],
    *,
    domain: str = "",
    with_functions: bool = False,
) -> list[ir.Node]:
    """Return those of `ordered_nodes` that are of some operators.

    Args:
        model: The model.
        op_types: The operators.
        domain: Their domain.
        with_functions: Return those inside functions, too; they come first.
    """
    kinds = _kinds(model)
    found = [kinds[domain, op_type] for op_type in op_types if (domain, op_type) in kinds]
    placed = found[0] if len(found) == 1 else sorted(chain.from_iterable(found), key=_PLACE)
    if model.functions and not with_functions:
        return [node for place, node in placed if place >= 0]
    return [node for _, node in placed]


def operators_of(model: ir.Model) -> dict[tuple[str, str], int]:
    """Return how many nodes are of each domain and operator, those inside functions included."""
    return {operator: len(placed) for operator, placed in _kinds(model).items()}


_Kinds = dict[tuple[str, str], list[tuple[int, ir.Node]]]


def _kinds(model: ir.Model) -> _Kinds:
    memory = _memory_of(model) or _Memory(model)
    if memory.kinds is None:
        inside = [node for held in model.functions.values() for node in _in_order(held.graph)]
        memory.kinds = {}
        for place, node in enumerate((*inside, *ordered_nodes(model)), -len(inside)):
            memory.kinds.setdefault((node.domain, node.op_type), []).append((place, node))
    return memory.kinds


_PLACE = itemgetter(0)


@dataclass
class _Memory:
    """What was found once for many walks; ``None``: to be found again.

    Attributes:
        model: Whose memory it is.
        graphs: All graphs.
        order: Nodes in an order in which they could run.
        kinds: The same by domain and operator, each with its place in that order; those inside
            functions have places below zero.
    """

    model: ir.Model
    graphs: tuple[ir.Graph, ...] | None = None
    order: tuple[ir.Node, ...] | None = None
    kinds: _Kinds | None = None


_MEMORY = "graphopt.graphs"


def _memory_of(model: ir.Model) -> _Memory | None:
    memory = model.meta.get(_MEMORY)
    return memory if isinstance(memory, _Memory) and memory.model is model else None


@contextmanager
def remembered_graphs(model: ir.Model) -> Iterator[None]:
    """Let walks remember which graphs and nodes they found, within the block.

    Every walk over a model begins there, and to find out that a model has one graph takes a look
    at every node. Whoever changes the model within the block by other means than an editor calls
    `forget_graphs`.
    """
    if _memory_of(model) is not None:
        yield  # within such a block already
        return
    model.meta[_MEMORY] = _Memory(model)
    try:
        yield
    finally:
        model.meta.pop(_MEMORY, None)


def forget_graphs(model: ir.Model) -> None:
    """Take note that nodes with subgraphs, or functions, came or went."""
    memory = _memory_of(model)
    if memory is not None:
        memory.graphs = None
        forget_nodes(model)


def forget_nodes(model: ir.Model) -> None:
    """Take note that nodes came, went, or are of another operator now."""
    memory = _memory_of(model)
    if memory is not None:
        memory.order = memory.kinds = None


def _found_graphs(model: ir.Model) -> Iterator[ir.Graph]:
    for function in model.functions.values():
        yield from _innermost_first(function.graph)
    yield from _innermost_first(model.graph)


def _in_order(graph: ir.Graph) -> Iterator[ir.Node]:
    for node in node_list(graph):
        if node.op_type in CONTAINERS or node.domain:
            for inner in subgraphs_of(node):
                yield from _in_order(inner)
        yield node


def nodes(model: ir.Model) -> Iterator[ir.Node]:
    """Yield every node of every graph."""
    for graph in graphs(model):
        yield from graph
