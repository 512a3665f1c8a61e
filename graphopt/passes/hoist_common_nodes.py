"""Hoisting of what both branches of an If compute."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from graphopt.analysis import Effect, Operators, is_annotated
from graphopt.analysis.node_keys import NodeKeys
from graphopt.ir import graphs, nodes, subgraphs_of
from graphopt.rewrite import (
    Contract,
    Editor,
    Exact,
    Facts,
    Pass,
    move_nodes,
    overwritten_by,
    repeated_names,
)

__all__ = ["HoistCommonNodes"]


@dataclass(frozen=True, kw_only=True)
class HoistCommonNodes(Pass):
    """Compute once, before an If, what both of its branches compute.

    What it does
        Moves a node of one branch to before the If where the other branch has a node that applies
        the same operator with the same attributes, bit for bit, to the same values; what reads
        either reads the one that is left. As one of the branches always runs, nothing is computed
        that was not computed before.

    When it refuses
        `random`            it draws random numbers, or trains.
        `unknown-effect`    the operator is of an unknown domain and may do more than compute.
        `names-an-output`   a branch returns the value, which then must be its own.
        `annotated`         a quantization annotation describes an output of one of them.
        `overwritten`       BatchNormalization in training mode updates in place what it reads or
                            what it computes.

    What it keeps
        The model's inputs and outputs, their names, order, types and shapes; every bit of them.

    Cost
        Time O(nodes + edges); memory O(nodes). Reads the tensors in attributes once, no weight.

    Example
        before  (bool c, float[N] x) => (float[N] z) { z = If(c) < then_branch = t () => (float[N] a) { k = Exp(x)  a = Relu(k) }, else_branch = e () => (float[N] b) { l = Exp(x)  b = Neg(l) }> }
        after   (bool c, float[N] x) => (float[N] z) { k = Exp(x)  z = If(c) < then_branch = t () => (float[N] a) { a = Relu(k) }, else_branch = e () => (float[N] b) { b = Neg(k) }> }

    References
        Code hoisting of very busy expressions: Muchnick, Advanced Compiler Design, section 13.5.
    """  # noqa: E501 - the example is one line of ONNX text

    name: ClassVar[str] = "hoist-common-nodes"
    contract: ClassVar[Contract] = Contract(numerics=Exact(), is_idempotent=True)
    anchors: ClassVar[frozenset[str] | None] = frozenset({"If"})

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:  # noqa: ARG002
        """Hoist out of inner Ifs first, so that outer ones find what was hoisted."""
        hoister = _Hoister(Operators(model), edit)
        for graph in graphs(model):
            for node in tuple(graph):
                if node.op_type == "If" and not node.domain:
                    hoister.hoist(node)


class _Hoister:
    """Moves nodes out of the branches of one If after the other."""

    def __init__(self, operators: Operators, edit: Editor) -> None:
        self._operators = operators
        self._keys = NodeKeys(operators)
        self._edit = edit
        self._repeated: frozenset[str] | None = None
        self._overwritten = {value for node in nodes(edit.model) for value in overwritten_by(node)}

    def hoist(self, node: ir.Node) -> None:
        """Move what both branches of ``node`` compute to before it."""
        branches = subgraphs_of(node)
        if len(branches) != 2 or not all(len(branch) for branch in branches):  # noqa: PLR2004
            return
        numbers: dict[Hashable, int] = {}
        here, there = (self._numbered(branch, numbers) for branch in branches)
        left: set[ir.Value] = set()  # values of nodes that both compute and that stay
        for number, alike in here.items():
            others = there.get(number)
            if others is None:
                continue
            both = [*alike, *others]
            slug = self._refusal(both, left)
            if slug:
                self._edit.refuse(alike[0], slug)
            if slug is not None or not self._move(node, both):
                left.update(value for one in both for value in one.outputs)

    def _numbered(self, branch: ir.Graph, numbers: dict[Hashable, int]) -> dict[int, list[ir.Node]]:
        """Return the nodes of a branch by a number that nodes share which compute the same."""
        found: dict[int, list[ir.Node]] = {}
        names: dict[ir.Value, Hashable] = {}
        for node in branch:
            key = self._keys.of(node, names)
            number = numbers.setdefault(key, len(numbers))
            found.setdefault(number, []).append(node)
            names.update((value, (number, index)) for index, value in enumerate(node.outputs))
        return found

    def _refusal(self, alike: list[ir.Node], left: set[ir.Value]) -> str | None:
        """Return why the nodes stay, in a word; in an empty one where it was said before."""
        values = {value for node in alike for value in (*node.inputs, *node.outputs)}
        effect = self._operators.effect(alike[0])
        if not left.isdisjoint(values):
            return ""
        if effect is not Effect.PURE:
            return "random" if effect is Effect.RANDOM else "unknown-effect"
        if not self._overwritten.isdisjoint(values):
            return "overwritten"
        outputs = [value for node in alike for value in node.outputs]
        if any(value.is_graph_output() for value in outputs):
            return "names-an-output"
        return "annotated" if any(is_annotated(value) for value in outputs) else None

    def _move(self, node: ir.Node, alike: list[ir.Node]) -> bool:
        """Move the first of nodes that are alike to before ``node``; tell whether it went."""
        if self._repeated is None:
            self._repeated = repeated_names(self._edit.model)
        moved, *others = alike
        with self._edit.rewrite(node, because=f"both branches compute `{moved.name}`") as change:
            move_nodes(change, (moved,), node, self._repeated)
            for other in others:
                for old, new in zip(other.outputs, moved.outputs, strict=True):
                    change.replace(old, new)
                change.remove(other)
        return moved.graph is node.graph
