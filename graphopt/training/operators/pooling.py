"""Operators that pool windows of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.nn import functional

from graphopt.training.operators.products import spatial_pads
from graphopt.training.operators.registry import Call, Tensor, UnsupportedForm, operator

__all__: list[str] = []

_MAXIMA = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
_SUMS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


class _Windows(NamedTuple):
    """Windows of all spatial axes; `more` is what the last ones reach over the pads."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    starts: tuple[int, ...]
    ends: tuple[int, ...]
    more: tuple[int, ...]

    def pads(self, *, is_whole: bool = True) -> list[int]:
        """Return pads as torch wants them, with or without what the last windows reach over."""
        extra = self.more if is_whole else [0] * len(self.more)
        ends = [end + one for end, one in zip(self.ends, extra, strict=True)]
        return [pad for pair in reversed(list(zip(self.starts, ends, strict=True))) for pad in pair]


def _windows(call: Call, x: Tensor) -> _Windows:
    kernel = tuple(call.get("kernel_shape"))
    rank = len(kernel)
    if rank not in _MAXIMA:
        raise UnsupportedForm(f"{rank} spatial axes")
    strides = tuple(call.get("strides", [1] * rank))
    dilations = tuple(call.get("dilations", [1] * rank))
    starts, ends = spatial_pads(call, x.shape[2:], kernel)
    more = [
        _reach(size + start + end, width, stride, dilation, is_ceil=bool(call.get("ceil_mode", 0)))
        for size, start, end, width, stride, dilation in zip(
            x.shape[2:], starts, ends, kernel, strides, dilations, strict=True
        )
    ]
    for axis, size in enumerate(x.shape[2:]):  # a window that begins in the pads behind is none
        last = size + starts[axis] + ends[axis] + more[axis]
        begin = last - (kernel[axis] - 1) * dilations[axis] - 1
        if more[axis] and begin >= size + starts[axis]:
            more[axis] -= strides[axis]
    return _Windows(kernel, strides, dilations, tuple(starts), tuple(ends), tuple(more))


def _reach(size: int, width: int, stride: int, dilation: int, *, is_ceil: bool) -> int:
    """Return by how much the last window that is rounded up exceeds an axis with its pads."""
    span = (width - 1) * dilation + 1
    rest = (size - span) % stride
    return stride - rest if is_ceil and rest else 0


@operator("MaxPool")
def _max_pool(call: Call, x: Tensor) -> Tensor:
    if call.wants(1):
        raise UnsupportedForm("output `Indices`")
    windows = _windows(call, x)
    data = x if x.is_floating_point() else x.double()  # exact for 8 bits, which are all there are
    data = functional.pad(data, windows.pads(), value=-torch.inf)
    pool = _MAXIMA[len(windows.kernel)]
    found = pool(data, windows.kernel, windows.strides, 0, windows.dilations)
    return found.to(x.dtype)


@operator("AveragePool")
def _average_pool(call: Call, x: Tensor) -> Tensor:
    windows = _windows(call, x)
    counted = torch.ones_like(x[:1, :1])
    if call.get("count_include_pad", 0):
        counted = functional.pad(counted, windows.pads(is_whole=False), value=1.0)
        rest = windows._replace(starts=(0,) * len(windows.more), ends=(0,) * len(windows.more))
        return _sums(x, windows) / _sums(counted, rest)
    return _sums(x, windows) / _sums(counted, windows)


@operator("LpPool", since=2)
def _lp_pool(call: Call, x: Tensor) -> Tensor:
    power = call.get("p", 2)
    return _sums(x.abs() ** power, _windows(call, x)) ** (1.0 / power)


def _sums(x: Tensor, windows: _Windows) -> Tensor:
    """Return the sum of each window, by a convolution with ones of every channel by itself."""
    rank = len(windows.kernel)
    padded = functional.pad(x, windows.pads())
    flat = padded.reshape(-1, 1, *padded.shape[2:])
    ones = torch.ones((1, 1, *windows.kernel), dtype=x.dtype)
    found = _SUMS[rank](flat, ones, None, windows.strides, 0, windows.dilations)
    return found.reshape(*x.shape[:2], *found.shape[2:])


def _spatial(x: Tensor) -> Sequence[int]:
    return tuple(range(2, x.dim()))


@operator("GlobalAveragePool")
def _global_average_pool(_call: Call, x: Tensor) -> Tensor:
    return x.mean(dim=_spatial(x), keepdim=True)


@operator("GlobalMaxPool")
def _global_max_pool(_call: Call, x: Tensor) -> Tensor:
    return x.amax(dim=_spatial(x), keepdim=True)


@operator("GlobalLpPool", since=2)
def _global_lp_pool(call: Call, x: Tensor) -> Tensor:
    power = call.get("p", 2)
    return (x.abs() ** power).sum(dim=_spatial(x), keepdim=True) ** (1.0 / power)
