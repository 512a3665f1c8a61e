"""Where factors of the channels of an activation may go upwards, beyond the layer before it.

`scale_paths` goes through what is linear and keeps the channels where they are. Positive factors
also go through what is linear on either side of 0, to one side of a product of two activations,
and through attention, whose weights mix positions and no channels, to the values.
"""

from __future__ import annotations

import math

import onnx_ir as ir

from graphopt.analysis.constant_arithmetic import Replacement, is_private
from graphopt.analysis.operands import int_attribute, operand, transpose_permutation
from graphopt.analysis.scale_paths import Outcome, Refused, absorbed_by
from graphopt.analysis.weighted_layers import Array, is_tame
from graphopt.ir import constant_tensor
from graphopt.rewrite import ShapeTable

__all__ = ["channels_scaled_above"]

_MOST_STEPS = 6
_HEADS_SECOND = (0, 2, 1, 3)
_HALVES = frozenset({"LeakyRelu", "PRelu", "Relu"})
_PAST = {"": (4, 5), "com.microsoft": (6, 7)}
"""Inputs of operators of attention that hold keys and values of earlier runs."""

_NORMALIZATIONS = frozenset({"RMSNormalization", "SimplifiedLayerNormalization"})


def channels_scaled_above(
    value: ir.Value, factors: Array, shapes: ShapeTable, steps: int = _MOST_STEPS
) -> Outcome:
    """Return what multiplies the last axis of ``value`` by ``factors`` without a node for it.

    Args:
        value: Whoever reads it reads it scaled; the caller answers for them.
        factors: Positive, ``(channels,)``.
        shapes: Shapes of the values.
        steps: How many nodes to go through at most.
    """
    node = value.producer()
    if node is None or not steps or not is_tame(factors):
        return None
    found = absorbed_by(node, value, factors, shapes, steps) if not node.domain else None
    if isinstance(found, tuple):
        return found
    rule = _RULES.get((node.domain, node.op_type))
    further = None if rule is None else rule(node, factors, shapes, steps - 1)
    return further if further is not None else found


def _private(value: ir.Value | None, factors: Array, shapes: ShapeTable, steps: int) -> Outcome:
    if value is None or constant_tensor(value) is not None:
        return None
    if not is_private(value):
        return Refused("read-elsewhere")
    return channels_scaled_above(value, factors, shapes, steps)


def _half(node: ir.Node, factors: Array, shapes: ShapeTable, steps: int) -> Outcome:
    """``f(s x) = s f(x)`` for positive ``s``."""
    return _private(node.inputs[0], factors, shapes, steps)


def _product(node: ir.Node, factors: Array, shapes: ShapeTable, steps: int) -> Outcome:
    """One side of a gate takes the factors: the linear one, as the other is not linear."""
    found: Outcome = None
    for index in (1, 0):
        source = node.inputs[index]
        known = shapes.of(source)
        if known is None or not known.dims or known.dims[-1] != len(factors):
            continue
        found = _private(source, factors, shapes, steps)
        if isinstance(found, tuple):
            return found
    return found


def _normalization(node: ir.Node, factors: Array, shapes: ShapeTable, steps: int) -> Outcome:
    """Scale the weight of a root-mean-square normalization, which has no bias."""
    del steps, shapes
    weight, tensor = operand(node, 1), constant_tensor(operand(node, 1))
    if weight is None or tensor is None or tensor.dtype != ir.DataType.FLOAT:
        return None
    if int_attribute(node, "axis", -1) != -1 or tuple(tensor.shape.numpy()) != factors.shape:
        return None
    if len(node.outputs) > 1 and any(output.uses() for output in node.outputs[1:]):
        return None
    array = tensor.numpy()
    return (Replacement(node, 1, ir.tensor((array * factors).astype(array.dtype))),)


def _joined_heads(node: ir.Node, factors: Array, shapes: ShapeTable, steps: int) -> Outcome:
    """``Reshape(Transpose(MatMul(weights, values)))``: the heads of attention side by side."""
    joined = _only(node.inputs[0], "Transpose")
    product = None if joined is None else _only(joined.inputs[0], "MatMul")
    split = None if product is None else _only(product.inputs[1], "Transpose")
    reshape = None if split is None else _only(split.inputs[0], "Reshape")
    if joined is None or split is None or reshape is None:
        return None
    if not (_exchanges_heads(joined, shapes) and _exchanges_heads(split, shapes)):
        return None
    heads = _last_dims(joined.outputs[0], shapes, 2)
    width = len(factors)
    is_alike = heads == _last_dims(reshape.outputs[0], shapes, 2) and math.prod(heads) == width
    if not is_alike or _last_dims(reshape.inputs[0], shapes, 1) != (width,):
        return None
    return _private(reshape.inputs[0], factors, shapes, steps)


def _last_dims(value: ir.Value | None, shapes: ShapeTable, count: int) -> tuple[int, ...]:
    """Return the last dimensions of a value; none where they are not known numbers."""
    known = shapes.of(value)
    dims = () if known is None or known.dims is None else known.dims[-count:]
    numbers = tuple(dim for dim in dims if isinstance(dim, int))
    return numbers if len(numbers) == count else ()


def _only(value: ir.Value | None, op_type: str) -> ir.Node | None:
    node = None if value is None else value.producer()
    if value is None or node is None or node.domain or node.op_type != op_type:
        return None
    return node if is_private(value) else None


def _exchanges_heads(node: ir.Node, shapes: ShapeTable) -> bool:
    known = shapes.of(node.inputs[0])
    if known is None or known.dims is None:
        return False
    return transpose_permutation(node, len(known.dims)) == _HEADS_SECOND


def _fused_attention(node: ir.Node, factors: Array, shapes: ShapeTable, steps: int) -> Outcome:
    """The values of an attention operator are as wide as its result where heads are not shared."""
    values = operand(node, 2)
    known = shapes.of(values)
    if known is None or known.dims is None or len(known.dims) != len(("batch", "time", "width")):
        return None
    # The operator adds it after the factors: a part of it would have to be scaled, too.
    has_bias = node.domain == "com.microsoft" and operand(node, 3) is not None
    if known.dims[-1] != len(factors) or has_bias or len(node.outputs) > 1:
        return None
    # Values of earlier runs are not scaled with those of this one, whoever hands them on.
    if any(operand(node, index) is not None for index in _PAST[node.domain]):
        return None
    counts = [int_attribute(node, name, 0) for name in ("q_num_heads", "kv_num_heads")]
    # Where queries share values, the result is wider than these are.
    if counts[0] != counts[1]:
        return None
    return _private(values, factors, shapes, steps)


_RULES = {
    ("", "Mul"): _product,
    ("", "Reshape"): _joined_heads,
    ("", "Attention"): _fused_attention,
    ("com.microsoft", "MultiHeadAttention"): _fused_attention,
    **{("", name): _half for name in _HALVES},
    **{("", name): _normalization for name in _NORMALIZATIONS},
}
