"""Operators that read or write chosen elements."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from graphopt.training.operators.registry import Call, Tensor, operator

__all__: list[str] = []


def _counted(indices: Tensor, size: int) -> Tensor:
    """Return indices counted from the front: negative ones count from the end."""
    indices = indices.long()
    return torch.where(indices < 0, indices + size, indices)


@operator("Gather")
def _gather(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    axis = call.get("axis", 0) % x.dim()
    found = x.index_select(axis, _counted(indices, x.shape[axis]).reshape(-1))
    return found.reshape([*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]])


@operator("GatherElements")
def _gather_elements(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    axis = call.get("axis", 0)
    return torch.gather(x, axis, _counted(indices, x.shape[axis]))


@operator("GatherND")
def _gather_nd(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    batches, depth = call.get("batch_dims", 0), indices.shape[-1]
    rows = math.prod(x.shape[:batches])
    table = x.reshape(rows, *x.shape[batches:])
    places = indices.reshape(rows, -1, depth)
    parts = [_counted(places[..., at], x.shape[batches + at]) for at in range(depth)]
    found = table[(torch.arange(rows)[:, None], *parts)]
    return found.reshape([*indices.shape[:-1], *x.shape[batches + depth :]])


_WAYS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@operator("ScatterElements", "Scatter")
def _scatter_elements(call: Call, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    axis, way = call.get("axis", 0), call.get("reduction", "none")
    places = _counted(indices, x.shape[axis])
    if way == "none":
        return x.scatter(axis, places, updates)
    return x.scatter_reduce(axis, places, updates, reduce=_WAYS[way])


@operator("ScatterND")
def _scatter_nd(call: Call, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    depth, way = indices.shape[-1], call.get("reduction", "none")
    sizes = x.shape[:depth]
    table = x.reshape(math.prod(sizes), -1)
    flat = torch.zeros(indices.shape[:-1], dtype=torch.int64)
    for at, size in enumerate(sizes):
        flat = flat * size + _counted(indices[..., at], size)
    places, rows = flat.reshape(-1), updates.reshape(flat.numel(), -1)
    if way == "none":
        return table.index_put((places,), rows).reshape(x.shape)
    places = places[:, None].expand(rows.shape)
    return table.scatter_reduce(0, places, rows, reduce=_WAYS[way]).reshape(x.shape)


@operator("Slice", since=1)
def _slice(
    call: Call,
    x: Tensor,
    starts: Tensor | None = None,
    ends: Tensor | None = None,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    firsts: Sequence[int] = call.get("starts") if starts is None else starts.tolist()
    lasts: Sequence[int] = call.get("ends") if ends is None else ends.tolist()
    chosen = call.axes(axes) or range(len(firsts))
    strides = [1] * len(firsts) if steps is None else steps.tolist()
    for first, last, axis, stride in zip(firsts, lasts, chosen, strides, strict=True):
        size = x.shape[axis]
        places = range(size)[first:last:stride]  # Python clamps bounds as ONNX does
        if stride > 0:
            cut = [slice(None)] * x.dim()
            cut[axis] = slice(places.start, max(places.start, places.stop), stride)
            x = x[tuple(cut)]
        else:
            x = x.index_select(axis, torch.tensor(list(places), dtype=torch.int64))
    return x


@operator("Compress")
def _compress(call: Call, x: Tensor, condition: Tensor) -> Tensor:
    axis = call.get("axis")
    places = torch.nonzero(condition).reshape(-1)
    return x.reshape(-1)[places] if axis is None else x.index_select(axis, places)


@operator("NonZero")
def _non_zero(_call: Call, x: Tensor) -> Tensor:
    return torch.nonzero(x).T


@operator("OneHot")
def _one_hot(call: Call, indices: Tensor, depth: Tensor, values: Tensor) -> Tensor:
    size = int(depth.reshape(()).item())
    axis = call.get("axis", -1) % (indices.dim() + 1)
    shape = [1] * (indices.dim() + 1)
    shape[axis] = size
    # Indices out of range match nothing: such a row is off everywhere.
    is_hot = _counted(indices, size).unsqueeze(axis) == torch.arange(size).reshape(shape)
    return torch.where(is_hot, values[1], values[0])


@operator("ReverseSequence")
def _reverse_sequence(call: Call, x: Tensor, lengths: Tensor) -> Tensor:
    time, batch = call.get("time_axis", 0), call.get("batch_axis", 1)
    steps = torch.arange(x.shape[time])[:, None]
    places = torch.where(steps < lengths, lengths - 1 - steps, steps)  # (time, batch)
    moved = x.movedim((time, batch), (0, 1))
    return moved[places, torch.arange(x.shape[batch])].movedim((0, 1), (time, batch))
