"""Einsum as the products and sums that it is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis import Operators, is_annotated
from graphopt.analysis.einsum_equations import Contraction, Equation, contractions, parse_equation
from graphopt.analysis.growing_shapes import GrowingShapes
from graphopt.ir import constant_tensor, graphs
from graphopt.rewrite import Change, Contract, Editor, Facts, Needs, Pass, Rounding, ShapeTable

__all__ = ["DecomposeEinsum"]

Sizes = Mapping[str, int | str | None]
_AXES_ARE_INPUT_SINCE = 13
_PAIR = 2
_FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE)


@dataclass(frozen=True, kw_only=True)
class DecomposeEinsum(Pass):
    """Turn Einsum into MatMul, Mul, ReduceSum and Transpose.

    What it does
        An Einsum of one operand becomes ReduceSum and Transpose, whichever are needed. One of two
        becomes a MatMul, with a Transpose where an operand or the result has its axes in another
        order, and a Reshape where several axes of known sizes are summed over, or several of a
        constant stay. Where nothing is summed over it becomes Mul, and where all else is shared,
        Mul and ReduceSum. The operator of ONNX Runtime does the same at a higher price, every time
        anew. Functions of the model are left alone.

    When it refuses
        `equation`        it has an ellipsis, a diagonal, or a label that is summed over in one of
                          two operands alone.
        `operands`        there are more than two.
        `element-type`    the elements are not float or double.
        `unknown-sizes`   sizes that are summed over are not provably equal, so that one may be 1,
                          which Einsum repeats; or axes to be joined have unknown sizes.

    What it keeps
        The model's inputs and outputs, their names, order, types and shapes.

    Cost
        Time O(nodes), after shape inference; memory O(1). No weight is read.

    Example
        before  (float[B,I,J] x, float[B,J,K] y) => (float[B,I,K] z) { z = Einsum<equation="bij,bjk->bik">(x, y) }
        after   (float[B,I,J] x, float[B,J,K] y) => (float[B,I,K] z) { z = MatMul(x, y) }

    References
        ONNX operator specification of Einsum; NumPy, `einsum`.
    """  # noqa: E501 - the example is one line of ONNX text

    name: ClassVar[str] = "decompose-einsum"
    contract: ClassVar[Contract] = Contract(
        numerics=Rounding(1e-4, "sums in another order: 2e-7 measured for one"),
        is_idempotent=True,
    )
    anchors: ClassVar[frozenset[str] | None] = frozenset({"Einsum"})

    def needs(self, model: ir.Model) -> Needs:  # noqa: ARG002
        """Ask for shapes."""
        return Needs(shapes=True)

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Decompose every Einsum."""
        operators, shapes = Operators(model), GrowingShapes(facts.shapes)
        for graph in graphs(model):
            for node in () if operators.is_in_function(graph) else graph:
                if (node.domain, node.op_type) != ("", "Einsum") or is_annotated(node.outputs[0]):
                    continue
                version = operators.version(node) or 1
                slug = _decompose(node, shapes, edit, has_axes_input=_takes_axes(version))
                if slug is not None:
                    edit.refuse(node, slug)


def _takes_axes(version: int) -> bool:
    return version >= _AXES_ARE_INPUT_SINCE


def _decompose(
    node: ir.Node, shapes: GrowingShapes, edit: Editor, *, has_axes_input: bool
) -> str | None:
    """Decompose one Einsum, or return why not."""
    plan = _plan(node, shapes)
    if isinstance(plan, str):
        return plan
    with edit.rewrite(node, because=f"Einsum of {len(plan.operands)}") as change:
        result = _Builder(change, has_axes_input=has_axes_input).build(plan)
        change.replace(node.outputs[0], result)
        shapes.alias(result, node.outputs[0])  # the next Einsum may be of this one
        change.remove(node)
    return None


def _plan(node: ir.Node, shapes: ShapeTable) -> _Plan | str:
    attribute = node.attributes.get("equation")
    is_known = attribute is not None and not attribute.is_ref()
    equation = parse_equation(attribute.as_string()) if attribute is not None and is_known else None
    operands = [value for value in node.inputs if value is not None]
    if equation is None or len(equation.inputs) != len(operands):
        return "equation"
    if len(operands) > _PAIR:
        return "operands"
    types = [shapes.of(value) for value in operands]
    if any(one is None or one.dtype not in _FLOATS for one in types):
        return "element-type"
    sized = zip(operands, equation.inputs, strict=True)
    found = [_sizes(value, labels, shapes) for value, labels in sized]
    sizes = [one for one in found if one is not None]
    if len(operands) == 1:
        return _Plan(equation, operands)
    if next(contractions(equation), None) is None:
        return "equation"
    return _planned(equation, operands, sizes)


def _sizes(value: ir.Value, labels: str, shapes: ShapeTable) -> Sizes | None:
    known = shapes.of(value)
    if known is None or known.dims is None or len(known.dims) != len(labels):
        return None
    return dict(zip(labels, known.dims, strict=True))


@dataclass(frozen=True)
class _Plan:
    """What to compute.

    Attributes:
        equation: The equation.
        operands: Its operands.
        contraction: How two of them are multiplied.
        joined: Size of all summed labels together, where they are joined to one axis.
        columns: Sizes of the columns, where they are joined to one axis.
    """

    equation: Equation
    operands: list[ir.Value]
    contraction: Contraction | None = None
    joined: int | None = None
    columns: tuple[int, ...] | None = None


def _planned(equation: Equation, operands: list[ir.Value], sizes: list[Sizes]) -> _Plan | str:
    for way in contractions(equation):
        if not way.summed or not (way.rows or way.columns):
            return _Plan(equation, operands, way)
        if len(sizes) < len(operands):
            break
        left, right = sizes[way.left], sizes[1 - way.left]
        if any(left[label] is None or left[label] != right[label] for label in way.summed):
            return "unknown-sizes"
        if way.batch:
            if len(way.rows) == len(way.columns) == len(way.summed) == 1:
                return _Plan(equation, operands, way)
            continue
        found = _joined(equation, operands, way, right)
        if found is not None:
            return found
    return "unknown-sizes"


def _joined(
    equation: Equation, operands: list[ir.Value], way: Contraction, right: Sizes
) -> _Plan | None:
    """Plan a product with a matrix, of which axes may have to be joined."""
    if len(way.summed) == 1 and len(way.columns) <= 1:
        return _Plan(equation, operands, way)
    sizes = [right[label] for label in way.summed + way.columns]
    numbers = [size for size in sizes if isinstance(size, int) and size > 0]
    if len(numbers) < len(sizes):
        return None
    is_constant = constant_tensor(operands[1 - way.left]) is not None
    if len(way.columns) > 1 and not is_constant:
        return None  # three more Reshapes at run time are no gain
    count = len(way.summed)
    columns = tuple(numbers[count:]) if len(way.columns) > 1 else None
    return _Plan(equation, operands, way, math.prod(numbers[:count]), columns)


class _Builder:
    """Creates the nodes of a plan."""

    def __init__(self, change: Change, *, has_axes_input: bool) -> None:
        self._change = change
        self._has_axes_input = has_axes_input

    def build(self, plan: _Plan) -> ir.Value:
        way = plan.contraction
        if way is None:
            return self._reduced(plan.operands[0], plan.equation.inputs[0], plan.equation.output)
        if not way.summed:
            return self._multiplied(plan, plan.equation.output)
        if not way.rows and not way.columns:
            labels = plan.equation.output + way.summed
            return self._reduced(self._multiplied(plan, labels), labels, plan.equation.output)
        return self._contracted(plan, way)

    def _contracted(self, plan: _Plan, way: Contraction) -> ir.Value:
        left, right = plan.operands[way.left], plan.operands[1 - way.left]
        mine, other = plan.equation.inputs[way.left], plan.equation.inputs[1 - way.left]
        left = self._ordered(left, mine, way.batch + way.rows + way.summed)
        right = self._ordered(right, other, way.batch + way.summed + way.columns)
        if plan.joined is not None:
            rows = [0] * len(way.rows)  # 0 copies a dimension
            if len(way.summed) > 1:
                left = self._reshaped(left, [*rows, plan.joined])
            right = self._reshaped(right, [plan.joined, -1] if way.columns else [plan.joined])
        product = self._change.node("MatMul", [left, right])
        if plan.columns is not None:
            product = self._reshaped(product, [*[0] * len(way.rows), *plan.columns])
        return self._ordered(product, way.result, plan.equation.output)

    def _multiplied(self, plan: _Plan, labels: str) -> ir.Value:
        """Multiply element by element, both operands spread over the axes ``labels``."""
        sides = []
        for value, own in zip(plan.operands, plan.equation.inputs, strict=True):
            kept = "".join(label for label in labels if label in own)
            ordered = self._ordered(value, own, kept)
            first = min((labels.index(label) for label in own), default=len(labels))
            missing = [
                axis - first for axis in range(first, len(labels)) if labels[axis] not in own
            ]
            sides.append(self._with_axes("Unsqueeze", ordered, missing) if missing else ordered)
        return self._change.node("Mul", sides)

    def _reduced(self, value: ir.Value, labels: str, output: str) -> ir.Value:
        """Sum over the labels that are not asked for, and put the others in order."""
        axes = [axis for axis, label in enumerate(labels) if label not in output]
        kept = "".join(label for label in labels if label in output)
        if axes:
            value = self._with_axes("ReduceSum", value, axes, keepdims=0)
        elif labels == output:
            return self._change.node("Identity", [value])
        return self._ordered(value, kept, output)

    def _ordered(self, value: ir.Value, labels: str, wanted: str) -> ir.Value:
        if labels == wanted:
            return value
        order = [labels.index(label) for label in wanted]
        return self._change.node("Transpose", [value], attributes={"perm": order})

    def _reshaped(self, value: ir.Value, target: list[int]) -> ir.Value:
        shape = self._change.initializer(np.array(target, np.int64), name="einsum_shape")
        return self._change.node("Reshape", [value, shape])

    def _with_axes(
        self, op_type: str, value: ir.Value, axes: list[int], **attributes: int
    ) -> ir.Value:
        if not self._has_axes_input:
            return self._change.node(op_type, [value], attributes={"axes": axes, **attributes})
        constant = self._change.initializer(np.array(axes, np.int64), name="einsum_axes")
        return self._change.node(op_type, [value, constant], attributes=attributes)
