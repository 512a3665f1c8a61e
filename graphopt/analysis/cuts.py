"""What a Slice with constant bounds takes, axis by axis, and what two of them take together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from graphopt.analysis.operands import slice_bounds
from graphopt.rewrite import ValueShape

__all__ = ["TO_THE_END", "Cut", "after", "cuts_of", "whole_part"]

TO_THE_END = 2**63 - 1
_OPEN_END = 2**31 - 1
"""An end of this size or more means *to the end*, whether it was written with 32 or 64 bits."""


@dataclass(frozen=True)
class Cut:
    """What a Slice takes along one axis; the parameters are as written, the step is above zero."""

    start: int
    end: int
    step: int


def cuts_of(node: ir.Node, shape: ValueShape | None) -> dict[int, Cut] | None:
    """Return the cuts of a Slice by axis, counted from the front.

    Args:
        node: The Slice.
        shape: Shape of what it cuts.

    Returns:
        ``None`` where a parameter is not constant, the rank is not known and needed, or it goes
        backwards.
    """
    bounds = slice_bounds(node)
    rank = len(shape.dims) if shape is not None and shape.dims is not None else None
    if bounds is None or rank is None or any(step <= 0 for step in bounds.steps):
        return None
    found: dict[int, Cut] = {}
    for start, end, axis, step in zip(
        bounds.starts, bounds.ends, bounds.axes, bounds.steps, strict=True
    ):
        place = axis + rank if axis < 0 else axis
        # ONNX leaves undefined what a Slice does that names an axis twice.
        if place in found or not 0 <= place < rank:
            return None
        found[place] = Cut(start, TO_THE_END if end >= _OPEN_END else end, step)
    return found


def after(first: Mapping[int, Cut], second: Mapping[int, Cut]) -> dict[int, Cut] | None:
    """Return the cuts that do at once what ``second`` does after ``first``, or ``None``."""
    merged = dict(first)
    for axis, cut in second.items():
        found = _after(first[axis], cut) if axis in first else cut
        if found is None:
            return None
        merged[axis] = found
    return merged


def _after(first: Cut, second: Cut) -> Cut | None:
    """Merge two cuts of one axis.

    Element ``k`` of the first is ``start + k * step`` of the source, which has to lie before its
    end; so has ``k`` before the end of the second. Counting from the end of what lies between
    would need its size.
    """
    if first.start < 0 or second.start < 0 or second.end < 0:
        return None
    start = first.start + second.start * first.step
    end = first.end
    if second.end != TO_THE_END:
        limit = first.start + second.end * first.step
        # An end counted from the back does not compare with one counted from the front.
        if first.end < 0:
            return None
        end = min(first.end, limit)
    step = first.step * second.step
    # What fits no int64 could not be written back.
    return Cut(start, end, step) if max(start, step) < TO_THE_END else None


def whole_part(cut: Cut, size: int) -> tuple[int, int] | None:
    """Return first and last place, exclusive, of a cut without gaps of ``size`` elements."""
    if cut.step != 1:
        return None
    start, end, _ = slice(cut.start, cut.end, 1).indices(size)
    return start, max(start, end)
