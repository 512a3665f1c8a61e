"""Proofs about shapes that hold for every input of the model."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.rewrite import ShapeTable, ValueShape

__all__ = [
    "is_same_rank",
    "reshape_target_of",
    "same_shape",
    "same_shape_and_count",
    "target_without_copies",
]


def same_shape(first: ValueShape | None, second: ValueShape | None) -> bool:
    """Tell whether two shapes are known and equal, symbol by symbol."""
    if first is None or second is None or first.dims is None or second.dims is None:
        return False
    return first.dims == second.dims and None not in first.dims


def is_same_rank(first: ir.Value, second: ir.Value, shapes: ShapeTable) -> bool:
    """Tell whether two values are known to have equally many dimensions.

    Constants of one element keep sizes, but may have more dimensions than what they are applied to.
    """
    one, other = shapes.of(first), shapes.of(second)
    if one is None or other is None or one.dims is None or other.dims is None:
        return False
    return len(one.dims) == len(other.dims)


def same_shape_and_count(first: ValueShape | None, second: ValueShape | None) -> bool:
    """Tell whether two shapes are equal, given that they hold equally many elements.

    One dimension may be unknown then, where every other one is a number above zero.
    """
    if same_shape(first, second):
        return True
    if first is None or second is None or first.dims is None or second.dims is None:
        return False
    if len(first.dims) != len(second.dims):
        return False
    pairs = list(zip(first.dims, second.dims, strict=True))
    different = [pair for pair in pairs if pair[0] != pair[1] or pair[0] is None]
    equal = [a for a, b in pairs if a == b and a is not None]
    return len(different) <= 1 and all(isinstance(dim, int) and dim > 0 for dim in equal)


def reshape_target_of(shape: ValueShape | None) -> tuple[int, ...] | None:
    """Return the dimensions as the constant target of a Reshape, or ``None``.

    At most one may be unknown (then -1), and every other one must be a number above zero, so that
    the target means the same for empty tensors.
    """
    if shape is None or shape.dims is None:
        return None
    target = tuple(dim if isinstance(dim, int) else -1 for dim in shape.dims)
    return target if target.count(-1) <= 1 and 0 not in target else None


def target_without_copies(
    target: tuple[int, ...], middle: ValueShape | None, source: ValueShape | None
) -> tuple[int, ...] | None:
    """Return the target of a Reshape of ``middle`` so that it means the same on ``source``.

    A 0 in ``target`` copies a dimension of ``middle``: it becomes that number, or stays where
    ``source`` has the same symbol there. ``None`` where that is not known.
    """
    if middle is None or middle.dims is None:
        return None
    outer = source.dims if source is not None and source.dims is not None else ()
    resolved = []
    for axis, size in enumerate(target):
        dim = middle.dims[axis] if axis < len(middle.dims) else None
        if size != 0:
            resolved.append(size)
        elif isinstance(dim, int) and dim > 0:
            resolved.append(dim)
        elif dim is not None and axis < len(outer) and outer[axis] == dim:
            resolved.append(0)
        else:
            return None
    return tuple(resolved)
