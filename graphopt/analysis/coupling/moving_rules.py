"""Which dimensions operators tie that move elements, or leave some out."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from graphopt.analysis.coupling.layouts import (
    Axis,
    Layout,
    flat,
    indices,
    length,
    opaque,
    tie_axes,
)
from graphopt.analysis.coupling.regrouping import regroup
from graphopt.analysis.coupling.units import Factor
from graphopt.analysis.coupling.walk import Walk, name_of
from graphopt.analysis.operands import (
    gathered_indices,
    int_attribute,
    ints_attribute,
    operand,
    slice_bounds,
    transpose_permutation,
)
from graphopt.ir import constant_array

__all__ = ["MOVING_RULES"]

Found = Sequence[Layout | None] | None


def _regrouping(node: ir.Node, walk: Walk) -> Found:
    """Reshape, Flatten, Squeeze and Unsqueeze keep the elements in their order."""
    data, dims = walk.layout(operand(node, 0)), walk.dims(node.outputs[0])
    if data is None or dims is None:
        return None
    return [regroup(data, dims, walk.ties, name_of(node))]


def _transpose(node: ir.Node, walk: Walk) -> Found:
    data = walk.layout(operand(node, 0))
    if data is None:
        return None
    order = transpose_permutation(node, len(data))
    return None if order is None else [tuple(data[axis] for axis in order)]


def _expand(node: ir.Node, walk: Walk) -> Found:
    data, dims = walk.layout(operand(node, 0)), walk.dims(node.outputs[0])
    if data is None or dims is None or len(dims) < len(data):
        return None
    padded = ((),) * (len(dims) - len(data)) + data
    return [tuple(axis or walk.dimension(dim) for axis, dim in zip(padded, dims, strict=True))]


def _tile(node: ir.Node, walk: Walk) -> Found:
    data, dims, before = (
        walk.layout(operand(node, 0)),
        walk.dims(node.outputs[0]),
        walk.dims(operand(node, 0)),
    )
    if data is None or dims is None or before is None:
        return None
    found = []
    for axis, size, old in zip(data, dims, before, strict=True):
        if size == old:
            found.append(axis)
            continue
        walk.pin_axis(axis, "repeated", "it is repeated along its axis", name_of(node))
        found.append(opaque(size))
    return [tuple(found)]


def _concat(node: ir.Node, walk: Walk) -> Found:
    layouts = [walk.layout(value) for value in node.inputs]
    given = [layout for layout in layouts if layout is not None]
    axis, dims = int_attribute(node, "axis", 1), walk.dims(node.outputs[0])
    if len(given) < len(layouts) or axis is None or dims is None:
        return None
    axis %= len(dims)
    where = name_of(node)
    found: list[Axis] = []
    for place in range(len(dims)):
        if place == axis:
            found.append(_joined([layout[axis] for layout in given], node, walk))
            continue
        joint: Axis = ()
        for layout in given:
            joint = tie_axes(joint, layout[place], walk.ties, where)
        found.append(joint)
    return [tuple(found)]


def _joined(parts: Sequence[Axis], node: ir.Node, walk: Walk) -> Axis:
    """Return the axis along which others lie one after the other."""
    where = name_of(node)
    factors = [flat(part, walk.ties, where) if part else Factor(1) for part in parts]
    sizes = [factor.size for factor in factors]
    total = sum((size for size in sizes if isinstance(size, int)), 0)
    dims, axis = walk.dims(node.outputs[0]), int_attribute(node, "axis", 1)
    assert dims is not None
    assert axis is not None
    if any(factor.atoms is None for factor in factors) and not all(
        isinstance(size, int) for size in sizes
    ):
        for part in parts:
            walk.pin_axis(part, "joined", "it is joined with what has no fixed length", where)
        return opaque(dims[axis])
    if all(factor.atoms is None for factor in factors):
        return opaque(dims[axis])
    whole, start = walk.ties.factor(total), 0
    for factor in factors:
        stop = start + int(str(factor.size))
        walk.ties.tie(whole.part(start, stop), factor, where)
        start = stop
    return (whole,)


def _split(node: ir.Node, walk: Walk) -> Found:
    data, axis = walk.layout(operand(node, 0)), int_attribute(node, "axis", 0)
    if data is None or axis is None:
        return None
    axis %= len(data)
    parts = [walk.dims(output) for output in node.outputs]
    sizes = [None if dims is None else dims[axis] for dims in parts]
    numbers = [size for size in sizes if isinstance(size, int)]
    if len(numbers) < len(sizes):
        return None
    whole, start, found = flat(data[axis], walk.ties, name_of(node)), 0, []
    for size in numbers:
        part: Axis = () if size == 1 else (whole.part(start, start + size),)
        # An axis of length 1 has no factors, so that nothing else would hold the index.
        if size == 1:
            _pin_indices(walk, whole.part(start, start + 1), node)
        found.append((*data[:axis], part, *data[axis + 1 :]))
        start += size
    return found


def _pin_indices(walk: Walk, factor: Factor, node: ir.Node) -> None:
    walk.pin_axis((factor,), "picked", "one index of it is picked out", name_of(node))


def _slice(node: ir.Node, walk: Walk) -> Found:
    data, bounds = walk.layout(operand(node, 0)), slice_bounds(node)
    before, after = walk.dims(operand(node, 0)), walk.dims(node.outputs[0])
    if data is None or before is None or after is None:
        return None
    if bounds is None:  # which axes are cut is not known: those that keep their length are not
        return [_same_or_opaque(data, before, after, walk, node)]
    found = list(data)
    for start, end, place, step in zip(
        bounds.starts, bounds.ends, bounds.axes, bounds.steps, strict=True
    ):
        axis = place % len(data)
        size = before[axis]
        if size == after[axis] and step == 1:
            continue
        if not isinstance(size, int):
            walk.pin_axis(data[axis], "cut", "it is cut where only a run tells", name_of(node))
            found[axis] = opaque(after[axis])
            continue
        whole = flat(data[axis], walk.ties, name_of(node))
        chosen = indices(whole, *slice(start, end, step).indices(size))
        # Which indices are taken would depend on how many went before them.
        if step != 1:
            walk.pin_axis((whole,), "cut", "it is cut in strides", name_of(node))
        if chosen.size == 1:
            _pin_indices(walk, chosen, node)
        found[axis] = () if chosen.size == 1 else (chosen,)
    return [tuple(found)]


def _same_or_opaque(
    data: Layout, before: Sequence[object], after: Sequence[object], walk: Walk, node: ir.Node
) -> Layout:
    found = []
    for axis, old, new in zip(data, before, after, strict=True):
        if old != new:
            walk.pin_axis(axis, "cut", "it is cut where only a run tells", name_of(node))
        found.append(axis if old == new else opaque(new))  # type: ignore[arg-type]
    return tuple(found)


def _gather(node: ir.Node, walk: Walk) -> Found:
    data, places = walk.layout(operand(node, 0)), walk.layout(operand(node, 1))
    axis = int_attribute(node, "axis", 0)
    if data is None or places is None or axis is None:
        return None
    axis %= len(data)
    chosen = _chosen(node, walk, data[axis])
    if chosen is not None:
        return [(*data[:axis], chosen, *data[axis + 1 :])]
    why = "its indices are looked up by number"
    walk.pin_axis(data[axis], "looked-up", why, name_of(node))
    walk.pin(places, "looked-up", why, name_of(node))
    return [(*data[:axis], *places, *data[axis + 1 :])]


def _chosen(node: ir.Node, walk: Walk, axis: Axis) -> Axis | None:
    """Return the axis that a list of constant numbers chooses: heads repeated, halves exchanged."""
    size = length(axis)
    places = gathered_indices(node, size) if isinstance(size, int) else None
    if places is None or len(places) < 2:  # noqa: PLR2004 - one that is picked
        return None
    return ((flat(axis, walk.ties, name_of(node)) if axis else Factor(1)).taken(places),)


def _reduced(node: ir.Node, walk: Walk) -> Found:
    data, dims = walk.layout(operand(node, 0)), walk.dims(node.outputs[0])
    axes = ints_attribute(node, "axes")
    if axes is None and operand(node, 1) is not None:
        array = constant_array(operand(node, 1), 64)
        axes = None if array is None else tuple(int(item) for item in array.reshape(-1))
    if data is None or dims is None:
        return None
    keep = int_attribute(node, "keepdims", 1)
    gone = {axis % len(data) for axis in axes} if axes else set(range(len(data)))
    for axis in gone:
        walk.note("normalizes", node, data[axis], 0, axis)
    if keep:
        return [tuple(() if axis in gone else data[axis] for axis in range(len(data)))]
    return [tuple(data[axis] for axis in range(len(data)) if axis not in gone)]


def _spatial(node: ir.Node, walk: Walk) -> Found:
    """Pooling and the like leave batch and channels alone."""
    data, dims = walk.layout(operand(node, 0)), walk.dims(node.outputs[0])
    if data is None or dims is None or len(data) != len(dims):
        return None
    for place, axis in enumerate(data):
        if place > 1:
            walk.note("normalizes", node, axis, 0, place)
    if len(node.outputs) > 1:
        why = "positions are counted through all of it"  # the indices of MaxPool
        walk.pin_axis(data[1], "looked-up", why, name_of(node))
    return [(*data[:2], *(opaque(dim) for dim in dims[2:]))] * len(node.outputs)


def _padded(node: ir.Node, walk: Walk) -> Found:
    data = walk.layout(operand(node, 0))
    before, after = walk.dims(operand(node, 0)), walk.dims(node.outputs[0])
    if data is None or before is None or after is None:
        return None
    return [_same_or_opaque(data, before, after, walk, node)]


def _measured(node: ir.Node, walk: Walk) -> Found:
    """Shape and Size read no element: lengths that change are read as they are."""
    return [walk.opaque(output) for output in node.outputs]


def _filled(node: ir.Node, walk: Walk) -> Found:
    """ConstantOfShape: elements that are all alike, as many as asked for."""
    dims = walk.dims(node.outputs[0])
    return None if dims is None else [tuple(map(walk.dimension, dims))]


def _counted(node: ir.Node, walk: Walk) -> Found:
    return [walk.opaque(node.outputs[0])]


_SPATIAL = "AveragePool GlobalAveragePool GlobalLpPool GlobalMaxPool LpPool MaxPool"
_REDUCING = (
    "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd "
    "ReduceSum ReduceSumSquare"
)

MOVING_RULES = {
    **dict.fromkeys(_SPATIAL.split(), _spatial),
    **dict.fromkeys(_REDUCING.split(), _reduced),
    "Concat": _concat,
    "ConstantOfShape": _filled,
    "Expand": _expand,
    "Flatten": _regrouping,
    "Gather": _gather,
    "Pad": _padded,
    "Range": _counted,
    "Reshape": _regrouping,
    "Resize": _padded,
    "Shape": _measured,
    "Size": _measured,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _regrouping,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _regrouping,
    "Upsample": _padded,
}
