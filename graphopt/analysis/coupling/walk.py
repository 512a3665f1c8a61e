"""What rules of operators see of a model while it is walked."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from graphopt.analysis.coupling.layouts import Axis, Layout, opaque, opaque_layout
from graphopt.analysis.coupling.units import Factor, Pin, Ties
from graphopt.analysis.symbolic_expressions import Integer
from graphopt.analysis.symbolic_shapes import SymbolicShapes
from graphopt.ir import constant_tensor, tensor_dims

__all__ = ["Use", "Walk", "name_of"]

_WEIGHT_MAKERS = frozenset(
    (
        "Cast",
        "DequantizeLinear",
        "Identity",
        "Mul",
        "QuantizeLinear",
        "Reshape",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    )
)


@dataclass(frozen=True)
class Use:
    """What an operator does with a dimension that may lose indices.

    Attributes:
        role: ``contracts``: sums of products run over it, and an index of zeros adds nothing;
            ``computes``: each index is computed from weights of its own; ``batches``: products of
            activations are made for each index apart; ``normalizes``: a statistic is taken over it;
            ``counts``: the number that an attribute of the node gives, as ``num_heads`` does.
        node: The operator.
        factor: The dimension.
        operand: Input of the node that is meant, where one is.
        axis: Axis of that input.
        attribute: What ``counts`` counts.
    """

    role: str
    node: ir.Node
    factor: Factor
    operand: int = 0
    axis: int = 0
    attribute: str = ""


class Walk:
    """The layouts found so far, the ties, and what dimensions are used for."""

    def __init__(self, shapes: SymbolicShapes) -> None:
        self.ties = Ties()
        self.shapes = shapes
        self.uses: list[Use] = []
        self._layouts: dict[ir.Value, Layout | None] = {}
        self._weights: dict[ir.Value, bool] = {}

    def layout(self, value: ir.Value | None) -> Layout | None:
        """Return the axes of a value; those of constants and inputs are dimensions of their own."""
        if value is None:
            return None
        if value not in self._layouts:
            self._layouts[value] = self._first_sight(value)
        return self._layouts[value]

    def set(self, value: ir.Value, layout: Layout | None) -> None:
        """Take note of the axes of what a node computes."""
        self._layouts[value] = layout

    def layouts(self) -> dict[ir.Value, Layout]:
        """Return every layout that is known."""
        return {value: found for value, found in self._layouts.items() if found is not None}

    def dims(self, value: ir.Value | None) -> tuple[Integer, ...] | None:
        """Return the dimensions of a value."""
        return self.shapes.dims(value)

    def opaque(self, value: ir.Value) -> Layout | None:
        """Return axes for ``value`` that never change."""
        return opaque_layout(self.dims(value))

    def note(self, role: str, node: ir.Node, axis: Axis, operand: int = 0, place: int = 0) -> None:
        """Take note of what a node does with each factor of an axis."""
        for factor in axis:
            if factor.atoms is not None:
                self.uses.append(Use(role, node, factor, operand, place))

    def count(self, node: ir.Node, attribute: str, factor: Factor) -> None:
        """Take note that an attribute of a node gives the length of a dimension."""
        if factor.atoms is not None:
            self.uses.append(Use("counts", node, factor, attribute=attribute))

    def pin(self, layout: Layout | None, slug: str, why: str, where: str) -> None:
        """Forbid every change of a value's dimensions."""
        for axis in layout or ():
            self.pin_axis(axis, slug, why, where)

    def pin_axis(self, axis: Axis, slug: str, why: str, where: str) -> None:
        """Forbid every change of an axis."""
        for factor in axis:
            self.ties.pin(factor, Pin(slug, why, where))

    def is_weight(self, value: ir.Value | None) -> bool:
        """Tell whether a value is a constant, or made of constants alone: integers made floats."""
        if value is None:
            return False
        if value not in self._weights:
            node = value.producer()
            self._weights[value] = constant_tensor(value) is not None or (
                node is not None
                and node.op_type in _WEIGHT_MAKERS
                and all(self.is_weight(item) for item in node.inputs if item is not None)
            )
        return self._weights[value]

    def _first_sight(self, value: ir.Value) -> Layout | None:
        tensor = constant_tensor(value)
        if tensor is None and not value.is_graph_input():
            return self.opaque(value)
        dims = tensor_dims(tensor) if tensor is not None else self.dims(value)
        return None if dims is None else tuple(map(self.dimension, dims))

    def dimension(self, size: Integer) -> Axis:
        """Return an axis of which nothing is known yet; one of unknown length never changes."""
        return (self.ties.factor(size),) if isinstance(size, int) and size != 1 else opaque(size)


def name_of(node: ir.Node) -> str:
    """Return what a person knows a node by."""
    return node.name or f"{node.op_type} of `{node.outputs[0].name}`"
