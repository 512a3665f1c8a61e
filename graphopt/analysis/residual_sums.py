"""Residual sums: two values of one shape, and perhaps the bias of one."""

from __future__ import annotations

from typing import NamedTuple

import onnx_ir as ir

from graphopt.ir import constant_tensor
from graphopt.rewrite import ShapeTable

__all__ = ["ResidualSum", "find_residual_sum", "fits_kernel", "with_bias"]

_RANKS = (2, 3)


class ResidualSum(NamedTuple):
    """``left + right + bias``, as ``node`` adds them up."""

    node: ir.Node
    left: ir.Value
    right: ir.Value
    bias: ir.Value | None


def find_residual_sum(value: ir.Value | None, graph: ir.Graph | None) -> ResidualSum | None:
    """Return the sum of two values, neither constant, that ``value`` of ``graph`` is."""
    add = value.producer() if value is not None else None
    if add is None or add.op_type != "Add" or add.domain or add.graph is not graph:
        return None
    left, right = add.inputs
    if left is None or right is None or any(constant_tensor(v) is not None for v in (left, right)):
        return None
    return ResidualSum(add, left, right, None)


def fits_kernel(total: ResidualSum, shapes: ShapeTable) -> bool:
    """Tell whether both sides are provably of one shape, of two or three dimensions."""
    left, right = shapes.of(total.left), shapes.of(total.right)
    if left is None or right is None or left.dims is None or left.dims != right.dims:
        return False
    return len(left.dims) in _RANKS and None not in left.dims


def with_bias(total: ResidualSum, shapes: ShapeTable) -> ResidualSum:
    """Take in the constant vector that one side is a sum with, where nobody else reads that."""
    for side, other in ((total.left, total.right), (total.right, total.left)):
        add = side.producer()
        is_read_elsewhere = side.is_graph_output() or len(side.uses()) > 1
        if add is None or add.op_type != "Add" or add.domain or is_read_elsewhere:
            continue
        known = shapes.of(side)
        for index in (0, 1):
            bias, source = add.inputs[index], add.inputs[1 - index]
            is_vector = _is_vector_for(known.dims if known else None, source, bias, shapes)
            if is_vector and source is not None:
                return ResidualSum(total.node, source, other, bias)
    return total


def _is_vector_for(
    dims: tuple[int | str | None, ...] | None,
    source: ir.Value | None,
    bias: ir.Value | None,
    shapes: ShapeTable,
) -> bool:
    """Tell whether ``bias`` is stored, one number for each element of the last axis."""
    if dims is None or bias is None or bias.producer() is not None:
        return False
    inner, vector = shapes.of(source), shapes.of(bias)
    if inner is None or vector is None or constant_tensor(bias) is None:
        return False
    return inner.dims == dims and vector.dims == dims[-1:]
