"""Layers whose constant weights may take in what is done to their input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt.analysis.constant_arithmetic import Replacement, constant_of, is_shared
from graphopt.analysis.operands import int_attribute, ints_attribute, operand
from graphopt.analysis.weighted_layers import Array, is_tame, scaled_tensor
from graphopt.ir import as_tensor, constant_tensor

__all__ = ["Uptake", "find_uptake", "replacements_for"]

_FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE)
_LEAST_CONV_RANK = 3
_MATRIX_RANK = 2
_MOST_READ = 1 << 22
"""Larger weights are not summed up for what is added before them."""


@dataclass(frozen=True)
class Uptake:
    """How a layer takes in factors and summands of its first input.

    Attributes:
        node: The layer; its weight is input 1, its bias input 2.
        view: Shape to see the weight in.
        spread: Shape to see a vector over the channels in.
        summed: Axes of the view that summands are summed over.
        channels: Number of channels.
        trailing: Number of axes of the input after the channels.
        takes_summands: Whether the bias may take what is added before the weight.
        bias_factor: How often a summand counts in the bias.
    """

    node: ir.Node
    view: tuple[int, ...]
    spread: tuple[int, ...]
    summed: tuple[int, ...]
    channels: int
    trailing: int
    takes_summands: bool
    bias_factor: float = 1.0

    @property
    def tensor(self) -> ir.TensorProtocol:
        """The weight."""
        found = constant_tensor(self.node.inputs[1])
        assert found is not None
        return found

    def fits(self, array: Array | None) -> bool:
        """Tell whether there is one number, or one for each channel."""
        if array is None or not array.shape:
            return True
        per_channel = (self.channels,) + (1,) * self.trailing
        return tuple(array.shape) == per_channel

    def over_channels(self, array: Array) -> Array:
        """Return numbers for the channels in a shape that broadcasts with the view."""
        return array.reshape(self.spread) if array.ndim else array


def replacements_for(
    node: ir.Node, factors: Array, summands: Array | None
) -> tuple[Replacement, ...] | str | None:
    """Return the constants with which ``node`` may read ``x`` for ``factors * x + summands``.

    A refusal where the weight must stay; ``None`` where the node is no such layer.
    """
    rule = _RULES.get(node.op_type) if not node.domain else None
    found = rule(node) if rule is not None else None
    weight = operand(node, 1)
    if found is None or weight is None or found.tensor.dtype not in _FLOATS:
        return None
    if not (found.fits(factors) and found.fits(summands) and is_tame(factors)):
        return None
    if is_shared(weight):
        return "shared-weight"
    by = found.over_channels(factors)
    done = (Replacement(node, 1, scaled_tensor(found.tensor, found.view, by)),)
    if summands is None or not summands.any():
        return done
    bias = _bias(found, summands)
    return bias if not isinstance(bias, Replacement) else (*done, bias)


def _bias(found: Uptake, summands: Array) -> Replacement | str | None:
    """Return the bias with what ``summands`` come to behind the weight."""
    tensor = found.tensor
    if not found.takes_summands or tensor.size > _MOST_READ or not np.isfinite(summands).all():
        return "padded"
    weight = tensor.numpy().astype(np.float64).reshape(found.view)
    total = (weight * found.over_channels(summands)).sum(axis=found.summed).reshape(-1)
    total = total * found.bias_factor
    if operand(found.node, 2) is not None:
        old = constant_of(found.node, 2)
        if old is None or old.is_shared or old.array.ndim > 1:
            return "shared-weight"
        total = total + old.array
    stored = total.astype(tensor.dtype.numpy())
    return Replacement(found.node, 2, as_tensor(stored, "")) if np.isfinite(stored).all() else None


def _shape(node: ir.Node) -> tuple[int, ...] | None:
    tensor = constant_tensor(operand(node, 1))
    return None if tensor is None else tuple(int(size) for size in tensor.shape.numpy())


def _conv(node: ir.Node) -> Uptake | None:
    shape, groups = _shape(node), int_attribute(node, "group", 1)
    if shape is None or not groups or len(shape) < _LEAST_CONV_RANK or shape[0] % groups:
        return None
    kernel = (1,) * (len(shape) - 2)
    return Uptake(
        node=node,
        view=(groups, shape[0] // groups, *shape[1:]),
        spread=(groups, 1, shape[1], *kernel),
        summed=tuple(range(2, len(shape) + 1)),
        channels=groups * shape[1],
        trailing=len(kernel),
        takes_summands=_is_unpadded(node),
    )


def _is_unpadded(node: ir.Node) -> bool:
    """Tell whether a Conv sees nothing but its input: padding is 0 whatever was added before."""
    automatic = node.attributes.get("auto_pad")
    if automatic is not None and (automatic.is_ref() or automatic.as_string() != "NOTSET"):
        return not automatic.is_ref() and automatic.as_string() == "VALID"
    pads = ints_attribute(node, "pads")
    return "pads" not in node.attributes or (pads is not None and not any(pads))


def _gemm(node: ir.Node) -> Uptake | None:
    shape, is_transposed = _shape(node), int_attribute(node, "transB", 0)
    if shape is None or is_transposed is None or int_attribute(node, "transA", 0) != 0:
        return None
    given = [node.attributes.get(name) for name in ("alpha", "beta")]
    if any(one is not None and one.is_ref() for one in given):
        return None
    alpha, beta = (1.0 if one is None else one.as_float() for one in given)
    inner = 1 if is_transposed else 0
    return Uptake(
        node=node,
        view=shape,
        spread=(1, shape[1]) if is_transposed else (shape[0], 1),
        summed=(inner,),
        channels=shape[inner],
        trailing=0,
        # With a beta of 0 the bias is left out.
        takes_summands=beta != 0,
        bias_factor=alpha / beta if beta else 0.0,
    )


def _matmul(node: ir.Node) -> Uptake | None:
    shape = _shape(node)
    if shape is None or len(shape) < _MATRIX_RANK:
        return None
    spread = (1,) * (len(shape) - 2) + (shape[-2], 1)
    return Uptake(node, shape, spread, (len(shape) - 2,), shape[-2], 0, takes_summands=False)


_RULES: dict[str, Callable[[ir.Node], Uptake | None]] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
}


def find_uptake(node: ir.Node) -> Uptake | None:
    """Return ``node`` as a layer whose constant float weight takes in factors of its input."""
    rule = _RULES.get(node.op_type) if not node.domain else None
    found = rule(node) if rule is not None else None
    return found if found is not None and found.tensor.dtype in _FLOATS else None
