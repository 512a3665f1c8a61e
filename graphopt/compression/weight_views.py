"""Which inputs of an operator are weights, and along which of their axes it sums."""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as ir

from graphopt.compression.packed_weight import WeightView
from graphopt.compression.weight_source import WeightSource

__all__ = ["WEIGHT_INPUTS", "weight_view"]

WEIGHT_INPUTS = {
    "Conv": (1,),
    "ConvTranspose": (1,),
    "MatMul": (1,),
    "Gemm": (1,),
    "LSTM": (1, 2),
    "GRU": (1, 2),
    "RNN": (1, 2),
    "Gather": (0,),
}
"""Operator of the default domain to its inputs that hold weights; biases are not among them."""

_MATRIX_RANK = 2


def weight_view(node: ir.Node, weight: WeightSource) -> WeightView | None:
    """Return how a weight, as it is stored, is seen by the operator that reads it.

    Args:
        node: One of `WEIGHT_INPUTS`.
        weight: What it reads, perhaps with its axes in another order than they are stored.

    Returns:
        The view, or ``None`` where the rank is none that the operator can have.
    """
    shape, kernel = weight.shape, 1
    if len(shape) < _MATRIX_RANK:
        return None
    summed = _summed_axes(node, len(shape))
    if node.op_type == "Conv":
        kernel = math.prod(shape[2:])
    if weight.is_reordered:
        summed = sorted(weight.order[axis] for axis in summed)
        kernel = 1
    stored = weight.tensor.shape.numpy()
    first, last = summed[0], summed[-1] + 1
    if list(summed) != list(range(first, last)):
        return WeightView(math.prod(stored[:-1]), stored[-1], 1)
    length = math.prod(stored[first:last])
    return WeightView(math.prod(stored[:first]), length, math.prod(stored[last:]), kernel)


def _summed_axes(node: ir.Node, rank: int) -> Sequence[int]:
    match node.op_type:
        case "Conv":  # (outputs, inputs per group, *kernel)
            return range(1, rank)
        case "ConvTranspose":  # (inputs, outputs per group, *kernel); depthwise sums over nothing
            is_grouped = (node.attributes.get_int("group") or 1) > 1
            return range(1, rank) if is_grouped else (0,)
        case "MatMul":
            return (rank - 2,)
        case "Gemm":
            return (1,) if node.attributes.get_int("transB") else (0,)
        case "Gather":  # a row is read as a whole
            return range(1, rank)
        case _:  # recurrent: (directions, gates x hidden, inputs)
            return (rank - 1,)
