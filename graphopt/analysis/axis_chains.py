"""Two operators in a row that add or remove dimensions of size 1."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.analysis.operands import squeeze_axes

__all__ = ["merge_axes"]


def merge_axes(
    first: ir.Node, second: ir.Node, rank: int | None
) -> tuple[str, tuple[int, ...]] | None:
    """Merge a Squeeze or Unsqueeze with the one that reads it.

    Args:
        first: The node that is read.
        second: Its reader.
        rank: Rank of the value between; ``None`` where unknown.

    Returns:
        One operator with sorted axes, counted from the front, that does the same (no axes: nothing
        is left to do), or ``None`` where there is none or the axes are not constant.
    """
    before, after = _axes(first, rank, is_first=True), _axes(second, rank, is_first=False)
    if rank is None or before is None or after is None:
        return None
    kinds = (first.op_type, second.op_type)
    if kinds == ("Unsqueeze", "Unsqueeze"):
        return "Unsqueeze", _sorted(after | _seen_through(before, after, rank + len(after)))
    if kinds == ("Squeeze", "Squeeze"):
        return "Squeeze", _sorted(before | _seen_through(after, before, rank + len(before)))
    if kinds == ("Unsqueeze", "Squeeze"):
        return _undo_unsqueeze(before, after, rank)
    return None


def _undo_unsqueeze(
    added: frozenset[int], taken: frozenset[int], rank: int
) -> tuple[str, tuple[int, ...]] | None:
    """Merge a Squeeze of an Unsqueeze; both count axes of the value between."""
    if added >= taken:
        # What stays of those added has moved forward by those that were taken.
        left = [axis for axis in range(rank) if axis not in taken]
        return "Unsqueeze", _sorted({left.index(axis) for axis in added - taken})
    if taken > added:
        source = [axis for axis in range(rank) if axis not in added]
        return "Squeeze", _sorted({source.index(axis) for axis in taken - added})
    return None


def _seen_through(axes: frozenset[int], skipped: frozenset[int], rank: int) -> frozenset[int]:
    """Return ``axes``, which count only what is not ``skipped``, as axes of all ``rank``."""
    counted = [axis for axis in range(rank) if axis not in skipped]
    return frozenset(counted[axis] for axis in axes)


def _axes(node: ir.Node, rank: int | None, *, is_first: bool) -> frozenset[int] | None:
    """Return the axes of a Squeeze or Unsqueeze, counted from the front.

    An Unsqueeze counts axes of its result, a Squeeze those of its input; ``rank`` is that of the
    value between, which is the result of the first node and the input of the second.
    """
    if rank is None or node.op_type not in ("Squeeze", "Unsqueeze"):
        return None
    axes = squeeze_axes(node)
    if axes is None:
        return None
    counts_middle = (node.op_type == "Unsqueeze") is is_first
    counted = rank if counts_middle else rank + len(axes)
    return frozenset(axis + counted if axis < 0 else axis for axis in axes)


def _sorted(axes: set[int] | frozenset[int]) -> tuple[int, ...]:
    return tuple(sorted(axes))
