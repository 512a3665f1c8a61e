"""Operators that multiply by constant weights: what a factor or a summand behind them becomes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.analysis.operands import int_attribute, operand
from graphopt.ir import constant_tensor

__all__ = ["Array", "WeightedLayer", "find_weighted_layer", "is_tame", "scaled_tensor"]

Array = np.ndarray[Any, Any]
_LEAST_CONV_RANK = 3
_MATRIX_RANK = 2
_LEAST, _MOST = math.ldexp(1.0, -30), math.ldexp(1.0, 30)
_EAGER_ELEMENTS = 1 << 16
_FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE)
"""What folds: half precision would lose more by rounding weights again than contracts allow."""


@dataclass(frozen=True)
class WeightedLayer:
    """A node that is linear in a constant weight: ``f(x, s W) = s f(x, W)``.

    Attributes:
        node: The node.
        weight: Index of the input that is the weight.
        bias: Index of the input that is added, which may be left out; ``None``: there is none.
        shift_factor: What is added to the result comes this many times of what is added to the
            bias; 0: the bias cannot take it.
        channels: Size of the axis along which each weight belongs to one index; ``None``: only one
            factor for all can be taken in.
        trailing: Number of axes of the result after that axis.
        view: Shape to see the weight in, so that a vector over the channels broadcasts.
        spread: Shape to see such a vector in.
    """

    node: ir.Node
    weight: int
    bias: int | None
    channels: int | None
    trailing: int
    view: tuple[int, ...]
    spread: tuple[int, ...]
    shift_factor: float = 1.0

    @property
    def tensor(self) -> ir.TensorProtocol:
        """The weight."""
        found = constant_tensor(self.node.inputs[self.weight])
        assert found is not None
        return found

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Tell whether factors or summands of ``shape``, without leading ones, are per channel.

        The empty shape, one number for all, always is.
        """
        if not shape:
            return True
        return self.channels is not None and shape == (self.channels,) + (1,) * self.trailing

    def scaled_weight(self, factors: Array) -> ir.TensorProtocol:
        """Return the weight multiplied by ``factors``; see `scaled_tensor`."""
        by = factors.reshape(self.spread) if factors.ndim else factors
        return scaled_tensor(self.tensor, self.view, by)


def scaled_tensor(
    tensor: ir.TensorProtocol, view: tuple[int, ...], factors: Array
) -> ir.TensorProtocol:
    """Return a tensor, seen in the shape ``view``, multiplied by ``factors`` and rounded once.

    A large one is multiplied each time that it is read, so that no copy of it stays in memory.
    """

    def compute() -> ir.TensorProtocol:
        array = tensor.numpy()
        product = np.empty_like(array, shape=view)
        # In double precision, and in pieces: NumPy makes no copy of the whole in that type.
        with np.errstate(all="ignore"):  # infinite weights stay so
            np.multiply(array.reshape(view), factors, out=product, casting="same_kind")
        return ir.tensor(product.reshape(array.shape))

    if tensor.size <= _EAGER_ELEMENTS:
        return compute()
    return ir.LazyTensor(compute, dtype=tensor.dtype, shape=ir.Shape(tensor.shape.numpy()))


def find_weighted_layer(node: ir.Node) -> WeightedLayer | None:
    """Return ``node`` as a layer with a constant weight of floats, or ``None``."""
    rule = _RULES.get(node.op_type) if not node.domain else None
    found = rule(node) if rule is not None else None
    return found if found is not None and found.tensor.dtype in _FLOATS else None


def _shape(node: ir.Node, index: int) -> tuple[int, ...] | None:
    tensor = constant_tensor(operand(node, index))
    return None if tensor is None else tuple(int(size) for size in tensor.shape.numpy())


def _conv(node: ir.Node) -> WeightedLayer | None:
    shape = _shape(node, 1)
    if shape is None or len(shape) < _LEAST_CONV_RANK:
        return None
    kernel = len(shape) - 2
    spread = (shape[0],) + (1,) * (kernel + 1)
    return WeightedLayer(node, 1, 2, shape[0], kernel, shape, spread)


def _conv_transpose(node: ir.Node) -> WeightedLayer | None:
    shape, groups = _shape(node, 1), int_attribute(node, "group", 1)
    if shape is None or not groups or len(shape) < _LEAST_CONV_RANK or shape[0] % groups:
        return None
    kernel = len(shape) - 2
    view = (groups, shape[0] // groups, *shape[1:])
    spread = (groups, 1, shape[1]) + (1,) * kernel
    return WeightedLayer(node, 1, 2, groups * shape[1], kernel, view, spread)


def _gemm(node: ir.Node) -> WeightedLayer | None:
    shape, is_transposed = _shape(node, 1), int_attribute(node, "transB", 0)
    beta = node.attributes.get("beta")
    if shape is None or is_transposed is None or len(shape) != _MATRIX_RANK:
        return None
    if any(attribute.is_ref() for attribute in node.attributes.values()):
        return None
    width = shape[0] if is_transposed else shape[1]
    spread = (width, 1) if is_transposed else (1, width)
    multiple = 1.0 if beta is None else beta.as_float()
    return WeightedLayer(node, 1, 2, width, 0, shape, spread, shift_factor=multiple)


def _matmul(node: ir.Node) -> WeightedLayer | None:
    shape = _shape(node, 1)
    if shape is not None and len(shape) >= _MATRIX_RANK:
        spread = (1,) * (len(shape) - 1) + shape[-1:]
        return WeightedLayer(node, 1, None, shape[-1], 0, shape, spread)
    shape = _shape(node, 0)
    if shape is None or len(shape) < _MATRIX_RANK:
        return None
    return WeightedLayer(node, 0, None, None, 0, shape, ())


def _normalization(node: ir.Node) -> WeightedLayer | None:
    shape = _shape(node, 1)
    if shape is None or len(shape) != 1 or int_attribute(node, "axis", -1) != -1:
        return None
    # Mean and deviation do not grow with the weight.
    if len(node.outputs) > 1:
        return None
    return WeightedLayer(node, 1, 2, shape[0], 0, shape, shape)


def _gather(node: ir.Node) -> WeightedLayer | None:
    shape = _shape(node, 0)
    return None if not shape else WeightedLayer(node, 0, None, None, 0, shape, ())


_RULES: dict[str, Callable[[ir.Node], WeightedLayer | None]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gather": _gather,
    "Gemm": _gemm,
    "LayerNormalization": _normalization,
    "MatMul": _matmul,
}


def is_tame(factors: Array) -> bool:
    """Tell whether multiplying weights by ``factors`` neither overflows nor loses their precision.

    Zeros are tame: they make a zero of every finite number, now or later.
    """
    sizes = np.abs(factors[factors != 0])
    return bool(np.isfinite(factors).all() and ((sizes >= _LEAST) & (sizes <= _MOST)).all())
