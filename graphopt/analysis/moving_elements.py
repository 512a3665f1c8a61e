"""Operators that only move elements, computed with arrays.

Nothing is rounded here, so that there is one result, bit for bit, whoever computes it; a process
that runs the runtime need not be started for it. Whatever is unusual (text, attributes that a
function's caller supplies, shapes that do not fit) is left to the runtime.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.analysis.operands import cast_target, int_attribute, ints_attribute

__all__ = ["moved"]

Array = np.ndarray[Any, Any]
_Inputs = Sequence[Array | None]


def moved(node: ir.Node, inputs: _Inputs) -> Array | None:
    """Return the only output of ``node`` where it follows by moving elements.

    Args:
        node: A node of the default domain.
        inputs: The values of its inputs; ``None`` for those that are left out.
    """
    rule = _RULES.get(node.op_type)
    if rule is None or node.domain or len(node.outputs) != 1:
        return None
    if any(given is not None and given.dtype.kind not in "biuf" for given in inputs):
        return None  # what numpy itself lacks, the runtime knows for some operators only
    return rule(node, inputs)


def _identity(_: ir.Node, inputs: _Inputs) -> Array | None:
    return inputs[0]


def _reshape(node: ir.Node, inputs: _Inputs) -> Array | None:
    data, target = _operand(inputs, 0), _numbers(inputs, 1)
    if data is None or target is None:
        return None
    if 0 in target and int_attribute(node, "allowzero", 0) != 0:
        return None
    if any(size == 0 and axis >= data.ndim for axis, size in enumerate(target)):
        return None
    sizes = [data.shape[axis] if size == 0 else size for axis, size in enumerate(target)]
    known = math.prod(size for size in sizes if size != -1)
    open_sizes = sizes.count(-1)
    if not data.size or min(sizes, default=0) < -1 or open_sizes > 1:
        return None
    if data.size % known or (not open_sizes and data.size != known):
        return None
    return data.reshape(sizes)


def _transpose(node: ir.Node, inputs: _Inputs) -> Array | None:
    data = _operand(inputs, 0)
    if data is None:
        return None
    if "perm" not in node.attributes:
        return data.transpose()
    order = ints_attribute(node, "perm")
    if order is None or sorted(order) != list(range(data.ndim)):
        return None
    return data.transpose(order)


def _concat(node: ir.Node, inputs: _Inputs) -> Array | None:
    parts = [given for given in inputs if given is not None]
    axis = int_attribute(node, "axis", 1)
    if axis is None or len(parts) < len(inputs) or not parts:
        return None
    first = parts[0]
    if not -first.ndim <= axis < first.ndim or any(part.dtype != first.dtype for part in parts):
        return None
    try:
        return np.concatenate(parts, axis)
    except ValueError:
        return None


def _slice(_: ir.Node, inputs: _Inputs) -> Array | None:
    data, starts, ends = _operand(inputs, 0), _numbers(inputs, 1), _numbers(inputs, 2)
    if data is None or starts is None or ends is None:
        return None
    axes = _numbers(inputs, 3) if _operand(inputs, 3) is not None else list(range(len(starts)))
    steps = _numbers(inputs, 4) if _operand(inputs, 4) is not None else [1] * len(starts)
    if axes is None or steps is None or not len(starts) == len(ends) == len(axes) == len(steps):
        return None
    if len({axis % max(data.ndim, 1) for axis in axes}) < len(axes):
        return None
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if not step or not -data.ndim <= axis < data.ndim or not data.shape[axis]:
            return None
        kept = _kept(start, end, step, data.shape[axis])
        if kept is None:
            return None
        data = data.take(np.arange(kept.start, kept.stop, kept.step), axis)
    return data


def _kept(start: int, end: int, step: int, size: int) -> range | None:
    """Return the indices that a Slice keeps along an axis, its bounds clamped as ONNX says."""
    first, last = start + size * (start < 0), end + size * (end < 0)
    if step > 0:
        return range(min(max(first, 0), size), min(max(last, 0), size), step)
    if first < 0 or last >= size:
        return None  # backwards from before the first: the runtime and the standard differ
    return range(min(first, size - 1), max(last, -1), step)


def _gather(node: ir.Node, inputs: _Inputs) -> Array | None:
    data, indices = _operand(inputs, 0), _operand(inputs, 1)
    axis = int_attribute(node, "axis", 0)
    if data is None or indices is None or axis is None or indices.dtype.kind != "i":
        return None
    if not -data.ndim <= axis < data.ndim or not indices.size:
        return None
    size = data.shape[axis]
    if indices.min() < -size or indices.max() >= size:
        return None
    return data.take(np.where(indices < 0, indices + size, indices), axis)


def _unsqueeze(node: ir.Node, inputs: _Inputs) -> Array | None:
    data, axes = _operand(inputs, 0), _axes(node, inputs)
    if data is None or axes is None:
        return None
    rank = data.ndim + len(axes)
    places = {axis % rank for axis in axes if -rank <= axis < rank}
    if len(places) < len(axes):
        return None
    sizes = iter(data.shape)
    return data.reshape([1 if place in places else next(sizes) for place in range(rank)])


def _squeeze(node: ir.Node, inputs: _Inputs) -> Array | None:
    data, axes = _operand(inputs, 0), _axes(node, inputs)
    if data is None or not axes:
        return None  # without axes: every size that is 1, left to the runtime
    if any(not -data.ndim <= axis < data.ndim or data.shape[axis] != 1 for axis in axes):
        return None
    places = {axis % data.ndim for axis in axes}
    return data.reshape([size for axis, size in enumerate(data.shape) if axis not in places])


def _axes(node: ir.Node, inputs: _Inputs) -> list[int] | None:
    if "axes" in node.attributes:
        axes = ints_attribute(node, "axes")
        return None if axes is None else list(axes)
    return _numbers(inputs, 1)


def _expand(_: ir.Node, inputs: _Inputs) -> Array | None:
    data, target = _operand(inputs, 0), _numbers(inputs, 1)
    if data is None or target is None or min(target, default=0) < 0:
        return None
    try:
        return np.broadcast_to(data, np.broadcast_shapes(data.shape, tuple(target)))
    except ValueError:
        return None


def _constant_of_shape(node: ir.Node, inputs: _Inputs) -> Array | None:
    target = _numbers(inputs, 0)
    attribute = node.attributes.get("value")
    if target is None or min(target, default=0) < 0 or (attribute and attribute.is_ref()):
        return None
    value = np.zeros(1, np.float32) if attribute is None else attribute.as_tensor().numpy()
    if value.size != 1 or value.dtype.kind not in "biuf":
        return None
    return np.broadcast_to(value.reshape(()), target)


def _where(_: ir.Node, inputs: _Inputs) -> Array | None:
    condition, yes, no = (_operand(inputs, index) for index in range(3))
    if condition is None or yes is None or no is None:
        return None
    if condition.dtype != np.bool_ or yes.dtype != no.dtype or yes.dtype.name not in _SELECTED:
        return None
    # The runtime merges two halves that are 0 elsewhere, and so loses the sign of -0.0.
    if any(given.dtype.kind == "f" and not _is_plain(given) for given in (yes, no)):
        return None
    try:
        return np.where(condition, yes, no)
    except ValueError:
        return None


_SELECTED = frozenset({"float32", "int64", "uint8"})
"""Types that the runtime has a Where for."""


def _is_plain(numbers: Array) -> bool:
    return bool(np.isfinite(numbers).all()) and not bool(np.signbit(numbers[numbers == 0]).any())


def _scatter(node: ir.Node, inputs: _Inputs) -> Array | None:
    data, indices, updates = (_operand(inputs, index) for index in range(3))
    if data is None or indices is None or updates is None or node.attributes:
        return None
    if indices.dtype != np.int64 or not indices.ndim or not indices.size or not data.ndim:
        return None
    depth = indices.shape[-1]
    sizes = np.array(data.shape[:depth], np.int64)
    if depth > data.ndim or updates.shape != (*indices.shape[:-1], *data.shape[depth:]):
        return None
    if updates.dtype != data.dtype or (indices < -sizes).any() or (indices >= sizes).any():
        return None
    places = np.where(indices < 0, indices + sizes, indices).reshape(-1, depth)
    if len(np.unique(places, axis=0)) < len(places):
        return None  # nobody says which of two updates of one place is the last
    result = data.copy()
    result[tuple(places.T)] = updates.reshape(-1, *data.shape[depth:])
    return result


def _range(_: ir.Node, inputs: _Inputs) -> Array | None:
    bounds = [_operand(inputs, index) for index in range(3)]
    numbers = [item.reshape(-1)[0] for item in bounds if item is not None and item.size == 1]
    if len(numbers) < len(bounds) or not all(item.dtype == np.int64 for item in numbers):
        return None
    start, end, step = (int(item) for item in numbers)
    return np.arange(start, end, step, dtype=np.int64) if step else None


def _cast(node: ir.Node, inputs: _Inputs) -> Array | None:
    data, target = _operand(inputs, 0), cast_target(node)
    if data is None or target is None:
        return None
    if data.dtype.name not in _WHOLE or target not in _WIDER:
        return None
    return data.astype(target.numpy())


_WHOLE = frozenset({"bool", "int8", "int16", "int32", "uint8", "uint16"})
_WIDER = frozenset({ir.DataType.INT32, ir.DataType.INT64, ir.DataType.DOUBLE})
"""Types that hold every number of those."""


def _operand(inputs: _Inputs, index: int) -> Array | None:
    return inputs[index] if index < len(inputs) else None


def _numbers(inputs: _Inputs, index: int) -> list[int] | None:
    """Return an input that is a list of whole numbers."""
    given = _operand(inputs, index)
    if given is None or given.ndim > 1 or given.dtype.name not in ("int32", "int64"):
        return None
    return [int(number) for number in given.reshape(-1)]


_RULES: dict[str, Callable[[ir.Node, _Inputs], Array | None]] = {
    "Cast": _cast,
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "Gather": _gather,
    "Identity": _identity,
    "Range": _range,
    "Reshape": _reshape,
    "ScatterND": _scatter,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": _where,
}
