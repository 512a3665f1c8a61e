"""Operators that compute each element by itself."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch.nn import functional

from graphopt.training.operators.element_types import torch_type
from graphopt.training.operators.registry import Call, Tensor, UnsupportedForm, operator

__all__: list[str] = []


def _of_one(function: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda _call, x: function(x)


_OF_ONE: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs,
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "BitwiseNot": torch.bitwise_not,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "HardSwish": functional.hardswish,
    "IsNaN": torch.isnan,
    "Log": torch.log,
    "Mish": functional.mish,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal,
    "Relu": torch.relu,
    "Round": torch.round,  # to even where it is halfway, as ONNX wants
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Softplus": functional.softplus,
    "Softsign": functional.softsign,
    "Sqrt": torch.sqrt,
    "Tan": torch.tan,
    "Tanh": torch.tanh,
}
for _name, _function in _OF_ONE.items():
    operator(_name)(_of_one(_function))

_OF_TWO: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add,
    "And": torch.logical_and,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "Less": torch.lt,
    "Mul": torch.mul,
    "Or": torch.logical_or,
    "Sub": torch.sub,
    "Xor": torch.logical_xor,
}


def _of_two(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda _call, a, b: function(a, b)


for _name, _both in _OF_TWO.items():  # before version 7 they broadcast by an attribute
    operator(_name, since=7)(_of_two(_both))
operator("GreaterOrEqual", since=12)(_of_two(torch.ge))
operator("LessOrEqual", since=12)(_of_two(torch.le))
operator("BitwiseAnd", since=18)(_of_two(torch.bitwise_and))
operator("BitwiseOr", since=18)(_of_two(torch.bitwise_or))
operator("BitwiseXor", since=18)(_of_two(torch.bitwise_xor))


@operator("Identity")
def _identity(_call: Call, x: Tensor) -> Tensor:
    return x


@operator("Div", since=7)
def _div(_call: Call, a: Tensor, b: Tensor) -> Tensor:
    return (
        torch.true_divide(a, b) if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")
    )


@operator("Mod")
def _mod(call: Call, a: Tensor, b: Tensor) -> Tensor:
    return torch.fmod(a, b) if call.get("fmod", 0) else torch.remainder(a, b)


@operator("Pow", since=7)
def _pow(_call: Call, base: Tensor, exponent: Tensor) -> Tensor:
    if not exponent.requires_grad and exponent.numel() == 1:
        # The gradient of a power by a tensor holds a logarithm: NaN for negative bases.
        return torch.pow(base, exponent.item()).to(base.dtype)
    return torch.pow(base, exponent).to(base.dtype)


@operator("BitShift")
def _bit_shift(call: Call, x: Tensor, by: Tensor) -> Tensor:
    shift = (
        torch.bitwise_left_shift if call.get("direction") == "LEFT" else torch.bitwise_right_shift
    )
    return shift(x, by)


@operator("Max", since=8)
def _max(_call: Call, *given: Tensor) -> Tensor:
    return functools.reduce(torch.maximum, given)


@operator("Min", since=8)
def _min(_call: Call, *given: Tensor) -> Tensor:
    return functools.reduce(torch.minimum, given)


@operator("Sum", since=8)
def _sum(_call: Call, *given: Tensor) -> Tensor:
    return functools.reduce(torch.add, given)


@operator("Mean", since=8)
def _mean(_call: Call, *given: Tensor) -> Tensor:
    return functools.reduce(torch.add, given) / len(given)


@operator("Where")
def _where(_call: Call, condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(condition, a, b)


@operator("Clip")
def _clip(call: Call, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    least = call.get("min") if low is None else low
    most = call.get("max") if high is None else high
    if least is not None:
        x = torch.maximum(x, torch.as_tensor(least, dtype=x.dtype))
    return x if most is None else torch.minimum(x, torch.as_tensor(most, dtype=x.dtype))


@operator("Cast")
def _cast(call: Call, x: Tensor) -> Tensor:
    return x.to(torch_type(int(call.get("to"))))


@operator("CastLike")
def _cast_like(_call: Call, x: Tensor, like: Tensor) -> Tensor:
    return x.to(like.dtype)


@operator("IsInf")
def _is_inf(call: Call, x: Tensor) -> Tensor:
    found = torch.zeros_like(x, dtype=torch.bool)
    if call.get("detect_positive", 1):
        found |= torch.isposinf(x)
    return found | torch.isneginf(x) if call.get("detect_negative", 1) else found


# -- activations -------------------------------------------------------------------------------


@operator("Gelu")
def _gelu(call: Call, x: Tensor) -> Tensor:
    return functional.gelu(x, approximate=call.get("approximate", "none"))


@operator("LeakyRelu")
def _leaky_relu(call: Call, x: Tensor) -> Tensor:
    return functional.leaky_relu(x, call.get("alpha", 0.01))


@operator("PRelu", since=7)
def _prelu(_call: Call, x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, slope * x, x)


@operator("Elu")
def _elu(call: Call, x: Tensor) -> Tensor:
    return functional.elu(x, call.get("alpha", 1.0))


@operator("Celu")
def _celu(call: Call, x: Tensor) -> Tensor:
    return functional.celu(x, call.get("alpha", 1.0))


@operator("Selu")
def _selu(call: Call, x: Tensor) -> Tensor:
    alpha = call.get("alpha", 1.67326319217681884765625)
    gamma = call.get("gamma", 1.05070102214813232421875)
    return gamma * functional.elu(x, alpha)


@operator("ThresholdedRelu")
def _thresholded_relu(call: Call, x: Tensor) -> Tensor:
    return torch.where(x > call.get("alpha", 1.0), x, torch.zeros_like(x))


@operator("HardSigmoid")
def _hard_sigmoid(call: Call, x: Tensor) -> Tensor:
    return torch.clamp(call.get("alpha", 0.2) * x + call.get("beta", 0.5), 0.0, 1.0)


@operator("Swish")
def _swish(call: Call, x: Tensor) -> Tensor:
    return x * torch.sigmoid(call.get("alpha", 1.0) * x)


@operator("Shrink")
def _shrink(call: Call, x: Tensor) -> Tensor:
    limit, bias = call.get("lambd", 0.5), call.get("bias", 0.0)
    inner = torch.where(x > limit, x - bias, torch.zeros_like(x))
    return torch.where(x < -limit, x + bias, inner)


@operator("Dropout")
def _dropout(
    call: Call, x: Tensor, _ratio: Tensor | None = None, training: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    if training is not None and bool(training):
        raise UnsupportedForm("training_mode, which draws random numbers")
    kind = torch.bool if call.version >= 10 else x.dtype  # noqa: PLR2004 - opset
    return x, torch.ones_like(x, dtype=kind)


# -- softmax -----------------------------------------------------------------------------------


def _normalized(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda call, x: function(x, dim=call.get("axis", -1))


def _coerced(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Before version 13 everything from the axis on counts as one axis."""

    def compute(call: Call, x: Tensor) -> Tensor:
        axis = call.get("axis", 1) % max(x.dim(), 1)
        rows = math.prod(x.shape[:axis])
        return function(x.reshape(rows, -1), dim=1).reshape(x.shape)

    return compute


def _hardmax(x: Tensor, dim: int) -> Tensor:
    return torch.zeros_like(x).scatter_(dim, x.argmax(dim=dim, keepdim=True), 1)


for _name, _over in (
    ("Softmax", torch.softmax),
    ("LogSoftmax", torch.log_softmax),
    ("Hardmax", _hardmax),
):
    operator(_name)(_coerced(_over))
    operator(_name, since=13)(_normalized(_over))
