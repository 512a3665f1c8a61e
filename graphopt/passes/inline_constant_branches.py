"""Inlining of the branch that is always taken."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis import Operators, is_annotated
from graphopt.analysis.node_keys import NodeKeys
from graphopt.analysis.operands import operand
from graphopt.analysis.trial_runs import contradictory_places
from graphopt.ir import constant_array, nodes, subgraphs_of
from graphopt.rewrite import (
    Change,
    Contract,
    Editor,
    Exact,
    Facts,
    Pass,
    adopt_initializers,
    describe,
    is_overwritten,
    move_nodes,
    repeated_names,
)

__all__ = ["InlineConstantBranches"]

_Known = Mapping[ir.Value, bool]
"""Conditions of which the place where a node stands tells the value."""


@dataclass(frozen=True, kw_only=True)
class InlineConstantBranches(Pass):
    """Replace every If whose outcome is known by the nodes of that branch.

    What it does
        Moves the nodes and weights of a branch to where the If stood: of the branch that a
        constant condition chooses; of the one that an If around it has chosen by the same
        condition already; of either where both are alike.

    When it refuses
        `overridable`      the condition is a constant that a caller may override.
        `annotated`        a quantization annotation describes an output of the If.
        `overwritten`      BatchNormalization in training mode updates an output in place.
        `contradictory`    shape inference, which the runtime runs when it loads a model, would find
                           a contradiction in what reads the result.
        `returned-twice`   the branch returns one value twice: ONNX Runtime gives nothing for the
                           second.

    What it keeps
        The model's inputs and outputs, their names, order, types and shapes; every bit of them.
        What the branch computes is computed as before, random numbers included.

    Cost
        Time O(nodes + edges); memory O(nodes). Reads one element of each condition, and the
        tensors within branches that look alike.

    Example
        before  (float[N] x) => (float[N] z) <bool c = {1}> { z = If(c) < then_branch = t () => (float[N] a) { a = Relu(x) }, else_branch = e () => (float[N] b) { b = Neg(x) }> }
        after   (float[N] x) => (float[N] z) <bool c = {1}> { z = Relu(x) }

    References
        Wegman & Zadeck, Constant propagation with conditional branches, 1991; here without loops.
    """  # noqa: E501 - the example is one line of ONNX text

    name: ClassVar[str] = "inline-constant-branches"
    contract: ClassVar[Contract] = Contract(numerics=Exact(), is_idempotent=True)
    anchors: ClassVar[frozenset[str] | None] = frozenset({"If"})

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:  # noqa: ARG002
        """Inline branches, where shape inference goes on to accept the model."""
        places = contradictory_places(model, _inline_branches)
        if places and not contradictory_places(model, _inline_for_ranges):
            _inline_for_ranges(model, edit, frozenset())
        else:
            _inline_branches(model, edit, places)


def _inline_branches(model: ir.Model, edit: Editor, places: frozenset[str]) -> None:
    """Inline branches but at ``places``, outer ones first: what they make known, inner ones use."""
    inliner = _Inliner(Operators(model), edit, places)
    for graph in (*(function.graph for function in model.functions.values()), model.graph):
        inliner.walk(graph, {})


def _inline_for_ranges(model: ir.Model, edit: Editor, places: frozenset[str]) -> None:
    """Inline branches, and let each Range read as a scalar what an If hands to it.

    A Range takes scalars, and its kernel also a list of one number: a branch may return one. Once
    inlined, shape inference sees it, and so does that of a runtime that inlines by itself.
    """
    for node in nodes(model):
        if node.op_type == "Range" and not node.domain:
            _read_scalars(edit, node)
    _inline_branches(model, edit, places)


def _read_scalars(edit: Editor, node: ir.Node) -> None:
    chosen = [
        (index, value)
        for index, value in enumerate(node.inputs)
        if value is not None and (producer := value.producer()) and _has_branches(producer)
    ]
    if not chosen:
        return
    with edit.rewrite(node, because="a branch may return a list of one number") as change:
        scalar = change.initializer(np.zeros(0, np.int64), name="scalar")
        for index, value in chosen:
            change.set_input(node, index, change.node("Reshape", [value, scalar]))


class _Inliner:
    """Walks graphs in the order in which they run."""

    def __init__(self, operators: Operators, edit: Editor, places: frozenset[str]) -> None:
        self._keys = NodeKeys(operators)
        self._places = places
        self._edit = edit
        self._repeated: frozenset[str] | None = None

    def walk(self, graph: ir.Graph, known: _Known) -> None:
        """Inline what can be inlined in ``graph`` and its subgraphs."""
        for node in tuple(graph):
            self._visit(node, known)

    def _visit(self, node: ir.Node, known: _Known) -> None:
        is_if = _has_branches(node)
        chosen = self._chosen(node, known) if is_if else None
        if chosen is not None:
            moved = tuple(chosen)
            if self._inline(node, chosen, f"always the {_title(node, chosen)} branch"):
                for one in moved:
                    self._visit(one, known)
                return
        for inner, known_there in _scopes(node, known) if is_if else _plain_scopes(node, known):
            self.walk(inner, known_there)
        if is_if and chosen is None and self._is_alike(node):
            self._inline(node, node.attributes["then_branch"].as_graph(), "both branches are alike")

    def _chosen(self, node: ir.Node, known: _Known) -> ir.Graph | None:
        condition = operand(node, 0)
        if condition is None:
            return None
        outcome = known.get(condition)
        if outcome is None:
            if condition.is_graph_input() and condition.is_initializer():
                self._edit.refuse(node, "overridable")
            array = constant_array(condition, 1)
            if array is None or array.size != 1:
                return None
            outcome = bool(array.reshape(-1)[0])
        return node.attributes["then_branch" if outcome else "else_branch"].as_graph()

    def _is_alike(self, node: ir.Node) -> bool:
        branches = subgraphs_of(node)
        sizes = {len(branch) for branch in branches}
        return len(sizes) == 1 and self._keys.are_alike(*branches)

    def _inline(self, node: ir.Node, branch: ir.Graph, because: str) -> bool:
        """Put ``branch`` in the place of ``node``; tell whether that took effect."""
        slug = self._refusal(node, branch)
        if slug:
            self._edit.refuse(node, slug)
            return False
        if self._repeated is None:
            self._repeated = repeated_names(self._edit.model)
        with self._edit.rewrite(node, because=because) as change:
            _replace_by_branch(change, node, branch, self._repeated)
        return node.graph is None

    def _refusal(self, node: ir.Node, branch: ir.Graph) -> str | None:
        if describe(node) in self._places:
            return "contradictory"
        if any(is_annotated(value) for value in node.outputs):
            return "annotated"
        if any(is_overwritten(value) for value in node.outputs):
            return "overwritten"
        return "returned-twice" if len(set(branch.outputs)) < len(branch.outputs) else None


def _has_branches(node: ir.Node) -> bool:
    return node.op_type == "If" and not node.domain and len(subgraphs_of(node)) == 2  # noqa: PLR2004


def _title(node: ir.Node, branch: ir.Graph) -> str:
    return "then" if node.attributes["then_branch"].as_graph() is branch else "else"


def _scopes(node: ir.Node, known: _Known) -> Iterator[tuple[ir.Graph, _Known]]:
    """Yield the branches of an If with what is known in them."""
    condition = operand(node, 0)
    for title, outcome in (("then_branch", True), ("else_branch", False)):
        there = known if condition is None else {**known, condition: outcome}
        yield node.attributes[title].as_graph(), there


def _plain_scopes(node: ir.Node, known: _Known) -> Iterator[tuple[ir.Graph, _Known]]:
    return ((inner, known) for inner in subgraphs_of(node))


def _replace_by_branch(
    change: Change, node: ir.Node, branch: ir.Graph, repeated: frozenset[str]
) -> None:
    outputs, nodes = tuple(branch.outputs), tuple(branch)
    change.then(branch.outputs.clear)  # else its values would go on being returned by it
    adopted = adopt_initializers(change, branch.initializers.values(), repeated)
    move_nodes(change, nodes, node, repeated)
    for old, returned in zip(node.outputs, outputs, strict=True):
        new = adopted.get(returned, returned)
        producer = returned.producer()
        if old.is_graph_output() and (producer is None or producer.graph is not branch):
            new = change.node("Identity", [new], like=old)  # a weight cannot take a public name
        if old.uses() or old.is_graph_output():
            change.replace(old, new)
    change.remove(node)
