"""Types of values that inference of shapes gave up on, from the schemas of their operators."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from graphopt.analysis import Operators
from graphopt.rewrite import ShapeTable, ValueShape

__all__ = ["with_types"]


class _Completed(ShapeTable):
    """A table, and what was found for values that are not in it."""

    def __init__(self, held: ShapeTable) -> None:
        super().__init__({})
        self._held = held
        self._found: dict[ir.Value, ValueShape] = {}

    def of(self, value: ir.Value | None) -> ValueShape | None:
        known = self._held.of(value)
        if value is None or (known is not None and known.dtype is not None):
            return known
        return self._found.get(value, known)

    def add(self, value: ir.Value, dtype: ir.DataType) -> None:
        known = self._held.of(value)
        self._found[value] = ValueShape(dtype, None if known is None else known.dims)


def with_types(graph: ir.Graph, shapes: ShapeTable, operators: Operators) -> ShapeTable:
    """Return a table that also knows types that follow from those of operands.

    An operator that inference of shapes cannot follow, as one of ONNX Runtime, leaves all that
    depends on it without a type; the schemas of standard operators say most of them.

    Args:
        graph: The main graph, in order.
        shapes: What inference found.
        operators: The operators of the model.
    """
    found = _Completed(shapes)
    for node in graph:
        schema = operators.schema(node) if not node.domain else None
        if schema is None:
            continue
        for index, value in enumerate(node.outputs):
            known = found.of(value)
            if not value.name or (known is not None and known.dtype is not None):
                continue
            dtype = _dtype_of(node, index, schema, found)
            if dtype is not None:
                found.add(value, dtype)
    return found


def _dtype_of(
    node: ir.Node, index: int, schema: onnx.defs.OpSchema, known: ShapeTable
) -> ir.DataType | None:
    formals = schema.outputs
    wanted = formals[min(index, len(formals) - 1)].type_str if formals else ""
    allowed = {item.type_param_str: item.allowed_type_strs for item in schema.type_constraints}
    if wanted not in allowed:
        return ir.DataType.BOOL if wanted == "tensor(bool)" else None
    if list(allowed[wanted]) == ["tensor(bool)"]:
        return ir.DataType.BOOL
    for place, value in enumerate(node.inputs):
        formal = schema.inputs[min(place, len(schema.inputs) - 1)]
        shape = known.of(value)
        if formal.type_str == wanted and shape is not None and shape.dtype is not None:
            return shape.dtype
    return None
