"""How often a model draws random numbers, or updates statistics as in training."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.analysis.operators import Effect, Operators
from graphopt.ir import subgraphs_of

__all__ = ["random_draws"]


def random_draws(model: ir.Model) -> int:
    """Count the random nodes on which outputs depend, a function as often as it is called.

    Two draws are two numbers: whoever merges the nodes changes what the model computes, though no
    comparison of outputs can show it. Dropout and BatchNormalization count in training mode.
    """
    operators = Operators(model)
    return _in_graph(model.graph, model, operators, frozenset())


def _in_graph(
    graph: ir.Graph | ir.Function,
    model: ir.Model,
    operators: Operators,
    within: frozenset[ir.OperatorIdentifier],
) -> int:
    return sum(_at(node, model, operators, within) for node in _live(graph))


def _at(
    node: ir.Node,
    model: ir.Model,
    operators: Operators,
    within: frozenset[ir.OperatorIdentifier],
) -> int:
    called = node.op_identifier()
    body = model.functions.get(called)
    # ONNX forbids functions that call themselves; a file that has some must not keep us for ever.
    if body is not None:
        return 0 if called in within else _in_graph(body, model, operators, within | {called})
    inner = list(subgraphs_of(node))
    if inner:
        return sum(_in_graph(graph, model, operators, within) for graph in inner)
    return int(operators.effect(node) is Effect.RANDOM)


def _live(graph: ir.Graph | ir.Function) -> list[ir.Node]:
    """Return the nodes that outputs of ``graph`` depend on."""
    seen: dict[ir.Node, None] = {}
    stack = [value.producer() for value in graph.outputs]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen[node] = None
        stack += [value.producer() for value in _read_by(node) if value is not None]
    return [node for node in seen if node.graph in (graph, getattr(graph, "graph", graph))]


def _read_by(node: ir.Node) -> list[ir.Value | None]:
    """Return what a node reads, its subgraphs included."""
    read = list(node.inputs)
    for graph in subgraphs_of(node):
        for child in graph:
            read += _read_by(child)
        read.extend(graph.outputs)
    return read
