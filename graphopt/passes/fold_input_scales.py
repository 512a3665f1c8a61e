"""Folding of constant factors into the weights after them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from graphopt.analysis import Operators, is_annotated
from graphopt.analysis.constant_arithmetic import (
    Replacement,
    Step,
    ends_fusable_arithmetic,
    put_constant,
    scale_step,
)
from graphopt.analysis.layer_inputs import replacements_for
from graphopt.ir import graphs
from graphopt.rewrite import Contract, Editor, Facts, Needs, Pass, Rounding

__all__ = ["FoldInputScales"]


@dataclass(frozen=True, kw_only=True)
class FoldInputScales(Pass):
    """Multiply constant factors into the weights of the layers that follow.

    What it does
        A Mul or Div by a constant, a Neg, or a BatchNormalization in inference mode goes where
        only layers with constant weights read it: its factors, one or one per channel, go into the
        weights of Conv, Gemm and MatMul, and what BatchNormalization adds into the bias of Gemm
        and of a Conv that does not pad. Functions of the model are left alone.

    When it refuses
        `read-elsewhere`  not only such layers read the result.
        `shared-weight`   a weight has other readers and is not small, so that a copy would make the
                          file grow; or a quantization annotation tells its range.
        `padded`          something is added before a layer that pads with zeros, or has no bias.
        `fused-at-load`   it is the last factor of a Gelu or a normalization in arithmetic, which
                          the runtime fuses with it.

    What it keeps
        The model's inputs and outputs, their names, order, types and shapes.

    Cost
        Time O(nodes), after shape inference; constants up to 2^18 elements are read, and weights up
        to 2^22 where something is added before them. Larger weights are multiplied when they are
        read, and no copy of them is kept.

    Example
        before  (float[N,2] x) => (float[N,2] z) <float[2] s = {2, 3}, float[2,2] w = {1, 2, 3, 4}> { y = Mul(x, s)  z = MatMul(y, w) }
        after   (float[N,2] x) => (float[N,2] z) <float[2] s = {2, 3}, float[2,2] w = {1, 2, 3, 4}, float[2,2] v = {2, 4, 9, 12}> { z = MatMul(x, v) }

    References
        Jacob et al., arXiv 1712.05877, section 3.2 (folding).
    """  # noqa: E501 - the example is one line of ONNX text

    name: ClassVar[str] = "fold-input-scales"
    contract: ClassVar[Contract] = Contract(
        numerics=Rounding(1e-4, "products with weights round once more: 5e-7 measured for one"),
        is_idempotent=True,
    )
    anchors: ClassVar[frozenset[str] | None] = frozenset(
        {"BatchNormalization", "Div", "Mul", "Neg"}
    )

    def needs(self, model: ir.Model) -> Needs:  # noqa: ARG002
        """Ask for shapes, which tell what a constant is broadcast along."""
        return Needs(shapes=True)

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Fold every factor, the last in data flow first: the one before may then follow."""
        operators = Operators(model)
        for graph in graphs(model):
            for node in () if operators.is_in_function(graph) else reversed(list(graph)):
                step = scale_step(node, facts.shapes, operators.version(node) or 1)
                if step is not None:
                    _fold(step, edit)


def _fold(step: Step, edit: Editor) -> None:
    result = step.node.outputs[0]
    users = list(result.uses())
    found = [replacements_for(use.node, step.factors, step.summands) for use in users]
    replacements = [one for some in found if isinstance(some, tuple) for one in some]
    if not any(found):
        return  # no layer reads it
    is_seen = result.is_graph_output() or is_annotated(result)
    refusals = [one for one in found if isinstance(one, str)]
    if refusals:
        edit.refuse(step.node, refusals[0])
    elif ends_fusable_arithmetic(step):
        edit.refuse(step.node, "fused-at-load")
    elif is_seen or None in found or any(use.idx for use in users):
        edit.refuse(step.node, "read-elsewhere")
    else:
        _rewrite(step, replacements, edit)


def _rewrite(step: Step, replacements: list[Replacement], edit: Editor) -> None:
    because = f"only layers with constant weights read the {step.node.op_type}"
    with edit.rewrite(step.node, because=because) as change:
        for user, index in step.node.outputs[0].uses():
            change.set_input(user, index, step.source)
        for replacement in replacements:
            put_constant(replacement, change)
        change.remove(step.node)
