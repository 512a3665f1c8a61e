"""Operators that normalize."""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from graphopt.training.operators.registry import Call, Tensor, UnsupportedForm, operator

__all__ = ["layer_normalization", "rms_normalization"]


@operator("BatchNormalization", since=7)
def _batch_normalization(
    call: Call, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor
) -> Tensor:
    if call.get("training_mode", 0) or call.wants(1):
        raise UnsupportedForm("training_mode, which updates statistics")
    shape = [1, -1, *[1] * (x.dim() - 2)]
    factor = scale * torch.rsqrt(variance + call.get("epsilon", 1e-5))
    return x * factor.reshape(shape) + (bias - mean * factor).reshape(shape)


@operator("InstanceNormalization")
def _instance_normalization(call: Call, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return functional.instance_norm(x, weight=scale, bias=bias, eps=call.get("epsilon", 1e-5))


@operator("GroupNormalization", since=18)
def _group_normalization(call: Call, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    groups = call.get("num_groups")
    if call.version < 21:  # noqa: PLR2004 - opset: one number for each group before
        repeats = x.shape[1] // groups
        scale, bias = scale.repeat_interleave(repeats), bias.repeat_interleave(repeats)
    return functional.group_norm(x, groups, scale, bias, call.get("epsilon", 1e-5))


def layer_normalization(
    x: Tensor, scale: Tensor, bias: Tensor | None, axis: int, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the result, the mean and the reciprocal of the deviation, over all axes from one on.

    Scale and bias may have any shape that broadcasts to those axes.
    """
    axes = tuple(range(axis % x.dim(), x.dim()))
    mean = x.mean(dim=axes, keepdim=True)
    inverse = torch.rsqrt((x - mean).square().mean(dim=axes, keepdim=True) + epsilon)
    shape = tuple(x.shape[axes[0] :])
    if tuple(scale.shape) == shape and (bias is None or tuple(bias.shape) == shape):
        found = functional.layer_norm(x, shape, scale, bias, epsilon)
    else:
        found = (x - mean) * inverse * scale
        found = found if bias is None else found + bias
    return found, mean, inverse


@operator("LayerNormalization")
def _layer_normalization(
    call: Call, x: Tensor, scale: Tensor, bias: Tensor | None = None
) -> Tensor | tuple[Tensor, ...]:
    axis, epsilon = call.get("axis", -1), call.get("epsilon", 1e-5)
    return layer_normalization(x, scale, bias, axis, epsilon)


def rms_normalization(x: Tensor, scale: Tensor, axis: int, epsilon: float) -> tuple[Tensor, Tensor]:
    """Return the result, and the reciprocal of the root mean square over all axes from one on."""
    axes = tuple(range(axis % x.dim(), x.dim()))
    inverse = torch.rsqrt(x.square().mean(dim=axes, keepdim=True) + epsilon)
    return x * inverse * scale, inverse


@operator("RMSNormalization")
def _rms_normalization(call: Call, x: Tensor, scale: Tensor) -> Tensor:
    return rms_normalization(x, scale, call.get("axis", -1), call.get("epsilon", 1e-5))[0]


@operator("LpNormalization")
def _lp_normalization(call: Call, x: Tensor) -> Tensor:
    norm = x.norm(p=call.get("p", 2), dim=call.get("axis", -1), keepdim=True)
    return torch.where(norm == 0, torch.zeros_like(x), x / norm)


@operator("MeanVarianceNormalization")
def _mean_variance_normalization(call: Call, x: Tensor) -> Tensor:
    axes = tuple(call.get("axes", [0, 2, 3]))
    centred = x - x.mean(dim=axes, keepdim=True)
    # The function of the specification adds 1e-9 to the deviation, not to the variance.
    return centred / (centred.square().mean(dim=axes, keepdim=True).sqrt() + 1e-9)


@operator("LRN")
def _local_response_normalization(call: Call, x: Tensor) -> Tensor:
    size = call.get("size")
    before = (size - 1) // 2
    padded = functional.pad(x.square().movedim(1, -1), (before, size - 1 - before))
    sums = padded.unfold(-1, size, 1).sum(-1).movedim(-1, 1)
    factor = call.get("bias", 1.0) + call.get("alpha", 1e-4) / size * sums
    return x / factor ** call.get("beta", 0.75)


# -- of com.microsoft, which the runtime's optimizers and graphopt's fusions write ---------------


@operator("LayerNormalization", domain="com.microsoft")
@operator("SimplifiedLayerNormalization")
@operator("SimplifiedLayerNormalization", domain="com.microsoft")
def _simplified_layer_normalization(
    call: Call, x: Tensor, scale: Tensor, bias: Tensor | None = None
) -> tuple[Tensor, ...]:
    axis, epsilon = call.get("axis", -1), call.get("epsilon", 1e-5)
    if call.node.op_type == "LayerNormalization":
        return layer_normalization(x, scale, bias, axis, epsilon)
    return rms_normalization(x, scale, axis, epsilon)


@operator("SkipLayerNormalization", domain="com.microsoft")
def _skip_layer_normalization(
    call: Call,
    x: Tensor,
    skip: Tensor,
    scale: Tensor,
    shift: Tensor | None = None,
    bias: Tensor | None = None,
) -> tuple[Tensor, ...]:
    total = x + skip if bias is None else x + skip + bias
    found = layer_normalization(total, scale, shift, -1, call.get("epsilon", 1e-12))
    return (*found, total)


@operator("SkipSimplifiedLayerNormalization", domain="com.microsoft")
def _skip_simplified_layer_normalization(
    call: Call, x: Tensor, skip: Tensor, scale: Tensor, bias: Tensor | None = None
) -> tuple[Tensor, ...]:
    total = x + skip if bias is None else x + skip + bias
    found, inverse = rms_normalization(total, scale, -1, call.get("epsilon", 1e-12))
    nothing = total.new_zeros(math.prod(total.shape[:-1]))
    return found, nothing, inverse, total
