"""Operators that multiply by a constant matrix, or look rows up in one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt.compression.weight_source import NoWeight, WeightSource, trace_weight
from graphopt.ir import graphs

__all__ = [
    "NoWeightLayer",
    "WeightLayer",
    "is_transposed_copy",
    "weight_index",
    "weight_layer",
    "weight_nodes",
]

_MATRIX_RANK = 2
_OPERATORS = frozenset({"MatMul", "Gemm", "Gather"})
_ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class WeightLayer:
    """An operator with a constant matrix.

    Attributes:
        node: A ``MatMul`` or ``Gemm``, whose input 1 is the matrix, or a ``Gather`` of its rows.
        weight: The matrix: ``(inputs, outputs)`` of a layer whatever ``transB`` says, ``(rows,
            columns)`` of a table.
        operand: What the operator reads it from.
    """

    node: ir.Node
    weight: WeightSource
    operand: ir.Value

    @property
    def is_table(self) -> bool:
        """Tell whether rows are looked up in the matrix."""
        return self.node.op_type == "Gather"


@dataclass(frozen=True)
class NoWeightLayer:
    """Why an operator has no weight that can be stored as integers: a slug, and details."""

    slug: str
    why: str


def weight_index(node: ir.Node) -> int:
    """Return which input of one of the operators the matrix is."""
    return 0 if node.op_type == "Gather" else 1


def weight_nodes(model: ir.Model) -> Iterator[ir.Node]:
    """Yield all that multiplies by a matrix or may look up rows in a constant one.

    Graphs of branches, loops and functions included. A ``Gather`` of what is computed at run time
    is no table, and is left out.
    """
    for graph in graphs(model):
        for node in graph:
            if node.domain or node.op_type not in _OPERATORS:
                continue
            if node.op_type == "Gather" and _reads_no_table(node):
                continue
            yield node


def _reads_no_table(node: ir.Node) -> bool:
    found = trace_weight(node.inputs[0])
    return isinstance(found, NoWeight) and found.slug in {"weight-not-constant", "not-float32"}


def weight_layer(node: ir.Node) -> WeightLayer | NoWeightLayer:
    """Return the layer or table that ``node`` is, or why it is none.

    Args:
        node: One of `weight_nodes`.
    """
    operand = node.inputs[weight_index(node)]
    weight = trace_weight(operand)
    if operand is None or isinstance(weight, NoWeight):
        if node.op_type != "Gather" and not isinstance(trace_weight(node.inputs[0]), NoWeight):
            return NoWeightLayer("weight-on-the-left", "the constant is the left operand")
        assert isinstance(weight, NoWeight)
        return NoWeightLayer(weight.slug, weight.why)
    if len(weight.shape) != _MATRIX_RANK:
        return NoWeightLayer("weight-rank", f"the weight has rank {len(weight.shape)}")
    if node.op_type == "Gather":
        axis = node.attributes.get_int("axis") or 0
        if axis not in (0, -_MATRIX_RANK):
            return NoWeightLayer("unsupported-form", "gathered along another axis than the first")
    elif node.op_type == "Gemm":
        if node.attributes.get_int("transA"):
            return NoWeightLayer("unsupported-form", "the activation is transposed")
        if node.attributes.get_int("transB"):
            weight = weight.transposed()
    return WeightLayer(node, weight, operand)


def is_transposed_copy(first: WeightSource, second: WeightSource) -> bool:
    """Tell whether the one holds the bits of the other, transposed.

    Exporters store the weight of an output layer beside the embedding that it is tied to.
    """
    if first.shape != second.shape[::-1]:
        return False
    if first.origin is second.origin:
        return first.order == second.order[::-1]
    rows, columns = first.array(), second.array()
    return all(
        np.array_equal(rows[part], columns[:, part].T)
        for start in range(0, len(rows), _ROWS_AT_ONCE)
        for part in [slice(start, start + _ROWS_AT_ONCE)]
    )
