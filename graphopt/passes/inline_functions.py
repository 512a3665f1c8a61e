"""Inlining of functions of the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import onnx_ir as ir

from graphopt.analysis import Operators, is_annotated
from graphopt.analysis.calls import Call, calls_of, remaining_size
from graphopt.rewrite import (
    Bindings,
    Change,
    Contract,
    Editor,
    Exact,
    Facts,
    Pass,
    copy_nodes,
    is_overwritten,
)

__all__ = ["InlineFunctions"]


@dataclass(frozen=True, kw_only=True)
class InlineFunctions(Pass):
    """Put the body of a function in the place of its calls where that leaves no more nodes.

    What it does
        Counts what would be left of the body at each call: constants are weights there, what is
        computed from constants that the call gives can be folded, and what only unread outputs
        need is dropped. A function that is called once always goes; one that is called more often
        goes where all copies together have no more nodes than the body and the calls. Attributes
        that the call gives, or the defaults of the function, take the place of references.

    When it refuses
        `grows-the-graph`    all copies together would have more nodes.
        `shadows-operator`   the function has a name in a domain of the runtime, which may prefer
                             an operator of its own.
        `other-opset`        an operator means another thing in the version that is imported where
                             the call stands.
        `graph-attribute`    the call gives a graph.
        `no-identity`        a sequence or optional has to be copied, which the opset cannot.
        `annotated`          a quantization annotation describes an output of a call.
        `overwritten`        BatchNormalization in training mode updates such an output in place.

    What it keeps
        The model's inputs and outputs, their names, order, types and shapes; every bit of them.
        Random numbers are drawn once for each call, as before.

    Cost
        Time O(nodes + edges) for each level of calls; memory O(nodes). No weight is copied.

    Example
        before  <ir_version: 10, opset_import: ["" : 20, "local" : 1]> g (float[2] x) => (float[2] z) { z = local.f(x) } <domain: "local", opset_import: ["" : 20]> f (a) => (b) { k = Exp(a)  b = Neg(k) }
        after   <ir_version: 10, opset_import: ["" : 20, "local" : 1]> g (float[2] x) => (float[2] z) { k = Exp(x)  z = Neg(k) } <domain: "local", opset_import: ["" : 20]> f (a) => (b) { k = Exp(a)  b = Neg(k) }

    References
        ONNX IR specification, functions; compare onnx-ir `InlinePass`.
    """  # noqa: E501 - the example is one line of ONNX text

    name: ClassVar[str] = "inline-functions"
    contract: ClassVar[Contract] = Contract(numerics=Exact(), is_idempotent=True)

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:  # noqa: ARG002
        """Inline what functions call before the functions themselves."""
        while model.functions and _Inliner(model, edit).run():
            pass  # a function that called another one, and is gone, no longer counts as a caller


_RUNTIME_DOMAINS = ("ai.onnx", "com.microsoft", "com.ms", "org.pytorch")
_IDENTITY_OF_OPTIONALS_SINCE = 16
_INITIALIZERS_ALONE_SINCE = 4


class _Inliner:
    """Decides about each function and inlines its calls, once."""

    def __init__(self, model: ir.Model, edit: Editor) -> None:
        self._model = model
        self._edit = edit
        self._operators = Operators(model)

    def run(self) -> bool:
        """Inline what is worth it; tell whether anything was."""
        has_inlined = False
        calls = calls_of(self._model)
        for identity, places in calls.items():
            function = self._model.functions[identity]
            slug = self._refusal(function, places)
            if slug:
                self._edit.refuse(places[0].node, slug)
                continue
            for call in places:
                self._inline(call, function)
            has_inlined |= all(call.node.graph is None for call in places)
        return has_inlined

    def _refusal(self, function: ir.Function, places: Sequence[Call]) -> str | None:
        if not function.domain or function.domain.startswith(_RUNTIME_DOMAINS):
            return "shadows-operator"
        if any(call.misunderstood(function) is not None for call in places):
            return "other-opset"
        slugs = (_call_refusal(call, function) for call in places)
        slug = next((slug for slug in slugs if slug), None)
        return slug or self._size_refusal(function, places)

    def _size_refusal(self, function: ir.Function, places: Sequence[Call]) -> str | None:
        before = len(places) + sum(1 for _ in function.graph.all_nodes())
        is_old = self._model.ir_version < _INITIALIZERS_ALONE_SINCE
        after = sum(
            remaining_size(
                call,
                function,
                self._operators,
                keeps_constants=is_old or call.graph is not self._model.graph,
            )
            for call in places
        )
        return "grows-the-graph" if len(places) > 1 and after > before else None

    def _inline(self, call: Call, function: ir.Function) -> None:
        node = call.node
        if node.graph is None:
            return
        given = {a.name: a for a in function.attributes.values() if a.value is not None}
        given |= node.attributes
        inputs = [*node.inputs, *(None for _ in function.inputs[len(node.inputs) :])]
        bindings: Bindings = dict(zip(function.inputs, inputs, strict=False))
        because = f"it calls `{function.domain}::{function.name}`"
        with self._edit.rewrite(node, because=because) as change:
            copy_nodes(change, function.graph, bindings, before=node, given=given)
            change.then(partial(_import, call, function))
            copied = set(_copied_outputs(node, function))
            for old, inner in zip(node.outputs, function.outputs, strict=False):
                new = bindings.get(inner)
                if new is not None and (old.uses() or old.is_graph_output()):
                    _replace(change, old, new, is_copied=old in copied)
            change.remove(node)


def _call_refusal(call: Call, function: ir.Function) -> str | None:
    node = call.node
    if any(attribute.type in _GRAPHS for attribute in node.attributes.values()):
        return "graph-attribute"
    if any(is_annotated(value) for value in node.outputs):
        return "annotated"
    if any(is_overwritten(value) for value in node.outputs):
        return "overwritten"
    for value in _copied_outputs(node, function):
        version = call.imports.get("", 1)
        if not isinstance(value.type, ir.TensorType) and version < _IDENTITY_OF_OPTIONALS_SINCE:
            return "no-identity"
    return None


_GRAPHS = frozenset({ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS})


def _copied_outputs(node: ir.Node, function: ir.Function) -> list[ir.Value]:
    """Return what the graph returns that no node of the body can return under its public name."""
    named: set[ir.Value] = set()
    found = []
    for old, new in zip(node.outputs, function.outputs, strict=False):
        if old.is_graph_output():
            if new.producer() is None or new in named:
                found.append(old)
            named.add(new)
    return found


def _replace(change: Change, old: ir.Value, new: ir.Value, *, is_copied: bool) -> None:
    change.replace(old, change.node("Identity", [new], like=old) if is_copied else new)


def _import(call: Call, function: ir.Function) -> None:
    for domain, version in function.opset_imports.items():
        call.imports.setdefault(domain, version)
