"""Operators that change shapes, or make tensors of a shape."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from graphopt.training.operators.element_types import as_torch, torch_type
from graphopt.training.operators.registry import Call, Tensor, UnsupportedForm, operator

__all__: list[str] = []


@operator("Constant")
def _constant(call: Call) -> Tensor:
    ((name, value),) = call.attributes.items()
    if name == "value":
        return as_torch(value)
    if name in {"value_float", "value_floats"}:
        return torch.tensor(value, dtype=torch.float32)
    if name in {"value_int", "value_ints"}:
        return torch.tensor(value, dtype=torch.int64)
    raise UnsupportedForm(name)


@operator("ConstantOfShape")
def _constant_of_shape(call: Call, shape: Tensor) -> Tensor:
    value = call.get("value")
    one = torch.zeros(1) if value is None else as_torch(value)
    return one.reshape(-1)[0].expand(shape.tolist()).clone()


@operator("Shape")
def _shape(call: Call, x: Tensor) -> Tensor:
    start, end = call.get("start", 0), call.get("end")
    return torch.tensor(list(x.shape)[start:end], dtype=torch.int64)


@operator("Size")
def _size(_call: Call, x: Tensor) -> Tensor:
    return torch.tensor(x.numel())


@operator("Reshape", since=5)
def _reshape(call: Call, x: Tensor, shape: Tensor) -> Tensor:
    sizes = [int(size) for size in shape.tolist()]
    if not call.get("allowzero", 0):
        sizes = [x.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    if -1 in sizes:  # torch refuses to infer a size beside a zero
        known = math.prod(size for size in sizes if size != -1)
        sizes[sizes.index(-1)] = x.numel() // known if known else 0
    return x.reshape(sizes)


@operator("Flatten")
def _flatten(call: Call, x: Tensor) -> Tensor:
    axis = call.get("axis", 1)
    axis = axis + x.dim() if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@operator("Squeeze")
def _squeeze(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
    chosen = call.axes(axes)
    return x.squeeze() if chosen is None else x.squeeze(tuple(chosen))


@operator("Unsqueeze")
def _unsqueeze(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
    chosen = call.axes(axes) or []
    rank = x.dim() + len(chosen)
    for axis in sorted(axis % rank for axis in chosen):
        x = x.unsqueeze(axis)
    return x


@operator("Transpose")
def _transpose(call: Call, x: Tensor) -> Tensor:
    return x.permute(call.get("perm", tuple(range(x.dim()))[::-1]))


@operator("Expand")
def _expand(_call: Call, x: Tensor, shape: Tensor) -> Tensor:
    return x.expand(torch.broadcast_shapes(x.shape, tuple(shape.tolist())))


@operator("Tile", since=6)
def _tile(_call: Call, x: Tensor, repeats: Tensor) -> Tensor:
    return x.repeat(repeats.tolist()) if x.dim() else x


@operator("Concat")
def _concat(call: Call, *given: Tensor) -> Tensor:
    return torch.cat(given, dim=call.get("axis", 1))


@operator("Split")
def _split(call: Call, x: Tensor, sizes: Tensor | None = None) -> Sequence[Tensor]:
    axis = call.get("axis", 0)
    lengths = call.get("split") if sizes is None else sizes.tolist()
    if lengths is None:  # equal ones, the last one perhaps shorter
        count = call.get("num_outputs", len(call.node.outputs))
        step = -(-x.shape[axis] // count)
        ends = [min(step * (number + 1), x.shape[axis]) for number in range(count)]
        lengths = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    found: Sequence[Tensor] = torch.split(x, list(lengths), dim=axis)
    return found


@operator("Range")
def _range(_call: Call, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    first, last, step = start.item(), limit.item(), delta.item()
    count = max(math.ceil((last - first) / step), 0)
    return (first + torch.arange(count, dtype=torch.float64) * step).to(start.dtype)


@operator("EyeLike")
def _eye_like(call: Call, x: Tensor) -> Tensor:
    kind = call.get("dtype")
    rows, columns = torch.arange(x.shape[0])[:, None], torch.arange(x.shape[1])
    found = columns - rows == call.get("k", 0)
    return found.to(x.dtype if kind is None else torch_type(kind))


@operator("Trilu")
def _trilu(call: Call, x: Tensor, offset: Tensor | None = None) -> Tensor:
    shift = 0 if offset is None else int(offset)
    return torch.triu(x, shift) if call.get("upper", 1) else torch.tril(x, shift)


@operator("DepthToSpace")
def _depth_to_space(call: Call, x: Tensor) -> Tensor:
    size = call.get("blocksize")
    batch, channels, height, width = x.shape
    fewer = channels // size**2
    if call.get("mode", "DCR") == "DCR":
        parts = x.reshape(batch, size, size, fewer, height, width).permute(0, 3, 4, 1, 5, 2)
    else:
        parts = x.reshape(batch, fewer, size, size, height, width).permute(0, 1, 4, 2, 5, 3)
    return parts.reshape(batch, fewer, height * size, width * size)


@operator("SpaceToDepth")
def _space_to_depth(call: Call, x: Tensor) -> Tensor:
    size = call.get("blocksize")
    batch, channels, height, width = x.shape
    parts = x.reshape(batch, channels, height // size, size, width // size, size)
    order = (0, 3, 5, 1, 2, 4) if call.get("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    return parts.permute(order).reshape(batch, -1, height // size, width // size)


@operator("Pad", since=2)
def _pad(
    call: Call,
    x: Tensor,
    pads: Tensor | None = None,
    value: Tensor | None = None,
    axes: Tensor | None = None,
) -> Tensor:
    amounts = list(call.get("pads") if pads is None else pads.tolist())
    chosen = range(x.dim()) if axes is None else [axis % x.dim() for axis in axes.tolist()]
    fill = call.get("value", 0.0) if value is None else value.reshape(()).item()
    half, mode = len(amounts) // 2, call.get("mode", "constant")
    for place, axis in enumerate(chosen):
        x = _pad_axis(x, axis, (amounts[place], amounts[half + place]), mode, fill)
    return x


def _pad_axis(x: Tensor, axis: int, amounts: tuple[int, int], mode: str, fill: float) -> Tensor:
    """Pad one axis; negative amounts crop it."""
    before, after = amounts
    length = x.shape[axis]
    if before == after == 0:
        return x
    if mode == "constant":
        start = max(-before, 0)
        kept = x.narrow(axis, start, length - start + min(after, 0))
        parts = [
            x.new_full([*x.shape[:axis], max(amount, 0), *x.shape[axis + 1 :]], fill)
            for amount in amounts
        ]
        return torch.cat([parts[0], kept, parts[1]], dim=axis)
    places = torch.arange(-before, length + after)
    if mode == "edge":
        places = places.clamp(0, length - 1)
    elif mode == "wrap":
        places = places % length
    elif mode == "reflect":
        period = max(2 * (length - 1), 1)
        places = places % period
        places = torch.where(places < length, places, period - places)
    else:
        raise UnsupportedForm(f"mode {mode}")
    return x.index_select(axis, places)
