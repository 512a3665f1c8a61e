"""Scalars in the place of operands that hold one number everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis.operands import operand
from graphopt.analysis.symbolic_dims import broadcast
from graphopt.analysis.symbolic_shapes import SymbolicShapes
from graphopt.analysis.uniform_values import Scalar, UniformValues
from graphopt.ir import constant_tensor, nodes_of_types
from graphopt.rewrite import Contract, Editor, Exact, Facts, Needs, Pass

__all__ = ["ScalarizeOperands"]


@dataclass(frozen=True, kw_only=True)
class ScalarizeOperands(Pass):
    """Let elementwise operators read a scalar instead of a tensor that is filled with it.

    What it does
        Recognizes tensors that hold one number everywhere, filled by Expand or ConstantOfShape and
        perhaps converted, negated, reshaped or cut. An operator that works element by element reads
        that number instead, where the other operands alone give its result the same shape. What
        filled the tensor goes when nobody reads it any more.

    When it refuses
        `gives-the-shape`  the result might have another shape without the tensor.

    What it keeps
        The model's inputs and outputs, their names, order, types and shapes; every bit of them:
        only operators that compute one element in one way, whatever stands beside it.

    Cost
        Time O(nodes + edges), after shape inference; memory O(nodes). No weight above 64 elements
        is read.

    Example
        before  (int64[N] x) => (int64[N] z) <int64 most = {15}> { s = Shape(x)  y = Expand(most, s)  z = Min(x, y) }
        after   (int64[N] x) => (int64[N] z) <int64 most = {15}, int64 value = {15}> { s = Shape(x)  y = Expand(most, s)  z = Min(x, value) }

    References
        ONNX operator specifications, multidirectional broadcasting; `full_like` and `ones_like` of
        PyTorch.
    """  # noqa: E501 - the example is one line of ONNX text

    name: ClassVar[str] = "scalarize-operands"
    contract: ClassVar[Contract] = Contract(numerics=Exact(), is_idempotent=True)
    anchors: ClassVar[frozenset[str] | None] = frozenset({"ConstantOfShape", "Expand", "Tile"})

    def needs(self, model: ir.Model) -> Needs:  # noqa: ARG002
        """Ask for shapes."""
        return Needs(shapes=True)

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Look at each elementwise operator; sizes are followed only where one is worth it."""
        uniform, known = UniformValues(), None
        scalars: dict[tuple[str, bytes], ir.Value] = {}
        for node in nodes_of_types(model, _ELEMENTWISE):
            for index, element in _filled_operands(node, uniform):
                known = known or SymbolicShapes.kept(model, facts.shapes)
                if known.version < _BROADCASTING_SINCE:
                    return
                if _keeps_shape(node, index, known):
                    _scalarize(node, index, element, edit, scalars)
                else:
                    edit.refuse(node, "gives-the-shape")


_BROADCASTING_SINCE = 8
_INTEGERS_ONLY = frozenset({"Max", "Min"})
"""Which zero, or which NaN, they return of two may depend on what stands beside it."""
_COMPARISONS = frozenset({"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"})
_ELEMENTWISE = (
    _INTEGERS_ONLY | _COMPARISONS | frozenset({"Add", "And", "Mul", "Or", "Sub", "Where", "Xor"})
)


def _filled_operands(node: ir.Node, uniform: UniformValues) -> list[tuple[int, Scalar]]:
    """Return the operands that are computed and hold one number everywhere."""
    found = []
    for index, value in enumerate(node.inputs):
        if value is None or value.producer() is None or constant_tensor(value) is not None:
            continue
        element = uniform.of(value)
        if element is None or (node.op_type in _INTEGERS_ONLY and element.dtype.kind == "f"):
            continue
        found.append((index, element))
    return found


def _keeps_shape(node: ir.Node, index: int, known: SymbolicShapes) -> bool:
    """Tell whether the result has its shape without operand ``index``."""
    result = known.dims(node.outputs[0])
    others = [known.dims(operand(node, i)) for i in range(len(node.inputs)) if i != index]
    shapes = [shape for shape in others if shape is not None]
    if result is None or not shapes or len(shapes) < len(others):
        return False
    return broadcast(known, shapes) == result


def _scalarize(
    node: ir.Node,
    index: int,
    element: Scalar,
    edit: Editor,
    scalars: dict[tuple[str, bytes], ir.Value],
) -> None:
    key = (element.dtype.str, element.tobytes())
    with edit.rewrite(node, because=f"operand {index} is {element} everywhere") as change:
        if key not in scalars:
            name = f"{node.outputs[0].name}_scalar"
            scalars[key] = change.initializer(np.array(element), name=name)
        change.set_input(node, index, scalars[key])
