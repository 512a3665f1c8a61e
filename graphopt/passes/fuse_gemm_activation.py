"""Fusing fully connected layers with the activation after them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import onnx_ir as ir

from graphopt.analysis import Operators
from graphopt.analysis.contrib import CONTRIB_DOMAIN, CPU_PROVIDER, import_contrib
from graphopt.analysis.orphans import orphans
from graphopt.analysis.readers import only_reader
from graphopt.ir import graphs
from graphopt.rewrite import Contract, Editor, Facts, Needs, Pass, Rounding

__all__ = ["FuseGemmActivation"]

# The kernel knows no defaults, so that parameters are always written.
_PARAMETERS: Mapping[str, Mapping[str, float]] = {
    "Elu": {"alpha": 1.0},
    "HardSigmoid": {"alpha": 0.2, "beta": 0.5},
    "LeakyRelu": {"alpha": 0.01},
    "Relu": {},
    "Sigmoid": {},
    "Softplus": {},
    "Softsign": {},
    "Tanh": {},
    "ThresholdedRelu": {"alpha": 1.0},
}


@dataclass(frozen=True, kw_only=True)
class FuseGemmActivation(Pass):
    """Turn a fully connected layer and its activation into one operator of ONNX Runtime.

    What it does
        `Relu(Gemm(x, w, b))` becomes FusedGemm, and so do Sigmoid, Tanh, Elu, LeakyRelu,
        HardSigmoid, Softplus, Softsign and ThresholdedRelu, where nobody else reads what is
        computed on the way. Functions of the model are left alone.

    When it refuses
        `element-type`  the elements are not float, which is what the kernel exists for.
        `provider`      only the CPU provider has the kernel, and the target uses another one.

    What it keeps
        The model's inputs and outputs, their names, order, types and shapes.

    Cost
        Time O(nodes), after shape inference; memory O(nodes). No weight is read.

    Example
        before  (float[N,2] x) => (float[N,1] z) <float[2,1] w = {1, 2}, float[1] b = {3}> { y = Gemm(x, w, b)  z = Relu(y) }
        after   <ir_version: 10, opset_import: ["" : 20, "com.microsoft" : 1]> g (float[N,2] x) => (float[N,1] z) <float[2,1] w = {1, 2}, float[1] b = {3}> { z = com.microsoft.FusedGemm<activation="Relu">(x, w, b) }

    References
        ONNX Runtime contrib operator FusedGemm; it does the same itself when it loads a model.
    """  # noqa: E501 - the example is one line of ONNX text

    name: ClassVar[str] = "fuse-gemm-activation"
    contract: ClassVar[Contract] = Contract(
        numerics=Rounding(1e-6, "one kernel for both steps; no difference measured"),
        is_idempotent=True,
    )
    anchors: ClassVar[frozenset[str] | None] = frozenset({"Gemm"})

    def needs(self, model: ir.Model) -> Needs:  # noqa: ARG002
        """Ask for shapes, which come with types."""
        return Needs(shapes=True)

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Fuse every fully connected layer with what follows it."""
        operators = Operators(model)
        for graph in graphs(model):
            if operators.is_in_function(graph):
                continue
            for node in [node for node in graph if node.op_type == "Gemm" and not node.domain]:
                activation = only_reader(node.outputs[0])
                if activation is None or activation.op_type not in _PARAMETERS:
                    continue
                slug = _refusal(node, facts)
                if slug is not None:
                    edit.refuse(node, slug)
                else:
                    _fuse(node, activation, operators, edit)


def _refusal(gemm: ir.Node, facts: Facts) -> str | None:
    known = facts.shapes.of(gemm.outputs[0])
    if known is None or known.dtype != ir.DataType.FLOAT:
        return "element-type"
    return None if facts.target.provider == CPU_PROVIDER else "provider"


def _fuse(gemm: ir.Node, activation: ir.Node, operators: Operators, edit: Editor) -> None:
    attributes: dict[str, Any] = {**gemm.attributes, "activation": activation.op_type}
    for name, default in _PARAMETERS[activation.op_type].items():
        attributes[f"activation_{name}"] = activation.attributes.get_float(name, default)
    with edit.rewrite(activation, because="fully connected layer and its activation") as change:
        import_contrib(edit.model, change)
        fused = change.node("FusedGemm", gemm.inputs, attributes=attributes, domain=CONTRIB_DOMAIN)
        change.replace(activation.outputs[0], fused)
        kept = [value for value in gemm.inputs if value is not None]
        for orphan in orphans([activation], kept, operators):
            change.remove(orphan)
