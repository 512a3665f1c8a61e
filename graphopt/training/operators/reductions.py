"""Operators that reduce axes, or run along one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from graphopt.training.operators.registry import Call, Tensor, operator

__all__: list[str] = []

Reduction = Callable[[Tensor, Sequence[int]], Tensor]
"""Takes a tensor and at least one axis; keeps reduced axes with length 1."""


def _sum(x: Tensor, axes: Sequence[int]) -> Tensor:
    return x.sum(dim=axes, keepdim=True, dtype=x.dtype)


def _mean(x: Tensor, axes: Sequence[int]) -> Tensor:
    if x.is_floating_point():
        return x.mean(dim=axes, keepdim=True)
    count = 1
    for axis in axes:
        count *= x.shape[axis]
    return torch.div(_sum(x, axes), count, rounding_mode="trunc")


def _product(x: Tensor, axes: Sequence[int]) -> Tensor:
    for axis in axes:
        x = x.prod(dim=axis, keepdim=True, dtype=x.dtype)
    return x


def _extreme(function: Callable[..., Tensor], *, is_largest: bool) -> Reduction:
    def reduce(x: Tensor, axes: Sequence[int]) -> Tensor:
        if all(x.shape[axis] for axis in axes):
            return function(x, dim=axes, keepdim=True)
        dims = [1 if axis in axes else size for axis, size in enumerate(x.shape)]
        return x.new_full(dims, _bound(x.dtype, is_least=is_largest))

    return reduce


def _bound(kind: torch.dtype, *, is_least: bool) -> float:
    """Return what the extreme of no elements is: the other end of the type."""
    if kind is torch.bool:
        return 0 if is_least else 1
    if kind.is_floating_point:
        return -math.inf if is_least else math.inf
    limits = torch.iinfo(kind)  # integers: as floats, those of 64 bits are out of range
    found: float = limits.min if is_least else limits.max
    return found


def _log_sum_exp(x: Tensor, axes: Sequence[int]) -> Tensor:
    if x.is_floating_point():
        return torch.logsumexp(x, dim=axes, keepdim=True)
    return torch.logsumexp(x.double(), dim=axes, keepdim=True).to(x.dtype)


_REDUCTIONS: dict[str, tuple[int, Reduction]] = {
    "ReduceL1": (18, lambda x, axes: _sum(x.abs(), axes)),
    "ReduceL2": (18, lambda x, axes: _sum(x * x, axes).double().sqrt().to(x.dtype)),
    "ReduceLogSum": (18, lambda x, axes: _sum(x, axes).log()),
    "ReduceLogSumExp": (18, _log_sum_exp),
    "ReduceMax": (18, _extreme(torch.amax, is_largest=True)),
    "ReduceMean": (18, _mean),
    "ReduceMin": (18, _extreme(torch.amin, is_largest=False)),
    "ReduceProd": (18, _product),
    "ReduceSum": (13, _sum),
    "ReduceSumSquare": (18, lambda x, axes: _sum(x * x, axes)),
}


def _reducing(reduction: Reduction) -> Callable[..., Tensor]:
    def compute(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
        chosen = call.axes(axes) or []
        if not chosen and call.get("noop_with_empty_axes", 0):
            return reduction(x.unsqueeze(0), [0]).squeeze(0)  # each element by itself
        places = sorted(axis % x.dim() for axis in chosen) if chosen else list(range(x.dim()))
        found = reduction(x, places) if places else reduction(x.reshape(1), [0]).reshape(())
        if call.get("keepdims", 1):
            return found
        kept = [size for axis, size in enumerate(found.shape) if axis not in places]
        return found.reshape(kept)

    return compute


for _name, (_, _reduction) in _REDUCTIONS.items():  # axes: an attribute at first, then an input
    operator(_name)(_reducing(_reduction))


def _arg(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def compute(call: Call, x: Tensor) -> Tensor:
        axis, keep = call.get("axis", 0), bool(call.get("keepdims", 1))
        if not call.get("select_last_index", 0):
            return function(x, dim=axis, keepdim=keep)
        return x.shape[axis] - 1 - function(x.flip(axis), dim=axis, keepdim=keep)

    return compute


operator("ArgMax")(_arg(torch.argmax))
operator("ArgMin")(_arg(torch.argmin))


@operator("CumSum")
def _cum_sum(call: Call, x: Tensor, axis: Tensor) -> Tensor:
    return _running(call, x, int(axis), torch.cumsum)


@operator("CumProd")
def _cum_prod(call: Call, x: Tensor, axis: Tensor) -> Tensor:
    return _running(call, x, int(axis), torch.cumprod)


def _running(call: Call, x: Tensor, axis: int, function: Callable[..., Tensor]) -> Tensor:
    is_reversed = bool(call.get("reverse", 0))
    if is_reversed:
        x = x.flip(axis)
    found = function(x, dim=axis, dtype=x.dtype)
    if call.get("exclusive", 0):
        first = torch.full_like(x.narrow(axis, 0, 1), 0 if function is torch.cumsum else 1)
        found = torch.cat([first, found.narrow(axis, 0, x.shape[axis] - 1)], dim=axis)
    return found.flip(axis) if is_reversed else found


@operator("TopK")
def _top_k(call: Call, x: Tensor, count: Tensor | None = None) -> tuple[Tensor, Tensor]:
    axis, most = call.get("axis", -1), int(call.get("k") if count is None else count.item())
    # `torch.topk` chooses any of equal elements; ONNX wants the first ones.
    values, indices = torch.sort(x, dim=axis, descending=bool(call.get("largest", 1)), stable=True)
    return values.narrow(axis, 0, most), indices.narrow(axis, 0, most)
