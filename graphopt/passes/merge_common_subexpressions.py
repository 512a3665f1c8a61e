"""Merging of nodes that compute the same."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import ClassVar

import onnx_ir as ir

from graphopt.analysis import Effect, Operators, is_annotated
from graphopt.analysis.node_keys import NodeKeys
from graphopt.ir import nodes, subgraphs_of
from graphopt.rewrite import Contract, Editor, Exact, Facts, Pass, can_replace, overwritten_by

__all__ = ["MergeCommonSubexpressions"]


@dataclass(frozen=True, kw_only=True)
class MergeCommonSubexpressions(Pass):
    """Compute once what several nodes compute.

    What it does
        Lets the readers of a node read an earlier node instead that applies the same operator with
        the same attributes, bit for bit, to the same inputs, and has as many outputs. Looks
        through scopes: a node of a subgraph is merged into one that was computed outside before.
        Nodes with subgraphs are merged where these are alike and capture the same values.

    When it refuses
        `random`           it draws random numbers, or trains.
        `unknown-effect`   the operator is of an unknown domain and may do more than compute.
        `names-an-output`  the graph returns the values of both nodes, or the other node is outside
                           the subgraph that returns this one.
        `annotated`        a quantization annotation describes one of its outputs.
        `overwritten`      BatchNormalization in training mode updates an output in place.

    What it keeps
        The model's inputs and outputs, their names, order, types and shapes; every bit of them:
        0.0 and -0.0 are different, and so are NaN with different payloads.

    Cost
        Time O(nodes + edges); memory O(nodes). Reads the tensors in attributes once, no weight.

    Example
        before  (float[N] x) => (float[N] z) { a = Exp(x)  b = Exp(x)  z = Add(a, b) }
        after   (float[N] x) => (float[N] z) { a = Exp(x)  z = Add(a, a) }

    References
        Global value numbering over a directed acyclic graph (Cocke & Schwartz 1970; Click 1995).
    """

    name: ClassVar[str] = "merge-common-subexpressions"
    contract: ClassVar[Contract] = Contract(numerics=Exact(), is_idempotent=True)

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:  # noqa: ARG002
        """Merge nodes, in order, so that what reads merged nodes can be merged in the same walk."""
        operators = Operators(model)
        for graph in (*(function.graph for function in model.functions.values()), model.graph):
            _Merger(operators, NodeKeys(operators), edit).walk(graph)


@dataclass
class _Scope:
    """What has been computed so far in one graph.

    Attributes:
        unkeyed: By operator and inputs the only node of the kind; ``None``: they are in `keyed`.
        keyed: Nodes by their keys.
    """

    unkeyed: dict[tuple[str, str, tuple[ir.Value | None, ...]], ir.Node | None] = field(
        default_factory=dict
    )
    keyed: dict[Hashable, ir.Node] = field(default_factory=dict)


class _Merger:
    """Walks a graph and its subgraphs with the table of what has been computed so far."""

    def __init__(self, operators: Operators, keys: NodeKeys, edit: Editor) -> None:
        self._operators = operators
        self._keys = keys
        self._edit = edit
        self._overwritten = {value for node in nodes(edit.model) for value in overwritten_by(node)}
        self._scopes: list[_Scope] = []

    def walk(self, graph: ir.Graph) -> None:
        """Merge the nodes of ``graph``; what it computes is forgotten where its scope ends."""
        self._scopes.append(_Scope())
        for node in graph:
            for inner in subgraphs_of(node):
                self.walk(inner)
            earlier = self._earlier(node)
            if earlier is not None:
                self._merge(node, earlier)
        self._scopes.pop()

    def _earlier(self, node: ir.Node) -> ir.Node | None:
        """Return a node that computes the same; where there is none, ``node`` is remembered.

        Keys take long to make, and most nodes are alone with their inputs.
        """
        rough = (node.op_type, node.domain, tuple(node.inputs))
        similar = [scope for scope in self._scopes if rough in scope.unkeyed]
        if not similar:
            self._scopes[-1].unkeyed[rough] = node
            return None
        for scope in similar:
            other = scope.unkeyed[rough]
            if other is not None:
                scope.unkeyed[rough] = None
                scope.keyed[self._keys.of(other)] = other
        key = self._keys.of(node)
        found = next((scope.keyed[key] for scope in similar if key in scope.keyed), None)
        if found is None:
            self._scopes[-1].unkeyed.setdefault(rough, None)
            self._scopes[-1].keyed[key] = node
        return found

    def _merge(self, node: ir.Node, earlier: ir.Node) -> None:
        slug = self._refusal(node, earlier)
        if slug:
            self._edit.refuse(node, slug)
            return
        with self._edit.rewrite(node, because=f"the same as `{earlier.name}`") as change:
            for old, new in zip(node.outputs, earlier.outputs, strict=True):
                change.replace(old, new)
            change.remove(node)

    def _refusal(self, node: ir.Node, earlier: ir.Node) -> str | None:
        effect = self._operators.effect(node)
        if effect is not Effect.PURE:
            return "random" if effect is Effect.RANDOM else "unknown-effect"
        if any(is_annotated(value) for value in (*node.outputs, *earlier.outputs)):
            return "annotated"
        if not self._overwritten.isdisjoint((*node.outputs, *earlier.outputs)):
            return "overwritten"
        pairs = zip(node.outputs, earlier.outputs, strict=True)
        if not all(can_replace(old, new) for old, new in pairs):
            return "names-an-output"
        return None
