"""Residual sums: two values, of one shape or one for all rows of the other, and perhaps a bias."""

from __future__ import annotations

from typing import NamedTuple

import onnx_ir as ir

from graphopt.analysis.operands import int_attribute, transpose_permutation
from graphopt.analysis.readers import only_reader
from graphopt.ir import constant_tensor
from graphopt.rewrite import ShapeTable

__all__ = [
    "DistantBias",
    "ResidualSum",
    "find_distant_bias",
    "find_residual_sum",
    "fits_kernel",
    "spread_last",
    "with_bias",
]

_RANKS = (2, 3)
_MATRIX_RANK = 2
_Dims = tuple[int | str | None, ...]


class ResidualSum(NamedTuple):
    """``left + right + bias``, as ``node`` adds them up."""

    node: ir.Node
    left: ir.Value
    right: ir.Value
    bias: ir.Value | None


class DistantBias(NamedTuple):
    """A constant vector that is added before a value is rearranged, its last axis staying whole.

    Attributes:
        add: The node that adds it, which has one reader.
        source: What it is added to.
        bias: The vector.
        reader: What rearranges the sum first.
    """

    add: ir.Node
    source: ir.Value
    bias: ir.Value
    reader: ir.Node


def find_residual_sum(value: ir.Value | None, graph: ir.Graph | None) -> ResidualSum | None:
    """Return the sum of two values, no vectors, that ``value`` of ``graph`` is."""
    add = value.producer() if value is not None else None
    if add is None or add.op_type != "Add" or add.domain or add.graph is not graph:
        return None
    left, right = add.inputs
    if left is None or right is None or any(map(_is_vector, (left, right))):
        return None
    return ResidualSum(add, left, right, None)


def _is_vector(value: ir.Value) -> bool:
    tensor = constant_tensor(value)
    return tensor is not None and len(tensor.shape) < _MATRIX_RANK


def fits_kernel(total: ResidualSum, shapes: ShapeTable) -> bool:
    """Tell whether both sides are provably of one shape, of two or three dimensions."""
    left, right = _dims(total.left, shapes), _dims(total.right, shapes)
    return left is not None and left == right and len(left) in _RANKS and None not in left


def spread_last(total: ResidualSum, shapes: ShapeTable) -> ResidualSum | None:
    """Return the sum with the side last that is the same for all rows, where there is one.

    It has the shape ``(S, H)`` or ``(1, S, H)`` then, the other one ``(B, S, H)``. Returns ``None``
    where that is not provable, nor that both are of one shape.
    """
    if fits_kernel(total, shapes):
        return total
    for whole, spread in ((total.left, total.right), (total.right, total.left)):
        dims, other = _dims(whole, shapes), _dims(spread, shapes)
        if dims is None or other is None or len(dims) != max(_RANKS) or None in dims:
            continue
        if other in (dims[1:], (1, *dims[1:])):
            return ResidualSum(total.node, whole, spread, total.bias)
    return None


def with_bias(total: ResidualSum, shapes: ShapeTable) -> ResidualSum:
    """Take in the constant vector that one side is a sum with, where nobody else reads that."""
    # What is spread over the other side has to stay the second one.
    is_spread = _dims(total.left, shapes) != _dims(total.right, shapes)
    for side, other in ((total.left, total.right), (total.right, total.left)):
        add = side.producer()
        if add is None or only_reader(side) is not total.node:
            continue
        found = _biased(add, shapes)
        if found is None:
            continue
        source, bias = found
        if is_spread and side is total.right:
            return ResidualSum(total.node, other, source, bias)
        return ResidualSum(total.node, source, other, bias)
    return total


def find_distant_bias(total: ResidualSum, shapes: ShapeTable) -> DistantBias | None:
    """Return the bias that is added before one side is brought into the shape of the other."""
    for side in (total.left, total.right):
        value, reader = side, total.node
        while (node := value.producer()) is not None and only_reader(value) is reader:
            found = _biased(node, shapes) if value is not side else None
            if found is not None:
                return DistantBias(node, *found, reader)
            if not _keeps_last_axis(node, shapes) or node.inputs[0] is None:
                break
            value, reader = node.inputs[0], node
    return None


def _keeps_last_axis(node: ir.Node, shapes: ShapeTable) -> bool:
    """Tell whether a node moves whole rows, so that what is added to each may be added later."""
    if node.domain or node.op_type not in ("Gather", "Reshape", "Transpose"):
        return False
    before, after = _dims(node.inputs[0], shapes), _dims(node.outputs[0], shapes)
    if not before or not after:
        return False
    if node.op_type == "Transpose":
        order = transpose_permutation(node, len(before))
        return order is not None and order[-1] == len(before) - 1
    if node.op_type == "Gather":
        axis = int_attribute(node, "axis", 0)
        return axis is not None and axis not in (-1, len(before) - 1)
    # Row by row the order of elements stays, so that rows of one length stay the same rows.
    return isinstance(before[-1], int) and before[-1] == after[-1] and before[-1] > 0


def _biased(add: ir.Node, shapes: ShapeTable) -> tuple[ir.Value, ir.Value] | None:
    """Return a value and the stored vector that is added to it along the last axis."""
    if add.op_type != "Add" or add.domain:
        return None
    dims = _dims(add.outputs[0], shapes)
    for index in (0, 1):
        bias, source = add.inputs[index], add.inputs[1 - index]
        if source is not None and bias is not None and _is_bias(dims, source, bias, shapes):
            return source, bias
    return None


def _is_bias(dims: _Dims | None, source: ir.Value, bias: ir.Value, shapes: ShapeTable) -> bool:
    if dims is None or bias.producer() is not None or constant_tensor(bias) is None:
        return False
    return _dims(source, shapes) == dims and _dims(bias, shapes) == dims[-1:]


def _dims(value: ir.Value | None, shapes: ShapeTable) -> _Dims | None:
    known = shapes.of(value)
    return None if known is None else known.dims
