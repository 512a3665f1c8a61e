"""Dead-node elimination."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from graphopt.analysis import Effect, Operators, annotation_parameters
from graphopt.ir import graphs, nodes, subgraphs_of
from graphopt.rewrite import Contract, Editor, Exact, Facts, Pass, option

__all__ = ["EliminateDeadNodes"]


@dataclass(frozen=True, kw_only=True)
class EliminateDeadNodes(Pass):
    """Remove every node and weight whose value nobody can observe.

    What it does
        Marks what the outputs of the model depend on, captures of subgraphs included, and removes
        the other nodes, the last first. Then removes initializers that nobody reads.

    When it refuses
        `kept-by-user`     the operator is named in `keep_ops`.
        `random-stream`    it draws from the shared random stream, and so does a node that is
                           needed: removing it would shift those draws.
        `unknown-effect`   the operator is of an unknown domain and may do more than compute.
        `overridable`      the unused weight is an input of the model too, so part of its interface.
        `annotated`        a quantization annotation refers to the unused weight.

    What it keeps
        The model's inputs and outputs, their names, order, types and shapes; every bit of them.

    Cost
        Time O(nodes + edges); memory O(nodes). No weight is read.

    Example
        before  (float[N] x) => (float[N] z) { u = Exp(x)  z = Relu(x) }
        after   (float[N] x) => (float[N] z) { z = Relu(x) }

    References
        Mark and sweep; compare xDSL `dce` and onnx-ir `RemoveUnusedNodesPass`.
    """

    name: ClassVar[str] = "eliminate-dead-nodes"
    contract: ClassVar[Contract] = Contract(numerics=Exact(), is_idempotent=True)

    keep_ops: tuple[str, ...] = option((), help="operators never removed", unit="op_type")

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:  # noqa: ARG002
        """Remove what is dead."""
        live = self._live_nodes(model, edit)
        for function in model.functions.values():
            self._sweep(function.graph, live, edit)
        self._sweep(model.graph, live, edit)
        self._sweep_initializers(model, edit)

    def _live_nodes(self, model: ir.Model, edit: Editor) -> set[ir.Node]:
        """Return the nodes that must stay, refusals among them."""
        marker = _Marker()
        for graph in (model.graph, *(function.graph for function in model.functions.values())):
            marker.mark_outputs(graph)
        operators = Operators(model)
        random: list[ir.Node] = []
        for node in nodes(model):
            effect = operators.effect(node)
            if effect is Effect.RANDOM and "seed" not in node.attributes:
                random.append(node)
            slug = self._refusal(node, effect)
            if slug and node not in marker.live:
                edit.refuse(node, slug)
                marker.mark(node)
        if any(node in marker.live for node in random):
            for node in random:
                if node not in marker.live:
                    edit.refuse(node, "random-stream")
                    marker.mark(node)
        return marker.live

    def _refusal(self, node: ir.Node, effect: Effect) -> str | None:
        if node.op_type in self.keep_ops:
            return "kept-by-user"
        return "unknown-effect" if effect is Effect.UNKNOWN else None

    def _sweep(self, graph: ir.Graph, live: set[ir.Node], edit: Editor) -> None:
        """Remove the dead nodes of ``graph``, readers before what they read."""
        for node in reversed(graph):
            if node not in live:
                edit.remove(node, because="nobody can observe it")
                continue
            for inner in subgraphs_of(node):
                self._sweep(inner, live, edit)

    def _sweep_initializers(self, model: ir.Model, edit: Editor) -> None:
        referred = annotation_parameters(model)
        for graph in graphs(model):
            for value in _unread(graph):
                if value.is_graph_input():
                    edit.refuse(value, "overridable")
                elif value.name in referred:
                    edit.refuse(value, "annotated")
                else:
                    with edit.rewrite(value, because="nobody reads this weight") as change:
                        change.remove_initializer(value)


def _unread(graph: ir.Graph) -> list[ir.Value]:
    return [
        value
        for value in graph.initializers.values()
        if not value.is_graph_output() and not value.uses()
    ]


class _Marker:
    """Finds what a node or output depends on."""

    def __init__(self) -> None:
        self.live: set[ir.Node] = set()

    def mark_outputs(self, graph: ir.Graph) -> None:
        """Mark what the outputs of ``graph`` depend on."""
        for value in graph.outputs:
            producer = value.producer()
            if producer is not None:
                self.mark(producer)

    def mark(self, node: ir.Node) -> None:
        """Mark ``node`` and what it depends on."""
        pending = [node]
        while pending:
            current = pending.pop()
            if current in self.live:
                continue
            self.live.add(current)
            pending.extend(_needed_by(current))


def _needed_by(node: ir.Node) -> Iterator[ir.Node]:
    values = [value for value in node.inputs if value is not None]
    for graph in subgraphs_of(node):
        values.extend(graph.outputs)
    for value in values:
        producer = value.producer()
        if producer is not None:
            yield producer
