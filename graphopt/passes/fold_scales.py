"""Folding constant factors into weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis import Operators, is_annotated
from graphopt.analysis.constant_arithmetic import (
    Step,
    ends_fusable_arithmetic,
    put_constant,
    scale_step,
)
from graphopt.analysis.growing_shapes import GrowingShapes
from graphopt.analysis.scale_paths import Refused, absorbed_above, absorbed_across
from graphopt.ir import graphs
from graphopt.rewrite import (
    Change,
    Contract,
    Editor,
    Facts,
    Needs,
    Pass,
    Rounding,
    can_replace,
)

__all__ = ["FoldScales"]


@dataclass(frozen=True, kw_only=True)
class FoldScales(Pass):
    """Multiply constant factors into the weights, or the other factors, that they follow.

    What it does
        A Mul or Div by a constant, a Neg, or a BatchNormalization in inference mode goes, and its
        factors, one or one per channel, into the weight and bias of the Conv, ConvTranspose, Gemm,
        MatMul, LayerNormalization or Gather before it, or into the constant of another Mul or
        Div. On the way there may be sums with constants, which are scaled too; and, for one number,
        operators that move elements, one part of a Split, and products of two values, where the
        other side may take the factor as well. What BatchNormalization adds becomes an Add, which
        `fold-shifts` takes further. Functions of the model are left alone.

    When it refuses
        `read-elsewhere`   what is to be scaled is read by others too.
        `shared-weight`    the weight has other readers and is not small, so that a copy would make
                           the file grow; or a quantization annotation tells its range.
        `names-an-output`  the result is an output that nothing else can be called like.

    What it keeps
        The model's inputs and outputs, their names, order, types and shapes.

    Cost
        Time O(nodes), after shape inference; constants up to 2^18 elements are read. Larger weights
        are multiplied when they are read, and no copy of them is kept.

    Example
        before  (float[N,2] x) => (float[N,2] z) <float[2,2] w = {1, 2, 3, 4}, float[2] b = {1, 1}, float[2] s = {2, 3}> { y = MatMul(x, w)  t = Add(y, b)  z = Mul(t, s) }
        after   (float[N,2] x) => (float[N,2] z) <float[2,2] w = {1, 2, 3, 4}, float[2] b = {1, 1}, float[2] s = {2, 3}, float[2,2] v = {2, 6, 6, 12}, float[2] c = {2, 3}> { y = MatMul(x, v)  z = Add(y, c) }

    References
        Ioffe and Szegedy, Batch normalization, arXiv 1502.03167, section 3.1; Jacob et al.,
        arXiv 1712.05877, section 3.2 (folding).
    """  # noqa: E501 - the example is one line of ONNX text

    name: ClassVar[str] = "fold-scales"
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
        """Fold every constant factor, the first in data flow first."""
        operators, shapes = Operators(model), GrowingShapes(facts.shapes)
        for graph in graphs(model):
            for node in () if operators.is_in_function(graph) else graph:
                step = scale_step(node, shapes, operators.version(node) or 1)
                if step is not None and not is_annotated(node.outputs[0]):
                    _fold(step, shapes, edit)


def _fold(step: Step, shapes: GrowingShapes, edit: Editor) -> None:
    found = absorbed_above(step.source, step.factors, shapes)
    may_cross = step.summands is None and not ends_fusable_arithmetic(step)
    if not isinstance(found, tuple) and may_cross:
        found = absorbed_across(step.node.outputs[0], step.factors, shapes) or found
    if isinstance(found, Refused):
        edit.refuse(step.node, found.slug)
    if not isinstance(found, tuple):
        return
    result = step.node.outputs[0]
    if step.summands is None and not can_replace(result, step.source):
        edit.refuse(step.node, "names-an-output")
        return
    with edit.rewrite(step.node, because=f"{step.node.op_type} by constants") as change:
        for replacement in found:
            put_constant(replacement, change)
        scaled = step.source
        if step.summands is not None:
            scaled = _shifted(step, shapes, change)
        change.replace(result, scaled)
        change.remove(step.node)


def _shifted(step: Step, shapes: GrowingShapes, change: Change) -> ir.Value:
    known = shapes.of(step.source)
    assert step.summands is not None
    assert known is not None  # or the step would not have been found
    assert known.dtype is not None
    summands = np.asarray(step.summands, known.dtype.numpy())
    name = f"{step.node.name or step.node.op_type}_shift"
    shift = change.initializer(summands, name=name)
    shifted = change.node("Add", [step.source, shift])
    shapes.alias(shifted, step.node.outputs[0])
    return shifted
