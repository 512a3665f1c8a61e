"""Unsharing of weights that tie layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from graphopt.analysis import annotation_parameters, is_annotated
from graphopt.compression.shared_weights import SharedWeight, needlessly_shared, shared_weights
from graphopt.ir import constant_tensor
from graphopt.rewrite import Contract, Editor, Exact, Facts, Pass

__all__ = ["UnshareWeights"]


@dataclass(frozen=True, kw_only=True)
class UnshareWeights(Pass):
    """Give layers weights of their own where sharing one ties their units together.

    What it does
        Exporters store equal weights once, zero biases above all. Layers that read one of them can
        only lose the same units. Where they could lose their own, each gets a copy; layers whose
        units are tied by other means go on sharing. Run it before pruning, `share-weights` after.

    When it refuses
        `overridable`      the weight is an input too, so that a caller may give it another value.
        `annotated`        a quantization annotation describes the weight or refers to it by name.
        `names-an-output`  the model returns the weight under its name.

    What it keeps
        The model's inputs and outputs, their names, order, types and shapes; every bit of them.
        Weights whose units cannot go, such as embeddings tied to a classifier, stay shared.

    Cost
        Time O(nodes + elements of their axes), for one copy of the structure. The file grows by
        the weights that are stored again; `share-weights` undoes what pruning left equal.

    Example
        before  (float[B,1] x) => (float[B,1] z)
                <float[1,2] a = {1.0, 2.0}, float[2,1] c = {1.0, 2.0}, float[1,2] d = {3.0, 4.0},
                 float[2,1] e = {3.0, 4.0}, float[2] zero = {0.0, 0.0}>
                { h = MatMul(x, a)  i = Add(h, zero)  j = Relu(i)  y = MatMul(j, c)
                  k = MatMul(y, d)  l = Add(k, zero)  m = Relu(l)  z = MatMul(m, e) }
        after   (float[B,1] x) => (float[B,1] z)
                <float[1,2] a = {1.0, 2.0}, float[2,1] c = {1.0, 2.0}, float[1,2] d = {3.0, 4.0},
                 float[2,1] e = {3.0, 4.0}, float[2] zero = {0.0, 0.0}, float[2] own = {0.0, 0.0}>
                { h = MatMul(x, a)  i = Add(h, zero)  j = Relu(i)  y = MatMul(j, c)
                  k = MatMul(y, d)  l = Add(k, own)  m = Relu(l)  z = MatMul(m, e) }

    References
        The inverse of `share-weights`; ties as in Fang et al. 2023 (DepGraph), section 3.2.
    """

    name: ClassVar[str] = "unshare-weights"
    contract: ClassVar[Contract] = Contract(numerics=Exact(), is_idempotent=True)
    anchors: ClassVar[frozenset[str] | None] = frozenset({"MatMul", "Gemm", "Conv"})

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:  # noqa: ARG002
        """Store weights again for layers that could lose units of their own."""
        _refuse_overridable(model, edit)
        weights = list(_unbound(model, edit))
        for one, classes in needlessly_shared(model, weights).items() if weights else ():
            for readers in classes[1:]:
                _give(one.value, readers, edit)


def _refuse_overridable(model: ir.Model, edit: Editor) -> None:
    for value in model.graph.initializers.values():
        if constant_tensor(value) is None and len({use.node for use in value.uses()}) > 1:
            edit.refuse(value, "overridable")


def _unbound(model: ir.Model, edit: Editor) -> Iterator[SharedWeight]:
    """Yield the shared weights that can be stored again; refuse the others."""
    referred = annotation_parameters(model)
    for one in shared_weights(model):
        if is_annotated(one.value) or one.value.name in referred:
            edit.refuse(one.value, "annotated")
        elif one.value.is_graph_output():
            edit.refuse(one.value, "names-an-output")
        else:
            yield one


def _give(value: ir.Value, readers: list[ir.Node], edit: Editor) -> None:
    tensor = constant_tensor(value)
    assert tensor is not None
    because = f"`{value.name}` ties it to what it could part from"
    with edit.rewrite(readers[0], because=because) as change:
        own = change.initializer(tensor, name=value.name or "weight")
        for node in readers:
            for index, operand in enumerate(node.inputs):
                if operand is value:
                    change.set_input(node, index, own)
