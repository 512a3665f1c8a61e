"""Calls of the functions of a model, and what would be left of a function at one of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from graphopt.analysis.operators import Effect, Operators
from graphopt.analysis.reads import values_read
from graphopt.ir import constant_tensor

__all__ = ["Call", "calls_of", "remaining_size"]


@dataclass(frozen=True)
class Call:
    """A node that calls a function.

    Attributes:
        node: The node.
        graph: The main graph, or the body of a function, that it stands in or below.
        imports: The versions of domains there.
    """

    node: ir.Node
    graph: ir.Graph
    imports: dict[str, int]

    def misunderstood(self, function: ir.Function) -> str | None:
        """Return an operator that means another thing here than in ``function``, or ``None``."""
        for node in function.graph.all_nodes():
            there, here = function.opset_imports.get(node.domain), self.imports.get(node.domain)
            # What the caller does not import is imported with the body.
            if here is None or there == here:
                continue
            known = [_since(node, version) for version in (there, here)]
            if known[0] is None or known[0] != known[1]:
                return node.op_type
        return None


def _since(node: ir.Node, version: int | None) -> int | None:
    try:
        schema = onnx.defs.get_schema(node.op_type, version or 1, node.domain)
    except onnx.defs.SchemaError:
        return None
    return int(schema.since_version)


def calls_of(model: ir.Model) -> Mapping[ir.OperatorIdentifier, list[Call]]:
    """Return the calls of each function that can be reached; those that functions call first."""
    found: dict[ir.OperatorIdentifier, list[Call]] = {}
    order: dict[ir.OperatorIdentifier, None] = {}

    def visit(graph: ir.Graph, imports: dict[str, int]) -> None:
        for node in graph.all_nodes():
            called = node.op_identifier()
            if called not in model.functions:
                continue
            is_new = called not in found
            found.setdefault(called, []).append(Call(node, graph, imports))
            if is_new:
                function = model.functions[called]
                visit(function.graph, function.opset_imports)
                order[called] = None

    visit(model.graph, model.opset_imports)
    return {called: found[called] for called in order}


def remaining_size(
    call: Call, function: ir.Function, operators: Operators, *, keeps_constants: bool
) -> int:
    """Return how many nodes would be left of ``function``, inlined in the place of a call.

    What the call gives as constants may be computed beforehand, and what only outputs need that
    nobody reads is removed.

    Args:
        call: The call.
        function: What it calls.
        operators: The operators of the model.
        keeps_constants: Constants count as nodes in the place of the call.
    """
    given = dict(zip(function.inputs, call.node.inputs, strict=False))
    constants = {
        value
        for value in function.inputs
        if given.get(value) is None or constant_tensor(given[value]) is not None
    }
    for node in function.graph:
        is_constant = node.op_type == "Constant" and not node.domain
        if is_constant or _is_foldable(node, constants, operators):
            constants.update(node.outputs)
    pairs = zip(function.outputs, call.node.outputs, strict=False)
    read = [value for value, outer in pairs if outer.uses() or outer.is_graph_output()]
    left = (node for node in _needed(function, read, operators) if node.outputs)
    if not keeps_constants:
        left = (node for node in left if not constants.issuperset(node.outputs))
    return sum(1 + _inner_size(node) for node in left)


def _is_foldable(node: ir.Node, constants: set[ir.Value], operators: Operators) -> bool:
    if node.domain or not node.inputs or operators.effect(node) is not Effect.PURE:
        return False
    return constants.issuperset(values_read(node))


def _needed(function: ir.Function, read: list[ir.Value], operators: Operators) -> Iterator[ir.Node]:
    needed = set(read)
    for node in reversed(function.graph):
        is_needed = not needed.isdisjoint(node.outputs)
        if is_needed or operators.effect(node) is not Effect.PURE:
            needed.update(values_read(node))
            yield node


def _inner_size(node: ir.Node) -> int:
    graphs = (a.value for a in node.attributes.values() if a.type == ir.AttributeType.GRAPH)
    return sum(1 for graph in graphs if graph is not None for _ in graph.all_nodes())
