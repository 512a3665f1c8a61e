"""How many bytes values take while a model runs."""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx_ir as ir

from graphopt.analysis.shapes import infer_shapes
from graphopt.analysis.symbolic_table import SymbolicTable
from graphopt.ir import clone, graphs
from graphopt.rewrite import ShapeTable

__all__ = ["bytes_of_values"]


def bytes_of_values(
    model: ir.Model, inputs: Mapping[str, tuple[int, ...]]
) -> tuple[dict[ir.Value, int], int]:
    """Return bytes of what the nodes of a model compute, and of how many that is not known.

    Args:
        model: The model.
        inputs: Shapes of its inputs, by name: sizes follow from them.
    """
    copy = clone(model)
    for value in copy.graph.inputs:
        if value.shape is not None and (value.name or "") in inputs:
            value.shape = ir.Shape(inputs[value.name or ""])
    table = SymbolicTable(copy, infer_shapes(copy))
    known: dict[ir.Value, int] = {}
    unknown = 0
    # A copy has the same graphs with the same nodes, in the same order.
    for graph, same in zip(graphs(model), graphs(copy), strict=True):
        for node, twin in zip(graph, same, strict=True):
            for value, other in zip(node.outputs, twin.outputs, strict=True):
                size = _bytes(table, other)
                unknown += size is None
                known[value] = size or 0
    return known, unknown


def _bytes(table: ShapeTable, value: ir.Value) -> int | None:
    shape = table.of(value)
    if shape is None or shape.dtype is None or shape.dims is None:
        return None
    dims = [dim for dim in shape.dims if isinstance(dim, int)]
    if len(dims) != len(shape.dims):
        return None
    return math.ceil(math.prod(dims) * (shape.dtype.bitwidth if shape.dtype.value else 0) / 8)
