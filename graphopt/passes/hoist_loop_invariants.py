"""Hoisting of what every trip of a loop computes again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from graphopt.analysis import Effect, Operators, is_annotated
from graphopt.analysis.certain_success import CertainSuccess
from graphopt.analysis.loops import certainly_runs
from graphopt.analysis.reads import values_read
from graphopt.ir import graphs, nodes, subgraphs_of
from graphopt.rewrite import (
    Contract,
    Editor,
    Exact,
    Facts,
    Needs,
    Pass,
    adopt_initializers,
    move_nodes,
    overwritten_by,
    repeated_names,
)

__all__ = ["HoistLoopInvariants"]


@dataclass(frozen=True, kw_only=True)
class HoistLoopInvariants(Pass):
    """Compute once, before a Loop or Scan, what each of its trips would compute again.

    What it does
        Moves a node of the body to before the loop where everything that it reads comes from
        outside the body, or was moved there; out of several loops where it can. Where the loop is
        not certain to run at least once, only nodes that cannot fail are moved: the cost of one
        trip is then all that can be lost.

    When it refuses
        `may-fail`          the loop may run zero times, and the node might stop the whole run.
        `random`            it draws random numbers, or trains.
        `unknown-effect`    the operator is of an unknown domain and may do more than compute.
        `names-an-output`   the body returns the value, which then must be its own.
        `annotated`         a quantization annotation describes one of its outputs.
        `overwritten`       BatchNormalization in training mode updates in place what it reads or
                            what it computes.

    What it keeps
        The model's inputs and outputs, their names, order, types and shapes; every bit of them.

    Cost
        Time O(nodes + edges), after shape inference; memory O(nodes). No weight is read.

    Example
        before  (int64 n, float[2,2] x, float[2,2] y) => (float[2,2] z) { z = Loop(n, "", x) <body = b (int64 i, bool c, float[2,2] s) => (bool d, float[2,2] r) { d = Identity(c)  w = Exp(y)  r = Add(s, w) }> }
        after   (int64 n, float[2,2] x, float[2,2] y) => (float[2,2] z) { w = Exp(y)  z = Loop(n, "", x) <body = b (int64 i, bool c, float[2,2] s) => (bool d, float[2,2] r) { d = Identity(c)  r = Add(s, w) }> }

    References
        Aho, Lam, Sethi, Ullman, Compilers, 2nd edition, section 9.5 (partial redundancy).
    """  # noqa: E501 - the example is one line of ONNX text

    name: ClassVar[str] = "hoist-loop-invariants"
    contract: ClassVar[Contract] = Contract(numerics=Exact(), is_idempotent=True)
    anchors: ClassVar[frozenset[str] | None] = frozenset({"Loop", "Scan"})

    def needs(self, model: ir.Model) -> Needs:  # noqa: ARG002
        """Ask for shapes: they tell what cannot fail."""
        return Needs(shapes=True)

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Hoist out of inner loops first, so that outer ones find what was hoisted."""
        hoister = _Hoister(Operators(model), facts, edit)
        for graph in graphs(model):
            for node in tuple(graph):
                if node.op_type in ("Loop", "Scan") and not node.domain:
                    for body in subgraphs_of(node):
                        hoister.hoist(node, body)


class _Hoister:
    """Moves nodes out of one loop after the other."""

    def __init__(self, operators: Operators, facts: Facts, edit: Editor) -> None:
        self._operators = operators
        self._shapes = facts.shapes
        self._success = CertainSuccess(operators, facts.shapes)
        self._edit = edit
        self._repeated: frozenset[str] | None = None
        self._overwritten = {value for node in nodes(edit.model) for value in overwritten_by(node)}

    def hoist(self, loop: ir.Node, body: ir.Graph) -> None:
        """Move what does not vary out of ``body``."""
        varying = {*body.inputs, *(value for node in body for value in node.outputs)}
        runs = certainly_runs(loop, self._shapes, self._operators)
        for node in tuple(body):
            read = set(values_read(node))
            if not varying.isdisjoint(read):
                continue
            slug = self._refusal(node, read, is_certain=runs)
            if slug:
                self._edit.refuse(node, slug)
            elif self._move(node, read, loop, body):
                varying.difference_update(node.outputs)

    def _refusal(self, node: ir.Node, read: set[ir.Value], *, is_certain: bool) -> str | None:
        effect = self._operators.effect(node)
        if effect is not Effect.PURE:
            return "random" if effect is Effect.RANDOM else "unknown-effect"
        if not self._overwritten.isdisjoint((*read, *node.outputs)):
            return "overwritten"
        if any(value.is_graph_output() for value in node.outputs):
            return "names-an-output"
        if any(is_annotated(value) for value in node.outputs):
            return "annotated"
        return None if is_certain or self._success.of(node) else "may-fail"

    def _move(self, node: ir.Node, read: set[ir.Value], loop: ir.Node, body: ir.Graph) -> bool:
        """Move ``node`` with the weights of the body that it reads; tell whether it went."""
        if self._repeated is None:
            self._repeated = repeated_names(self._edit.model)
        weights = [value for value in body.initializers.values() if value in read]
        with self._edit.rewrite(loop, because=f"`{node.name}` is the same in every trip") as change:
            adopt_initializers(change, weights, self._repeated)
            move_nodes(change, (node,), loop, self._repeated)
        return node.graph is loop.graph
