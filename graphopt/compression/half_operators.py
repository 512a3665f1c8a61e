"""Which operators can compute in 16-bit floats, and which had better not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import onnx
import onnx_ir as ir

from graphopt.analysis import Operators
from graphopt.analysis.operands import int_attribute
from graphopt.compression.half_formats import HalfFormat

__all__ = ["KEPT_OPERATORS", "HalfSlots", "half_slots", "provider_lacks"]

_SUMS = "it sums squares or exponentials, which outgrow 16 bits before the result does"
_COORDINATES = "coordinates need more than 11 bits"
_RANDOM = "other numbers would be drawn"
_SCALES = "scales of integers need all their digits"
_TYPED = "its type is an attribute, and its result is small"
_INSIDE = "its subgraph is not measured"

KEPT_OPERATORS: dict[str, str] = {
    "Bernoulli": _RANDOM,
    "BlackmanWindow": _TYPED,
    "CumSum": "sums grow with the length, and steps get lost in them",
    "DFT": _SUMS,
    "DequantizeLinear": _SCALES,
    "Det": "a product of many numbers leaves the range of 16 bits",
    "DynamicQuantizeLinear": _SCALES,
    "EyeLike": _TYPED,
    "GridSample": _COORDINATES,
    "HammingWindow": _TYPED,
    "HannWindow": _TYPED,
    "If": _INSIDE,
    "Loop": _INSIDE,
    "LpNormalization": _SUMS,
    "LpPool": _SUMS,
    "GlobalLpPool": _SUMS,
    "MaxRoiPool": _COORDINATES,
    "MelWeightMatrix": _TYPED,
    "Multinomial": _RANDOM,
    "NonMaxSuppression": _COORDINATES,
    "QuantizeLinear": _SCALES,
    "RandomNormal": _RANDOM,
    "RandomNormalLike": _RANDOM,
    "RandomUniform": _RANDOM,
    "RandomUniformLike": _RANDOM,
    "Range": "it counts in steps that 16 bits cannot hold",
    "ReduceL2": _SUMS,
    "ReduceLogSum": _SUMS,
    "ReduceLogSumExp": _SUMS,
    "ReduceSumSquare": _SUMS,
    "RoiAlign": _COORDINATES,
    "STFT": _SUMS,
    "Scan": _INSIDE,
    "SequenceMap": _INSIDE,
    "TopK": "numbers that 16 bits cannot tell apart change places",
}
"""Operators that stay in 32 bits by default, and why."""

# Operators of ONNX Runtime whose floats are all of one type; outputs that stay float32 by index.
_CONTRIB: dict[str, tuple[int, ...]] = {
    "Attention": (),
    "BiasGelu": (),
    "EmbedLayerNormalization": (1,),  # positions of the mask, integers
    "FastGelu": (),
    "FusedGemm": (),
    "FusedMatMul": (),
    "Gelu": (),
    "GroupQueryAttention": (),
    "MultiHeadAttention": (),
    "QuickGelu": (),
    "RotaryEmbedding": (),
    "SkipLayerNormalization": (1, 2),
    "SkipSimplifiedLayerNormalization": (1, 2),
}

# What a provider computes, for want of a kernel for 16 bits, on another device or not at all. The
# CPU provider is not here: it casts to 32 bits around what it has no kernel for.
_WITHOUT_KERNEL: dict[str, frozenset[str]] = {
    "CUDAExecutionProvider": frozenset(
        {"Acos", "Acosh", "AffineGrid", "Asin", "Asinh", "Atan", "Atanh", "Celu", "Cosh", "Hardmax"}
        | {"MaxUnpool", "MeanVarianceNormalization", "Mish", "Sinh", "Shrink", "Tan", "Unique"}
    )
}


class HalfSlots(NamedTuple):
    """Which inputs and outputs of a node can be 16-bit floats, by index."""

    inputs: tuple[bool, ...]
    outputs: tuple[bool, ...]


def provider_lacks(node: ir.Node, provider: str, half: HalfFormat) -> bool:
    """Tell whether an execution provider has no kernel of a 16-bit type for ``node``."""
    if provider == "CPUExecutionProvider" and half.dtype == ir.DataType.BFLOAT16:
        return True  # it converts around what it cannot compute, but for float16 only
    return not node.domain and node.op_type in _WITHOUT_KERNEL.get(provider, ())


def half_slots(node: ir.Node, operators: Operators, half: HalfFormat) -> HalfSlots | None:
    """Return what of ``node`` its schema allows to be of a 16-bit type.

    Returns:
        ``None`` where the operator is not known.
    """
    if node.domain == "com.microsoft":
        return _contrib_slots(node, half)
    schema = operators.schema(node)
    if schema is None:
        return None
    allowed = {
        constraint.type_param_str
        for constraint in schema.type_constraints
        if half.type_string in constraint.allowed_type_strs
    }
    if not node.domain and node.op_type in ("LayerNormalization", "GroupNormalization"):
        # Mean and deviation have the type in which they are computed, 32 bits by default.
        allowed -= {"U"} if int_attribute(node, "stash_type", 1) == ir.DataType.FLOAT else set()
    return HalfSlots(
        inputs=_flags(schema.inputs, len(node.inputs), allowed),
        outputs=_flags(schema.outputs, len(node.outputs), allowed),
    )


def _flags(
    formals: Sequence[onnx.defs.OpSchema.FormalParameter], count: int, allowed: set[str]
) -> tuple[bool, ...]:
    # The last parameter stands for all further ones where it is variadic.
    return tuple(
        bool(formals) and formals[min(index, len(formals) - 1)].type_str in allowed
        for index in range(count)
    )


def _contrib_slots(node: ir.Node, half: HalfFormat) -> HalfSlots | None:
    stays = _CONTRIB.get(node.op_type)
    if stays is None or half.dtype != ir.DataType.FLOAT16:
        return None
    outputs = tuple(index not in stays for index in range(len(node.outputs)))
    return HalfSlots(inputs=(True,) * len(node.inputs), outputs=outputs)
