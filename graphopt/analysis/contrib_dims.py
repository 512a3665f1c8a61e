"""Dimensions of what operators of ONNX Runtime compute, as expressions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import onnx_ir as ir

from graphopt.analysis.operands import int_attribute, operand
from graphopt.analysis.symbolic_dims import DIMS, broadcast
from graphopt.analysis.symbolic_expressions import Integer
from graphopt.analysis.symbolic_windows import WINDOW_DIMS

if TYPE_CHECKING:
    from graphopt.analysis.symbolic_shapes import SymbolicShapes

__all__ = ["CONTRIB_DIMS"]

_ROWS, _SPLIT = 3, 4  # the ranks of (B, S, H * d) and (B, H, S, d)
_PAST = 6  # the first input that holds keys of earlier runs

_MATRIX_RANK = 2
_Dims = tuple[Integer, ...]
_Found = Sequence[_Dims | None] | None


def _first(node: ir.Node, known: SymbolicShapes) -> _Found:
    """The first output has the shape of the first input."""
    return [known.dims(operand(node, 0))]


def _first_and_sum(node: ir.Node, known: SymbolicShapes) -> _Found:
    """The first output and the fourth, the sum, have the shape of the first input."""
    data = known.dims(operand(node, 0))
    return [data, None, None, data]


def _attention(node: ir.Node, known: SymbolicShapes) -> _Found:
    data, weight = known.dims(operand(node, 0)), known.dims(operand(node, 1))
    if not data or not weight or "qkv_hidden_sizes" in node.attributes:
        return None
    width = weight[-1]
    return [(*data[:-1], width // 3)] if isinstance(width, int) else None


def _multi_head_attention(node: ir.Node, known: SymbolicShapes) -> _Found:
    query, key, value = (known.dims(operand(node, index)) for index in range(3))
    if query is None or key is None or value is None or len(query) != _ROWS:
        return None
    heads = int_attribute(node, "num_heads", 0)
    past = known.dims(operand(node, _PAST))
    if past is not None and len(past) == len(key) + 1 == _SPLIT:
        present = (*past[:2], past[2] + key[1], past[3])
        return [query, present, present]
    if operand(node, _PAST) is not None or not heads or len(node.outputs) > 1:
        return None
    if len(key) == len(value) == _SPLIT:
        return [(*query[:-1], value[1] * value[3])]
    return [(*query[:-1], value[-1])] if len(key) == len(value) == _ROWS else None


def _embedding(node: ir.Node, known: SymbolicShapes) -> _Found:
    indices, table = known.dims(operand(node, 0)), known.dims(operand(node, 2))
    if indices is None or not table:
        return None
    dims = (*indices, table[-1])
    return [dims, None, dims]


def _fused_matmul(node: ir.Node, known: SymbolicShapes) -> _Found:
    operands = [known.dims(operand(node, index)) for index in (0, 1)]
    turned = []
    for side, dims in zip("AB", operands, strict=True):
        # Vectors are not turned, and no pass makes a product of them.
        if dims is None or len(dims) < _MATRIX_RANK or int_attribute(node, f"transBatch{side}", 0):
            return None
        is_turned = int_attribute(node, f"trans{side}", 0)
        turned.append((*dims[:-2], dims[-1], dims[-2]) if is_turned else dims)
    left, right = turned
    return [(*broadcast(known, [left[:-2], right[:-2]]), left[-2], right[-1])]


CONTRIB_DIMS: Mapping[str, Callable[[ir.Node, SymbolicShapes], _Found]] = {
    "Attention": _attention,
    "BiasGelu": _first,
    "DynamicQuantizeMatMul": DIMS["MatMul"],
    "EmbedLayerNormalization": _embedding,
    "FastGelu": _first,
    "FusedConv": WINDOW_DIMS["Conv"],
    "FusedGemm": DIMS["Gemm"],
    "FusedMatMul": _fused_matmul,
    "Gelu": _first,
    "MatMulIntegerToFloat": DIMS["MatMul"],
    "MultiHeadAttention": _multi_head_attention,
    "QuickGelu": _first,
    "RotaryEmbedding": _first,
    "SkipLayerNormalization": _first_and_sum,
    "SkipSimplifiedLayerNormalization": _first_and_sum,
}
