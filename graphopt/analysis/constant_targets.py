"""Constant parameters that mean the same as computed ones, whatever the sizes, zero included."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.analysis.symbolic_expressions import (
    Integer,
    is_nonnegative,
    is_positive,
    vanishes_with,
)

__all__ = [
    "added_or_removed_ones",
    "expand_target",
    "is_same_target",
    "reshape_target",
    "slice_bound",
]

_Dims = Sequence[Integer]
_TO_THE_END = 2**63 - 1


def reshape_target(data: _Dims, result: _Dims, computed: int | None) -> tuple[int, ...] | str:
    """Return a target, without `allowzero`, that makes ``result`` of ``data``.

    It holds 0 where a dimension stays in its place, and at most one -1, which the runtime refuses
    where another dimension is 0.

    Args:
        data: Dimensions of the input.
        result: Dimensions of the output, known to hold as many elements.
        computed: The axis for which -1 is given already; no other dimension is 0 then.

    Returns:
        The target, or the slug of the reason why there is none.
    """
    target = tuple(
        size
        if isinstance(size, int) and size > 0
        else 0
        if axis < len(data) and data[axis] == size
        else -1
        for axis, size in enumerate(result)
    )
    if -1 not in target:
        return target
    # A Reshape works out one size and no more.
    if target.count(-1) > 1:
        return "several-dimensions"
    others = [(axis, size) for axis, size in enumerate(result) if target[axis] != -1]
    if result[target.index(-1)] == 0 or not all(
        is_positive(size) or (computed is not None and axis != computed) for axis, size in others
    ):
        return "may-be-empty"
    return target


def is_same_target(data: _Dims, target: _Dims) -> bool:
    """Tell whether a ``target`` without `allowzero` asks for the sizes it names, whatever they are.

    An element that is 0 in some run copies a dimension of ``data``, which is the same only where
    that dimension is 0 as well.
    """
    return all(
        size == -1
        or is_positive(size)
        or (is_nonnegative(size) and (axis >= len(data) or vanishes_with(data[axis], size)))
        for axis, size in enumerate(target)
    )


def added_or_removed_ones(data: _Dims, result: _Dims) -> tuple[str, tuple[int, ...]] | None:
    """Return ``Squeeze`` or ``Unsqueeze`` with the axes that make ``result`` of ``data``.

    ``None`` where more than dimensions of size 1 differ.
    """
    if len(data) < len(result):
        axes = _ones_beyond(result, data)
        return None if axes is None else ("Unsqueeze", axes)
    axes = _ones_beyond(data, result)
    return None if not axes else ("Squeeze", axes)


def _ones_beyond(longer: _Dims, shorter: _Dims) -> tuple[int, ...] | None:
    axes, place = [], 0
    for axis, size in enumerate(longer):
        if place < len(shorter) and size == shorter[place]:
            place += 1
        elif size == 1:
            axes.append(axis)
        else:
            return None
    return tuple(axes) if place == len(shorter) else None


def expand_target(data: _Dims, target: _Dims) -> tuple[int, ...] | None:
    """Return a constant target of an Expand of ``data``: 1 where the dimension is there already."""
    offset = len(target) - len(data)
    found = []
    for axis, size in enumerate(target):
        own = data[axis - offset] if axis >= offset else 1
        if size == own:
            found.append(1)
        elif isinstance(size, int):
            found.append(size)
        else:
            return None
    return tuple(found)


def slice_bound(bound: Integer, size: Integer) -> int | None:
    """Return a constant that means ``bound`` in a forward Slice of ``size`` elements."""
    if isinstance(bound, int):
        return bound
    if is_nonnegative(size) and is_nonnegative(bound - size):
        return _TO_THE_END
    # Of no element, -1 is the place before the first in both forms.
    return -1 if bound == size - 1 else None
