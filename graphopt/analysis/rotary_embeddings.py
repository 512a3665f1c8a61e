"""Rotary position embeddings, found from the sum that ends them.

result = x * cos + concat(-x[d/2:], x[:d/2]) * sin
"""

from __future__ import annotations

from typing import NamedTuple

import onnx_ir as ir

from graphopt.analysis.head_splits import Dims
from graphopt.analysis.operands import int_attribute, operand, slice_bounds
from graphopt.analysis.symbolic_table import SymbolicTable

__all__ = ["Angles", "Rotary", "find_rotary"]

_RANK = 4
_MAX_STEPS = 4


class Angles(NamedTuple):
    """Half of the cosines, or of the sines: the other half is the same.

    Attributes:
        source: (S, d / 2) or (b, S, d / 2), perhaps with axes of size 1 in between or in front.
        rank: The number of dimensions of the source.
        function: `Cos` or `Sin` where it is still to be computed of the source.
    """

    source: ir.Value
    rank: int
    function: str | None


class Rotary(NamedTuple):
    """One rotary embedding.

    Attributes:
        source: What is rotated, (B, H, S, d).
        dims: Its dimensions.
        cosines: Half of the cosines.
        sines: Half of the sines.
        rows: How many sequences have angles of their own: 1 or B.
        result: The sum.
    """

    source: ir.Value
    dims: Dims
    cosines: Angles
    sines: Angles
    rows: int | str
    result: ir.Value


def find_rotary(total: ir.Node, shapes: SymbolicTable) -> Rotary | str | None:
    """Return the rotary embedding that ``total``, an Add, ends.

    ``None`` where nothing is like one, text where only shapes or angles are in the way.
    """
    for rotated, plain in (tuple(total.inputs), tuple(reversed(total.inputs))):
        turned = _turned(rotated, shapes)
        if turned is None:
            continue
        source, sine = turned
        cosine = _other_factor(plain, source)
        if cosine is not None:
            return _checked(source, cosine, sine, total, shapes)
    return None


def _checked(
    source: ir.Value, cosine: ir.Value, sine: ir.Value, total: ir.Node, shapes: SymbolicTable
) -> Rotary | str:
    dims, angles = _dims(source, shapes), _dims(cosine, shapes)
    if dims is None or len(dims) != _RANK or angles is None or angles != _dims(sine, shapes):
        return "the shapes are not known"
    rows = angles[0]
    fits = len(angles) == _RANK and angles[1:] == (1, *dims[2:]) and rows in (1, dims[0])
    if not fits or rows is None or dims[2] is None:
        return f"angles of {angles} for heads of {dims}"
    halves = [_half_of(value, shapes, _MAX_STEPS) for value in (cosine, sine)]
    if halves[0] is None or halves[1] is None:
        return "cosines or sines are not twice the same"
    for half in halves:
        sizes = _dims(half.source, shapes) if half is not None else None
        if sizes is None or [dim for dim in sizes[:-2] if dim != 1] != [rows] * (rows != 1):
            return f"angles of {sizes} for {rows} sequences"
    return Rotary(source, dims, halves[0], halves[1], rows, total.outputs[0])


def _turned(value: ir.Value | None, shapes: SymbolicTable) -> tuple[ir.Value, ir.Value] | None:
    """Return x and the sines where ``value`` is ``concat(-x[d/2:], x[:d/2]) * sines``."""
    product = _producer(value, "Mul")
    for index in (0, 1) if product is not None else ():
        assert product is not None
        joined, sine = _producer(product.inputs[index], "Concat"), product.inputs[1 - index]
        if joined is None or sine is None or len(joined.inputs) != 2:  # noqa: PLR2004
            continue
        if int_attribute(joined, "axis", 0) not in (-1, _RANK - 1):
            continue
        negated = _producer(joined.inputs[0], "Neg")
        second = _part(operand(negated, 0), shapes) if negated is not None else None
        first = _part(joined.inputs[1], shapes)
        if second is None or first is None or first[0] is not second[0]:
            continue
        if (first[1], second[1]) == (0, 1):
            return first[0], sine
    return None


def _part(value: ir.Value | None, shapes: SymbolicTable) -> tuple[ir.Value, int] | None:
    """Return what ``value`` is the first or second half of, along the last axis, and which."""
    node = value.producer() if value is not None else None
    source = operand(node, 0) if node is not None else None
    dims = _dims(source, shapes)
    if node is None or source is None or not dims or node.domain:
        return None
    size = dims[-1]
    if not isinstance(size, int) or size % 2:
        return None
    last = (-1, len(dims) - 1)
    if node.op_type == "Split" and len(node.outputs) == 2:  # noqa: PLR2004
        halves = [_dims(output, shapes) for output in node.outputs]
        is_even = all(half is not None and half[-1] == size // 2 for half in halves)
        if int_attribute(node, "axis", 0) not in last or not is_even:
            return None
        return source, int(node.outputs[1] is value)
    bounds = slice_bounds(node) if node.op_type == "Slice" else None
    if bounds is None or len(bounds.axes) != 1 or bounds.axes[0] not in last:
        return None
    # A range clamps its bounds as Slice does, and ranges compare by what they hold.
    taken = range(size)[slice(bounds.starts[0], bounds.ends[0], bounds.steps[0])]
    halves_ = (range(size // 2), range(size // 2, size))
    return (source, halves_.index(taken)) if taken in halves_ else None


def _other_factor(value: ir.Value | None, factor: ir.Value) -> ir.Value | None:
    product = _producer(value, "Mul")
    if product is None or factor not in product.inputs:
        return None
    return product.inputs[1 - list(product.inputs).index(factor)]


def _half_of(value: ir.Value | None, shapes: SymbolicTable, steps: int) -> Angles | None:
    """Return half of ``value``, (b, 1, S, d), where it is the same half twice."""
    node = value.producer() if value is not None else None
    if node is None or node.domain or not steps:
        return None
    if node.op_type == "Concat":
        is_twice = len(node.inputs) == 2 and node.inputs[0] is node.inputs[1]  # noqa: PLR2004
        source, dims = node.inputs[0], _dims(node.inputs[0], shapes)
        if source is None or not is_twice or dims is None:
            return None
        is_last = int_attribute(node, "axis", 0) in (-1, len(dims) - 1)
        return Angles(source, len(dims), None) if is_last and len(dims) > 1 else None
    if node.op_type not in ("Cos", "Sin", "Unsqueeze", "Identity"):
        return None
    inner = _half_of(operand(node, 0), shapes, steps - 1)
    if inner is None or node.op_type in ("Unsqueeze", "Identity"):
        return inner
    return None if inner.function is not None else inner._replace(function=node.op_type)


def _dims(value: ir.Value | None, shapes: SymbolicTable) -> Dims | None:
    known = shapes.of(value)
    return known.dims if known is not None else None


def _producer(value: ir.Value | None, op_type: str) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == op_type and not node.domain else None
