"""Resize and its relatives: weighted sums of elements, one axis after the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch.nn import functional

from graphopt.training.operators.registry import Call, Tensor, UnsupportedForm, operator

__all__: list[str] = []


class _Axis(NamedTuple):
    """How an axis is resized: lengths, scale, and the part of it that is looked at."""

    size: int
    outputs: int
    scale: float
    region: tuple[float, float]


@operator("Upsample", since=7)
def _upsample(call: Call, x: Tensor, scales: Tensor | None = None) -> Tensor:
    factors = call.get("scales") if scales is None else scales.tolist()
    for axis, factor in enumerate(factors):
        outputs = math.floor(x.shape[axis] * factor)
        found = _Axis(x.shape[axis], outputs, factor, (0.0, 1.0))
        x = _resize_axis(call, x, axis, found, coordinates="asymmetric", rounding="floor")
    return x


@operator("Resize", since=10)
def _resize_10(call: Call, x: Tensor, scales: Tensor) -> Tensor:
    return _upsample(call, x, scales)


@operator("Resize", since=11)
def _resize(
    call: Call,
    x: Tensor,
    region: Tensor | None = None,
    scales: Tensor | None = None,
    sizes: Tensor | None = None,
) -> Tensor:
    chosen = call.axes(None, range(x.dim())) or []
    corners = [] if region is None or not region.numel() else region.tolist()
    factors = None if scales is None or not scales.numel() else scales.tolist()
    wanted = None if sizes is None or not sizes.numel() else sizes.tolist()
    lengths = [x.shape[axis] for axis in chosen]
    if wanted is not None:
        factors, wanted = _by_sizes(call, lengths, wanted)
    elif factors is not None:
        wanted = [math.floor(size * factor) for size, factor in zip(lengths, factors, strict=True)]
    assert factors is not None
    assert wanted is not None
    for place, axis in enumerate(chosen):
        part = (corners[place], corners[place + len(chosen)]) if corners else (0.0, 1.0)
        found = _Axis(x.shape[axis], wanted[place], factors[place], part)
        coordinates = call.get("coordinate_transformation_mode", "half_pixel")
        rounding = call.get("nearest_mode", "round_prefer_floor")
        x = _resize_axis(call, x, axis, found, coordinates=coordinates, rounding=rounding)
    return x


def _by_sizes(
    call: Call, lengths: Sequence[int], wanted: Sequence[int]
) -> tuple[list[float], list[int]]:
    """Return scales and sizes where sizes are given; a policy may keep the aspect ratio."""
    factors = [goal / size for goal, size in zip(wanted, lengths, strict=True)]
    policy = call.get("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        return factors, list(wanted)
    one = min(factors) if policy == "not_larger" else max(factors)
    return [one] * len(factors), [math.floor(one * size + 0.5) for size in lengths]


def _resize_axis(
    call: Call, x: Tensor, axis: int, found: _Axis, *, coordinates: str, rounding: str
) -> Tensor:
    if found.size == found.outputs and found.scale == 1.0 and coordinates != "tf_crop_and_resize":
        return x
    mode = call.get("mode", "nearest")
    places = _places(found, coordinates)
    if mode == "nearest":
        return x.index_select(axis, _rounded(places, rounding).clamp(0, found.size - 1))
    matrix = _weights(call, mode, places, found)
    resized = torch.matmul(x.movedim(axis, -1), matrix.T.to(x.dtype)).movedim(-1, axis)
    if coordinates == "tf_crop_and_resize":
        is_outside = (places < 0) | (places > found.size - 1)
        shape = [-1 if number == axis else 1 for number in range(x.dim())]
        outside = torch.tensor(call.get("extrapolation_value", 0.0), dtype=x.dtype)
        resized = torch.where(is_outside.reshape(shape), outside, resized)
    return resized


def _places(axis: _Axis, coordinates: str) -> Tensor:
    """Return where on the original axis each output lies: Resize 19, transformation modes."""
    found = _COORDINATES.get(coordinates)
    if found is None:
        raise UnsupportedForm(f"coordinate_transformation_mode {coordinates}")
    return found(torch.arange(axis.outputs, dtype=torch.float64), axis)


def _half_pixel(at: Tensor, axis: _Axis) -> Tensor:
    return (at + 0.5) / axis.scale - 0.5


def _half_pixel_symmetric(at: Tensor, axis: _Axis) -> Tensor:
    adjustment = axis.outputs / (axis.scale * axis.size)  # of the length that was rounded down
    return axis.size / 2 * (1 - adjustment) + _half_pixel(at, axis)


def _pytorch_half_pixel(at: Tensor, axis: _Axis) -> Tensor:
    return _half_pixel(at, axis) if axis.outputs > 1 else torch.zeros_like(at)


def _align_corners(at: Tensor, axis: _Axis) -> Tensor:
    length = axis.scale * axis.size  # not rounded down
    return at * (axis.size - 1) / (length - 1) if length != 1 else torch.zeros_like(at)


def _cropped(at: Tensor, axis: _Axis) -> Tensor:
    start, end = axis.region
    if axis.outputs == 1:
        return torch.full_like(at, 0.5 * (start + end) * (axis.size - 1))
    step = (end - start) * (axis.size - 1) / (axis.outputs - 1)
    return start * (axis.size - 1) + at * step


_COORDINATES: dict[str, Callable[[Tensor, _Axis], Tensor]] = {
    "half_pixel": _half_pixel,
    "half_pixel_symmetric": _half_pixel_symmetric,
    "pytorch_half_pixel": _pytorch_half_pixel,
    "align_corners": _align_corners,
    "asymmetric": lambda at, axis: at / axis.scale,
    "tf_crop_and_resize": _cropped,
}


def _rounded(places: Tensor, rounding: str) -> Tensor:
    if rounding == "floor":
        return places.floor().long()
    if rounding == "ceil":
        return places.ceil().long()
    if rounding == "round_prefer_ceil":
        return (places + 0.5).floor().long()
    return (places - 0.5).ceil().long()


def _weights(call: Call, mode: str, places: Tensor, axis: _Axis) -> Tensor:
    """Return how much each original element counts for each output, (outputs, size)."""
    # An antialiasing filter is stretched by what is left out between two outputs.
    stretch = min(axis.scale, 1.0) if call.get("antialias", 0) else 1.0
    support = (1.0 if mode in {"linear", "bilinear"} else 2.0) / stretch
    reach = math.ceil(support) + 1
    first = places.floor().long() - reach + 1
    taps = first[:, None] + torch.arange(2 * reach)
    distance = (taps - places[:, None]) * stretch
    if mode in {"linear", "bilinear"}:
        weights = (1 - distance.abs()).clamp(min=0)
    else:
        weights = _cubic(distance.abs(), call.get("cubic_coeff_a", -0.75))
    if call.get("exclude_outside", 0):
        weights = torch.where((taps < 0) | (taps >= axis.size), 0.0, weights)
    weights = weights / weights.sum(dim=1, keepdim=True)
    matrix = torch.zeros(len(places), axis.size, dtype=torch.float64)
    return matrix.scatter_add(1, taps.clamp(0, axis.size - 1), weights)


def _cubic(distance: Tensor, coefficient: float) -> Tensor:
    """Return Keys' kernel of cubic convolution (1981, equation 4) with his ``a``."""
    a = coefficient
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return torch.where(distance <= 1, near, torch.where(distance < 2, far, 0.0))  # noqa: PLR2004


@operator("GridSample")
def _grid_sample(call: Call, x: Tensor, grid: Tensor) -> Tensor:
    mode = call.get("mode", "bilinear")
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)
    padding, is_aligned = call.get("padding_mode", "zeros"), bool(call.get("align_corners", 0))
    return functional.grid_sample(x, grid, mode, padding, is_aligned)


@operator("AffineGrid")
def _affine_grid(call: Call, theta: Tensor, size: Tensor) -> Tensor:
    return functional.affine_grid(theta, size.tolist(), bool(call.get("align_corners", 0)))
