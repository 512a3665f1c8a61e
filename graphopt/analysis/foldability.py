"""Which nodes compute the same constant in every run, and may be computed beforehand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.analysis.annotations import is_annotated
from graphopt.analysis.casts import is_implementation_defined
from graphopt.analysis.operands import cast_target, operand
from graphopt.analysis.operators import Effect, Operators
from graphopt.analysis.symbolic_shapes import SymbolicShapes
from graphopt.ir import (
    HAS_NO_ANNOTATIONS,
    constant_array,
    constant_tensor,
    nodes_of_types,
    ordered_nodes,
    subgraphs_of,
)
from graphopt.rewrite import ShapeTable, is_overwritten

__all__ = ["FoldableNodes", "liftable_constants", "tensor_bytes"]

_QUANTIZERS = frozenset({"DequantizeLinear", "DynamicQuantizeLinear", "QuantizeLinear"})
_MAX_CHECKED_ELEMENTS = 1 << 16

_INITIALIZERS_ALONE_SINCE = 4
"""Before this IR version an initializer had to be an input, which a caller may override."""


def tensor_bytes(value: ir.Value, shapes: ShapeTable) -> int | None:
    """Return the size of a tensor in bytes, or ``None`` where shape or type are not known."""
    known = shapes.of(value)
    if known is None or known.dtype is None or known.dims is None:
        return None
    sizes = [dim for dim in known.dims if isinstance(dim, int)]
    if len(sizes) < len(known.dims) or known.dtype == ir.DataType.STRING:
        return None
    return (math.prod(sizes) * known.dtype.bitwidth + 7) // 8


def liftable_constants(model: ir.Model) -> list[ir.Node]:
    """Return the ``Constant`` nodes outside of functions that hold a tensor as it is.

    To make them initializers is to leave away the frame around each: the file cannot grow.
    """
    if model.ir_version < _INITIALIZERS_ALONE_SINCE:
        return []
    has_annotations = not model.meta.get(HAS_NO_ANNOTATIONS)
    return [
        node
        for node in nodes_of_types(model, {"Constant"})
        if "value" in node.attributes.data
        and constant_tensor(node.outputs[0]) is not None
        and _place_refusal(node, has_annotations=has_annotations) is None
    ]


def _place_refusal(node: ir.Node, *, has_annotations: bool) -> tuple[str, str] | None:
    """Tell why what ``node`` computes has to come from that node, if it has to."""
    for value in node.outputs:
        if value.is_graph_output():
            return "names-an-output", f"the graph returns `{value.name}`"
        if has_annotations and is_annotated(value):
            return "annotated", f"`{value.name}`"
        if is_overwritten(value):
            return "overwritten", f"`{value.name}` holds statistics that are updated in place"
    return None


class FoldableNodes:
    """The nodes of the main graph and its subgraphs whose outputs are constants.

    Attributes:
        arrays: Foldable nodes in an order in which they could run; the value of the first output
            where shapes alone tell it, else ``None``.
        refusals: Nodes with constant inputs that may not be folded, with slug and reason.
    """

    def __init__(self, model: ir.Model, shapes: ShapeTable, *, max_bytes: int) -> None:
        self._model = model
        self._shapes = shapes
        self._operators = Operators(model)
        self._max_bytes = max_bytes
        self._has_annotations = not model.meta.get(HAS_NO_ANNOTATIONS)
        self._values: set[ir.Value] = set()
        self.arrays: dict[ir.Node, np.ndarray[Any, Any] | None] = {}
        self.refusals: list[tuple[ir.Node, str, str]] = []
        known = SymbolicShapes.kept(model, shapes)
        for node in ordered_nodes(model):
            outputs = node.outputs
            is_told = len(outputs) == 1 and known.is_computed(node)
            self._consider(node, known.array(outputs[0]) if is_told else None)

    def is_constant(self, value: ir.Value | None) -> bool:
        """Tell whether ``value`` is left out, a constant, or computed from constants alone."""
        return value is None or value in self._values or constant_tensor(value) is not None

    def _consider(self, node: ir.Node, array: np.ndarray[Any, Any] | None) -> None:
        if node.op_type == "Constant" and not node.domain:
            if self._model.ir_version < _INITIALIZERS_ALONE_SINCE:
                return
            refusal = self._lift_refusal(node)
        elif array is None and not (node.inputs and all(map(self.is_constant, node.inputs))):
            return
        else:
            refusal = self._refusal(node, array)
        if refusal is not None:
            self.refusals.append((node, *refusal))
            return
        self.arrays[node] = array
        self._values.update([output for output in node.outputs if output.name])

    def _lift_refusal(self, node: ir.Node) -> tuple[str, str] | None:
        if constant_tensor(node.outputs[0]) is None:
            return "not-a-tensor", "a sparse constant"
        return _place_refusal(node, has_annotations=self._has_annotations)

    def _refusal(self, node: ir.Node, array: np.ndarray[Any, Any] | None) -> tuple[str, str] | None:
        if array is None:
            refusal = self._operator_refusal(node) or self._size_refusal(node)
            if refusal is not None:
                return refusal
        return _place_refusal(node, has_annotations=self._has_annotations)

    def _operator_refusal(self, node: ir.Node) -> tuple[str, str] | None:
        effect = self._operators.effect(node)
        if effect is not Effect.PURE:
            return ("random" if effect is Effect.RANDOM else "unknown-effect"), node.op_type
        if node.domain or node.op_identifier() in self._model.functions:
            return "not-standard", f"`{node.domain}::{node.op_type}`"
        if subgraphs_of(node):
            return "has-subgraph", node.op_type
        if node.op_type in _QUANTIZERS:
            return "quantizer", "folding it would undo the quantization of a weight"
        if self._depends_on_machine(node):
            return "implementation-defined", "values out of range depend on the machine"
        return None

    def _size_refusal(self, node: ir.Node) -> tuple[str, str] | None:
        for value in node.outputs:
            if not value.name:
                continue
            known = self._shapes.of(value)
            if known is None or known.dtype is None:
                return "not-a-tensor", f"`{value.name}` is no tensor, or of unknown type"
            if known.dtype == ir.DataType.STRING:
                return "text", f"`{value.name}`"
            size = tensor_bytes(value, self._shapes)
            if size is None:
                return "unknown-size", f"`{value.name}`"
            if size > self._max_bytes:
                return "too-large", f"`{value.name}` has {size} bytes"
        return None

    def _depends_on_machine(self, node: ir.Node) -> bool:
        if node.op_type in ("Cast", "CastLike"):
            return self._cast_depends_on_machine(node)
        if node.op_type in ("Div", "Mod", "BitShift"):
            return not self._has_safe_divisor(node)
        return False

    def _cast_depends_on_machine(self, node: ir.Node) -> bool:
        known, result = self._shapes.of(operand(node, 0)), self._shapes.of(node.outputs[0])
        target = cast_target(node) or (result.dtype if result is not None else None)
        if not is_implementation_defined(known.dtype if known is not None else None, target):
            return False
        array = constant_array(operand(node, 0), _MAX_CHECKED_ELEMENTS)
        if array is None or target is None or array.dtype.kind != "f":
            return True
        # NumPy tells no limits of types that it does not bring itself.
        if not target.is_integer() or target.bitwidth < _BITS_PER_BYTE:
            return True
        limits = np.iinfo(target.numpy())
        # Strictly less: the largest int64 as a float is 2**63, which is out of range.
        return not bool(((array > limits.min) & (array < limits.max)).all())

    def _has_safe_divisor(self, node: ir.Node) -> bool:
        known = self._shapes.of(operand(node, 1))
        if known is None or known.dtype is None:
            return False
        if known.dtype.is_floating_point():
            return True
        array = constant_array(operand(node, 1), _MAX_CHECKED_ELEMENTS)
        if array is None:
            return False
        if node.op_type == "BitShift":
            return bool((array < known.dtype.bitwidth).all())
        return bool((array > 0).all())  # -1 overflows with the smallest number


_BITS_PER_BYTE = 8
