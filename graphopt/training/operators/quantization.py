"""Operators between floats and integers, and sums of products of integers."""

from __future__ import annotations

import torch

from graphopt.training.operators.element_types import torch_type
from graphopt.training.operators.registry import Call, Tensor, UnsupportedForm, operator

__all__: list[str] = []

_BOUNDS = {torch.uint8: (0, 255), torch.int8: (-128, 127), torch.uint16: (0, 65535)}
_BOUNDS |= {torch.int16: (-32768, 32767), torch.int32: (-(2**31), 2**31 - 1)}


def _laid_out(call: Call, x: Tensor, parameter: Tensor) -> Tensor:
    """Return a scale or zero point in a shape that broadcasts to what it belongs to."""
    if parameter.numel() == 1 and parameter.dim() <= 1:
        return parameter.reshape(())
    axis = call.get("axis", 1) % x.dim()
    block = call.get("block_size", 0)
    if block:
        return parameter.repeat_interleave(block, dim=axis).narrow(axis, 0, x.shape[axis])
    return parameter.reshape([-1 if number == axis else 1 for number in range(x.dim())])


@operator("DequantizeLinear", since=10)
def _dequantize_linear(
    call: Call, x: Tensor, scale: Tensor, zero_point: Tensor | None = None
) -> Tensor:
    found = x.to(scale.dtype)
    if zero_point is not None:
        found = found - _laid_out(call, x, zero_point).to(scale.dtype)
    return found * _laid_out(call, x, scale)


@operator("QuantizeLinear", since=10)
def _quantize_linear(
    call: Call, x: Tensor, scale: Tensor, zero_point: Tensor | None = None
) -> Tensor:
    wanted = call.get("output_dtype", 0)
    if zero_point is not None and zero_point.dtype not in _BOUNDS:
        raise UnsupportedForm(f"to {zero_point.dtype}")
    kind = torch_type(wanted) if wanted else torch.uint8 if zero_point is None else zero_point.dtype
    found = torch.round(x / _laid_out(call, x, scale))
    if zero_point is not None:
        found = found + _laid_out(call, x, zero_point).to(found.dtype)
    return found.clamp(*_BOUNDS[kind]).to(kind)


@operator("DynamicQuantizeLinear")
def _dynamic_quantize_linear(_call: Call, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
    scale = (high - low) / 255
    divisor = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero_point = torch.round((0 - low / divisor).clamp(0, 255)).to(torch.uint8)
    found = torch.round(x / divisor) + zero_point
    return found.clamp(0, 255).to(torch.uint8), scale, zero_point


def _centred(x: Tensor, zero_point: Tensor | None, axis: int) -> Tensor:
    """Return integers less their zero point, in double precision, in which sums are exact."""
    found = x.double()
    if zero_point is None:
        return found
    offset = zero_point.double()
    if offset.dim() == 1 and offset.numel() > 1:
        offset = offset.reshape(
            [-1 if number == axis % x.dim() else 1 for number in range(x.dim())]
        )
    return found - offset


@operator("MatMulInteger")
def _mat_mul_integer(
    _call: Call, a: Tensor, b: Tensor, a_zero: Tensor | None = None, b_zero: Tensor | None = None
) -> Tensor:
    found = torch.matmul(_centred(a, a_zero, -2), _centred(b, b_zero, -1))
    return found.to(torch.int32)
