"""Fusing Gelu with the bias before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import onnx_ir as ir

from graphopt.analysis import Operators
from graphopt.analysis.contrib import CONTRIB_DOMAIN, import_contrib, is_supported_type
from graphopt.analysis.growing_shapes import GrowingShapes
from graphopt.analysis.orphans import orphans
from graphopt.analysis.symbolic_table import SymbolicTable
from graphopt.ir import constant_tensor, graphs
from graphopt.rewrite import Contract, Editor, Facts, Needs, Pass, Rounding, TargetFacts

__all__ = ["FuseBiasGelu"]


class _BiasGelu(NamedTuple):
    source: ir.Value
    bias: ir.Value
    is_exact: bool


@dataclass(frozen=True, kw_only=True)
class FuseBiasGelu(Pass):
    """Turn the sum with a constant vector, and Gelu of it, into one operator of ONNX Runtime.

    What it does
        `Gelu(x + b)` becomes BiasGelu, by erf, or FastGelu with a bias, by tanh. Functions of the
        model are left alone.

    When it refuses
        `bias-shape`      the constant is not provably one number for each element of the last axis.
        `element-type`    the elements are not float, which is what kernels exist for.
        `read-elsewhere`  the sum is read by others too.

    What it keeps
        The model's inputs and outputs, their names, order, types and shapes.

    Cost
        Time O(nodes), after shape inference; memory O(nodes). No weight is read.

    Example
        before  (float[N,2] x) => (float[N,2] z) <float[2] b = {1, 2}> { y = Add(x, b)  z = Gelu(y) }
        after   <ir_version: 10, opset_import: ["" : 20, "com.microsoft" : 1]> g (float[N,2] x) => (float[N,2] z) <float[2] b = {1, 2}> { z = com.microsoft.BiasGelu(x, b) }

    References
        ONNX Runtime contrib operators BiasGelu and FastGelu.
    """  # noqa: E501 - the example is one line of ONNX text

    name: ClassVar[str] = "fuse-bias-gelu"
    contract: ClassVar[Contract] = Contract(
        numerics=Rounding(1e-5, "factors in another order: 1e-7 measured for one, 100 in a row"),
        is_idempotent=True,
    )

    def needs(self, model: ir.Model) -> Needs:  # noqa: ARG002
        """Ask for shapes."""
        return Needs(shapes=True)

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Fuse every Gelu of a sum with a constant."""
        operators = Operators(model)
        shapes = GrowingShapes(SymbolicTable(model, facts.shapes))
        for graph in graphs(model):
            for node in () if operators.is_in_function(graph) else graph:
                found = _find(node)
                if found is None:
                    continue
                slug = _refusal(node, found, shapes, facts.target)
                if slug is not None:
                    edit.refuse(node, slug)
                    continue
                with edit.rewrite(node, because="Gelu of a sum with a constant") as change:
                    import_contrib(model, change)
                    kind = "BiasGelu" if found.is_exact else "FastGelu"
                    inputs = [found.source, found.bias]
                    fused = change.node(kind, inputs, domain=CONTRIB_DOMAIN)
                    change.replace(node.outputs[0], fused)
                    shapes.alias(fused, node.outputs[0])
                    for orphan in orphans([node], inputs, operators):
                        change.remove(orphan)


def _find(node: ir.Node) -> _BiasGelu | None:
    is_exact = _is_exact(node)
    total = node.inputs[0] if is_exact is not None else None
    add = total.producer() if total is not None else None
    if is_exact is None or add is None or add.op_type != "Add" or add.domain:
        return None
    for index in (1, 0):
        bias, source = add.inputs[index], add.inputs[1 - index]
        if bias is not None and source is not None and constant_tensor(bias) is not None:
            return _BiasGelu(source, bias, is_exact)
    return None


def _is_exact(node: ir.Node) -> bool | None:
    """Tell whether a Gelu is by erf; ``None`` where ``node`` is no Gelu that can take a bias."""
    if (node.domain, node.op_type) == ("", "Gelu"):
        return node.attributes.get_string("approximate", "none") == "none"
    if (node.domain, node.op_type) == (CONTRIB_DOMAIN, "Gelu"):
        return True
    is_fast = (node.domain, node.op_type) == (CONTRIB_DOMAIN, "FastGelu")
    return False if is_fast and len(node.inputs) == 1 else None


def _refusal(
    node: ir.Node, found: _BiasGelu, shapes: GrowingShapes, target: TargetFacts
) -> str | None:
    total = node.inputs[0]
    assert total is not None
    if not is_supported_type(total, shapes, target):
        return "element-type"
    source, bias = shapes.of(found.source), shapes.of(found.bias)
    if source is None or bias is None or not source.dims or bias.dims != source.dims[-1:]:
        return "bias-shape"
    is_shared = total.is_graph_output() or len(total.uses()) > 1
    return "read-elsewhere" if is_shared else None
