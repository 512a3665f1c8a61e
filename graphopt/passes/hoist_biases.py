"""Adding constants before an axis is split."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis import Operators, is_annotated
from graphopt.analysis.growing_shapes import GrowingShapes
from graphopt.analysis.operands import operand, reshape_target
from graphopt.ir import constant_array, graphs
from graphopt.rewrite import Contract, Editor, Exact, Facts, Needs, Pass

__all__ = ["HoistBiases"]

_MAX_ELEMENTS = 1 << 16


@dataclass(frozen=True, kw_only=True)
class HoistBiases(Pass):
    """Add a constant before a Reshape splits the last axis, not after it.

    What it does
        TensorFlow gives dense layers of an attention a bias for each head and element, which is
        added when the heads are split. Added to the row before, as a vector, it is the bias of a
        linear layer, which folds and fuses like any other. Every sum is of the same two numbers.
        Functions of the model are left alone.

    When it refuses
        `other-axes`    the Reshape does more than to split the last axis, or is not known to.
        `other-size`    the constant has axes in front of those that the last axis is split into.
        `read-between`  somebody else reads what the Reshape makes.
        `annotated`     a quantization annotation describes one of the results.

    What it keeps
        The model's inputs and outputs, their names, order, types and shapes; every bit of them.

    Cost
        Time O(nodes), after shape inference. Constants of up to 65,536 elements are read.

    Example
        before  (float[B,4] x) => (float[B,2,2] z) <int64[3] t = {0, 2, 2}, float[2,2] b = {1, 2, 3, 4}> { r = Reshape(x, t)  z = Add(r, b) }
        after   (float[B,4] x) => (float[B,2,2] z) <int64[3] t = {0, 2, 2}, float[2,2] b = {1, 2, 3, 4}, float[4] c = {1, 2, 3, 4}> { a = Add(x, c)  z = Reshape(a, t) }

    References
        Keras layer EinsumDense; ONNX operator specification of Reshape.
    """  # noqa: E501 - the example is one line of ONNX text

    name: ClassVar[str] = "hoist-biases"
    contract: ClassVar[Contract] = Contract(numerics=Exact(), is_idempotent=True)
    anchors: ClassVar[frozenset[str] | None] = frozenset({"Reshape"})

    def needs(self, model: ir.Model) -> Needs:  # noqa: ARG002
        """Ask for shapes."""
        return Needs(shapes=True)

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Look at every sum of a Reshape and a constant."""
        operators, shapes = Operators(model), GrowingShapes(facts.shapes)
        for graph in graphs(model):
            for node in () if operators.is_in_function(graph) else graph:
                if node.op_type != "Add" or node.domain or operators.version(node) is None:
                    continue
                for reshaped, bias in (tuple(node.inputs), tuple(reversed(node.inputs))):
                    reshape = reshaped.producer() if reshaped is not None else None
                    if reshape is None or reshape.op_type != "Reshape" or reshape.domain:
                        continue
                    array = constant_array(bias, _MAX_ELEMENTS)
                    if array is not None:
                        _hoist(node, reshape, array, shapes, edit)
                        break


def _hoist(
    node: ir.Node,
    reshape: ir.Node,
    bias: npt.NDArray[Any],
    shapes: GrowingShapes,
    edit: Editor,
) -> None:
    source, result = operand(reshape, 0), node.outputs[0]
    parts = _split_into(reshape, shapes)
    between = reshape.outputs[0]
    if source is None or not parts:
        edit.refuse(node, "other-axes")
        return
    row = _as_row(bias, parts)
    if row is None:
        edit.refuse(node, "other-size")
    elif len(between.uses()) > 1 or between.is_graph_output():
        edit.refuse(node, "read-between")
    elif is_annotated(between) or is_annotated(result):
        edit.refuse(node, "annotated")
    else:
        with edit.rewrite(node, because="a constant added before the last axis is split") as change:
            vector = change.initializer(row, name=f"{result.name}_bias")
            total = change.node("Add", [source, vector], like=source)
            shapes.alias(total, source)
            attributes = dict(reshape.attributes)
            made = change.node(
                "Reshape", [total, *reshape.inputs[1:]], attributes=attributes, like=result
            )
            change.replace(result, made)
            shapes.alias(made, result)
            change.remove(node)
            change.remove(reshape)


def _split_into(reshape: ir.Node, shapes: GrowingShapes) -> tuple[int, ...] | None:
    """Return the sizes that the last axis is split into; all others stay as they are."""
    before, after = shapes.of(operand(reshape, 0)), shapes.of(reshape.outputs[0])
    if before is None or after is None or not before.dims or not after.dims:
        return None
    kept = len(before.dims) - 1
    parts = tuple(dim for dim in after.dims[kept:] if isinstance(dim, int))
    if len(parts) < 2 or kept + len(parts) != len(after.dims):  # noqa: PLR2004
        return None
    if before.dims[-1] != math.prod(parts) or not math.prod(parts):
        return None
    target, allows_zero = reshape_target(reshape) or ((), True)
    copied = [axis for axis, size in enumerate(target) if size == 0 and not allows_zero]
    is_kept = all(
        axis in copied or (before.dims[axis] is not None and before.dims[axis] == after.dims[axis])
        for axis in range(kept)
    )
    return parts if is_kept or kept == 1 else None


def _as_row(bias: npt.NDArray[Any], parts: tuple[int, ...]) -> npt.NDArray[Any] | None:
    """Return the constant as a vector along the axis that is split; `None` where it is more."""
    if bias.size == 1 or bias.ndim > len(parts):
        return None  # a number is added as well after as before
    try:
        return np.broadcast_to(bias, parts).reshape(-1).copy()
    except ValueError:
        return None
