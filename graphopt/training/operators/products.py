"""Operators that sum products: matrices, Einstein sums, convolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from graphopt.training.operators.registry import Call, Tensor, UnsupportedForm, operator

__all__ = ["spatial_pads"]

_CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_TRANSPOSED = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}


@operator("MatMul")
def _mat_mul(_call: Call, a: Tensor, b: Tensor) -> Tensor:
    return torch.matmul(a, b)


@operator("Gemm", since=7)
def _gemm(call: Call, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    alpha, beta = call.get("alpha", 1.0), call.get("beta", 1.0)
    found = torch.matmul(a.T if call.get("transA", 0) else a, b.T if call.get("transB", 0) else b)
    if alpha != 1.0:
        found = alpha * found
    if c is None:
        return found
    return found + (c if beta == 1.0 else beta * c)


@operator("Einsum")
def _einsum(call: Call, *given: Tensor) -> Tensor:
    return torch.einsum(call.get("equation"), *given)


@operator("Conv")
def _conv(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    rank = x.dim() - 2
    if rank not in _CONVOLUTIONS:
        raise UnsupportedForm(f"{rank} spatial axes")
    strides, dilations = _per_axis(call, "strides", rank), _per_axis(call, "dilations", rank)
    starts, ends = spatial_pads(call, x.shape[2:], weight.shape[2:])
    if list(starts) != list(ends):
        x = functional.pad(x, _pairs(starts, ends))
        starts = [0] * rank
    return _CONVOLUTIONS[rank](
        x, weight, bias, strides, tuple(starts), dilations, call.get("group", 1)
    )


@operator("ConvTranspose")
def _conv_transpose(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    rank = x.dim() - 2
    if rank not in _TRANSPOSED:
        raise UnsupportedForm(f"{rank} spatial axes")
    strides, dilations = _per_axis(call, "strides", rank), _per_axis(call, "dilations", rank)
    # All that there is, without pads; what pads take away is cut off afterwards.
    full = _TRANSPOSED[rank](x, weight, None, strides, 0, 0, call.get("group", 1), dilations)
    extra = list(call.get("output_padding", [0] * rank))
    starts, ends = _transposed_pads(call, full.shape[2:], extra, x.shape[2:], strides)
    found = functional.pad(
        full,
        _pairs(
            [-pad for pad in starts], [more - pad for more, pad in zip(extra, ends, strict=True)]
        ),
    )
    return found if bias is None else found + bias.reshape(1, -1, *[1] * rank)


def _transposed_pads(
    call: Call,
    full: Sequence[int],
    extra: Sequence[int],
    size: Sequence[int],
    strides: Sequence[int],
) -> tuple[list[int], list[int]]:
    """Return what is cut off at both ends of each axis, from a full result."""
    rank, automatic = len(full), call.get("auto_pad", "NOTSET")
    wanted = call.get("output_shape")
    if wanted is None and automatic in {"SAME_UPPER", "SAME_LOWER"}:
        wanted = [length * stride for length, stride in zip(size, strides, strict=True)]
    if wanted is None:
        pads = list(call.get("pads", [0] * (2 * rank)))
        return pads[:rank], pads[rank:]
    starts, ends = [], []
    for length, more, goal in zip(full, extra, list(wanted)[-rank:], strict=True):
        total = length + more - goal
        less, rest = total // 2, total - total // 2
        # ConvTranspose 11: SAME_UPPER puts the larger half behind, everything else in front.
        starts.append(less if automatic == "SAME_UPPER" else rest)
        ends.append(rest if automatic == "SAME_UPPER" else less)
    return starts, ends


def _per_axis(call: Call, name: str, rank: int) -> tuple[int, ...]:
    return tuple(call.get(name, [1] * rank))


def _pairs(starts: Sequence[int], ends: Sequence[int]) -> list[int]:
    """Return pads as torch wants them: last axis first, start and end of each."""
    pairs = list(zip(starts, ends, strict=True))[::-1]
    return [amount for pair in pairs for amount in pair]


def spatial_pads(
    call: Call, sizes: Sequence[int], kernel: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Return the pads of a convolution or pooling at the start and at the end of each axis."""
    rank = len(sizes)
    automatic = call.get("auto_pad", "NOTSET")
    if automatic in {"NOTSET", ""}:
        pads = list(call.get("pads", [0] * (2 * rank)))
        return pads[:rank], pads[rank:]
    if automatic == "VALID":
        return [0] * rank, [0] * rank
    strides, dilations = _per_axis(call, "strides", rank), _per_axis(call, "dilations", rank)
    starts, ends = [], []
    for size, width, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        outputs = -(-size // stride)
        total = max((outputs - 1) * stride + (width - 1) * dilation + 1 - size, 0)
        small, large = total // 2, total - total // 2
        starts.append(small if automatic == "SAME_UPPER" else large)
        ends.append(large if automatic == "SAME_UPPER" else small)
    return starts, ends
