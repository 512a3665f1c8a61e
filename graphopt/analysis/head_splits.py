"""How one tensor is split into the heads of an attention."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from graphopt.analysis.operands import operand, transpose_permutation
from graphopt.analysis.symbolic_table import SymbolicTable
from graphopt.ir import constant_array

__all__ = ["Dims", "Heads", "asked_dims", "split_heads", "unscaled"]

Dims = tuple[int | str | None, ...]
"""Dimensions; equal names are equal sizes."""

_RANK = 4
_MAX_STEPS = 8
_SPLIT = (0, 2, 1, 3)
_SPLIT_TRANSPOSED = (0, 2, 3, 1)


@dataclass(frozen=True)
class Heads:
    """One of queries, keys and values.

    Attributes:
        source: The value before it is split, (B, S, count * size).
        dims: Its dimensions.
        count: Number of heads.
        size: Elements of one head.
        scale: What it is multiplied with on the way.
    """

    source: ir.Value
    dims: Dims
    count: int
    size: int
    scale: float


def unscaled(value: ir.Value) -> tuple[ir.Value, float]:
    """Step over a multiplication with, or division by, one number; return the factor too."""
    node = value.producer()
    if node is None or node.domain or node.op_type not in ("Mul", "Div", "Identity"):
        return value, 1.0
    if node.op_type == "Identity":
        return node.inputs[0] or value, 1.0
    for index in (1, 0) if node.op_type == "Mul" else (1,):
        number = constant_array(node.inputs[index], 1)
        other = node.inputs[1 - index]
        if number is None or number.size != 1 or other is None:
            continue
        factor = float(number.reshape(-1)[0])
        if factor and number.dtype.kind == "f":
            return other, factor if node.op_type == "Mul" else 1.0 / factor
    return value, 1.0


def asked_dims(reshape: ir.Node, shapes: SymbolicTable) -> Dims | None:
    """Return the dimensions that a Reshape makes, given that they are not 0.

    A computed dimension of 0 would copy one of the input, so that nobody can tell what it becomes;
    but then there is no element that could be in the wrong place.
    """
    known = shapes.of(reshape.outputs[0])
    asked = shapes.elements_of(operand(reshape, 1))
    if known is None or known.dims is None or asked is None or len(asked) != len(known.dims):
        return None if known is None else known.dims
    return tuple(
        name if isinstance(name, str) else dim for name, dim in zip(asked, known.dims, strict=True)
    )


def split_heads(
    value: ir.Value | None, shapes: SymbolicTable, *, is_transposed: bool = False
) -> Heads | str:
    """Return how ``value``, (B, H, S, d), came to be, or why that is not known.

    Args:
        value: One side of a MatMul.
        shapes: Shapes of the values.
        is_transposed: It is (B, H, d, S), as keys are.
    """
    order, scale = tuple(range(_RANK)), 1.0
    expected = _SPLIT_TRANSPOSED if is_transposed else _SPLIT
    for _ in range(_MAX_STEPS):
        node = value.producer() if value is not None else None
        if value is None or node is None or node.domain:
            return "not computed by Reshape and Transpose"
        inner, factor = unscaled(value)
        if inner is not value:
            value, scale = inner, scale * factor
        elif node.op_type == "Transpose":
            inner_order = transpose_permutation(node, _RANK)
            if inner_order is None or len(inner_order) != _RANK:
                return f"Transpose `{node.name}` is not of four axes"
            order = tuple(inner_order[axis] for axis in order)
            value = node.inputs[0]
        elif node.op_type == "Reshape":
            folded = _swapped_in_three_dimensions(node, shapes)
            if folded is None:
                return _split_by(node, order == expected, scale, shapes)
            value, order = folded, tuple((0, 1, 3, 2)[axis] for axis in order)
        else:
            return f"{node.op_type} `{node.name}` is in between"
    return "too many steps"


def _split_by(
    reshape: ir.Node, is_in_order: bool, scale: float, shapes: SymbolicTable
) -> Heads | str:
    """Return the heads that ``reshape`` makes of three dimensions."""
    source = operand(reshape, 0)
    before, after = shapes.of(source), asked_dims(reshape, shapes)
    if source is None or before is None or not before.dims or not after:
        return "shapes are not known"
    if not is_in_order:
        return "the axes are in another order"
    if (len(before.dims), len(after)) != (_RANK - 1, _RANK):
        return f"Reshape from {before.dims} to {after} splits no last axis"
    count, size, width = after[2], after[3], before.dims[2]
    if not isinstance(count, int) or not isinstance(size, int) or width != count * size:
        return f"Reshape from {before.dims} to {after} splits no last axis"
    # One of the first two axes is kept, so that the other is too: the elements are as many.
    if not any(one is not None and one == after[axis] for axis, one in _first_two(before.dims)):
        return f"Reshape from {before.dims} to {after} may move elements between axes"
    return _at_source(source, before.dims, count, size, scale)


def _first_two(dims: Dims) -> list[tuple[int, int | str | None]]:
    return list(enumerate(dims[:2]))


def _at_source(source: ir.Value, dims: Dims, count: int, size: int, scale: float) -> Heads:
    """Step over factors before the split."""
    inner, factor = unscaled(source)
    while inner is not source:
        source, scale = inner, scale * factor
        inner, factor = unscaled(source)
    return Heads(source, dims, count, size, scale)


def _swapped_in_three_dimensions(reshape: ir.Node, shapes: SymbolicTable) -> ir.Value | None:
    """Return K where ``reshape`` ends (B,H,T,d) to (BH,T,d) to (BH,d,T) to (B,H,d,T).

    What the two ask for is compared, not what they get: nobody knows that of sequences of length 0,
    for which such a chain fails.
    """
    transpose = _producer(operand(reshape, 0), "Transpose")
    first = _producer(operand(transpose, 0), "Reshape") if transpose is not None else None
    if transpose is None or first is None:
        return None
    if transpose_permutation(transpose, _RANK - 1) != (0, 2, 1):
        return None
    keys = operand(first, 0)
    known = shapes.of(keys)
    joined = shapes.elements_of(operand(first, 1))
    parted = shapes.elements_of(operand(reshape, 1))
    before = known.dims if known is not None else None
    if not before or not joined or not parted or not len(before) == len(parted) == _RANK:
        return None
    is_joined = len(joined) == _RANK - 1 and None not in before and before[2:] == joined[1:]
    is_parted = parted[1:] == (before[1], before[3], before[2])
    return keys if is_joined and is_parted else None


def _producer(value: ir.Value | None, op_type: str) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == op_type and not node.domain else None
