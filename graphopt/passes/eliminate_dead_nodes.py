"""Dead-node elimination."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import Any, ClassVar

import onnx_ir as ir

from graphopt.analysis import Effect, Operators, annotation_parameters
from graphopt.analysis.liveness import Liveness
from graphopt.ir import (
    graphs,
    may_hold_graphs,
    node_list,
    nodes,
    operators_of,
    subgraphs_of,
    use_count,
)
from graphopt.rewrite import Contract, Editor, Exact, Facts, Pass, option

__all__ = ["EliminateDeadNodes"]


@dataclass(frozen=True, kw_only=True)
class EliminateDeadNodes(Pass):
    """Remove every node and weight whose value nobody can observe.

    What it does
        Marks what the outputs of the model depend on, captures of subgraphs included, and of bodies
        only what an output that is read or the next trip needs. Removes the other nodes, the last
        first; then initializers that nobody reads, functions that nobody calls, and imports of
        domains that nothing is of.

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
        _sweep_functions(model, edit)
        live = self._liveness(model, edit)
        for function in model.functions.values():
            self._sweep(function.graph, live, edit)
        self._sweep(model.graph, live, edit)
        self._sweep_initializers(model, edit)
        _sweep_functions(model, edit)  # those that only dead nodes called
        _sweep_imports(model, edit)

    def _liveness(self, model: ir.Model, edit: Editor) -> Liveness:
        """Return what must stay, refusals included."""
        operators = Operators(model)
        live = Liveness(model, operators)
        if all(map(self._is_plain, repeat(operators), operators_of(model))):
            return live  # nearly always
        random: list[ir.Node] = []
        for node in nodes(model):
            effect = operators.effect(node)
            if effect is Effect.RANDOM and "seed" not in node.attributes:
                random.append(node)
            slug = self._refusal(node, effect)
            if slug and node not in live.nodes:
                edit.refuse(node, slug)
                live.mark_node(node)
        if any(node in live.nodes for node in random):
            for node in random:
                if node not in live.nodes:
                    edit.refuse(node, "random-stream")
                    live.mark_node(node)
        return live

    def _is_plain(self, operators: Operators, operator: tuple[str, str]) -> bool:
        """Tell of the nodes of an operator that the only reason to keep one is that it is read."""
        return operator[1] not in self.keep_ops and operators.is_plainly_pure(*operator)

    def _refusal(self, node: ir.Node, effect: Effect) -> str | None:
        if node.op_type in self.keep_ops:
            return "kept-by-user"
        return "unknown-effect" if effect is Effect.UNKNOWN else None

    def _sweep(self, graph: ir.Graph, live: Liveness, edit: Editor) -> None:
        """Remove the dead nodes of ``graph``, readers before what they read."""
        for node in reversed(node_list(graph)):
            if node in live.nodes:
                if may_hold_graphs(node):
                    for inner in subgraphs_of(node):
                        self._sweep(inner, live, edit)
            elif not any(value.uses() or value.is_graph_output() for value in node.outputs):
                # what a body returns stays as long as that output is there
                edit.remove(node, because="nobody can observe it")

    def _sweep_initializers(self, model: ir.Model, edit: Editor) -> None:
        referred = annotation_parameters(model)
        for graph in graphs(model):
            for value in _unread(graph):
                if value.is_graph_input():
                    edit.refuse(value, "overridable")
                elif value.name in referred:
                    edit.refuse(value, "annotated")
                else:
                    edit.remove_initializer(value, because="nobody reads this weight")


def _unread(graph: ir.Graph) -> list[ir.Value]:
    return [
        value
        for value in graph.initializers.data.values()
        if not use_count(value) and not value.is_graph_output()
    ]


def _sweep_functions(model: ir.Model, edit: Editor) -> None:
    """Remove the functions that neither the graph nor a function that it needs calls."""
    called: set[ir.OperatorIdentifier] = set()
    pending = [model.graph] if model.functions else []
    while pending:
        for node in pending.pop().all_nodes():
            identity = node.op_identifier()
            if identity in model.functions and identity not in called:
                called.add(identity)
                pending.append(model.functions[identity].graph)
    for identity, function in tuple(model.functions.items()):
        if identity not in called:
            with edit.rewrite(function.graph, because="nobody calls this function") as change:
                change.then(partial(_forget, model.functions, identity), changed=(function.name,))


def _sweep_imports(model: ir.Model, edit: Editor) -> None:
    """Forget the versions of domains that no operator is of, and no function."""
    owners = [(model.graph, model.opset_imports)]
    owners += [(function.graph, function.opset_imports) for function in model.functions.values()]
    for graph, imports in owners:
        if set(imports) == {""}:
            continue
        used = {"", *(node.domain for node in graph.all_nodes())}
        if graph is model.graph:
            used.update(function.domain for function in model.functions.values())
        for domain in [domain for domain in imports if domain not in used]:
            with edit.rewrite(graph, because=f"nothing is of domain `{domain}`") as change:
                change.then(partial(_forget, imports, domain), changed=(f"opset {domain}",))


def _forget(entries: MutableMapping[Any, Any], key: object) -> None:
    del entries[key]
