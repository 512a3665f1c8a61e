"""Dimensions of what operators of ONNX Runtime compute, as expressions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import onnx_ir as ir

from graphopt.analysis.operands import operand
from graphopt.analysis.symbolic_expressions import Integer

if TYPE_CHECKING:
    from graphopt.analysis.symbolic_shapes import SymbolicShapes

__all__ = ["CONTRIB_DIMS"]

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
    if data is None or weight is None or "qkv_hidden_sizes" in node.attributes:
        return None
    width = weight[-1]
    return [(*data[:-1], width // 3)] if isinstance(width, int) else None


def _multi_head_attention(node: ir.Node, known: SymbolicShapes) -> _Found:
    query, value = known.dims(operand(node, 0)), known.dims(operand(node, 2))
    if query is None or value is None or not len(query) == len(value) == 3:  # noqa: PLR2004
        return None
    return [(*query[:-1], value[-1])]


def _embedding(node: ir.Node, known: SymbolicShapes) -> _Found:
    indices, table = known.dims(operand(node, 0)), known.dims(operand(node, 2))
    return None if indices is None or table is None else [(*indices, table[-1])]


CONTRIB_DIMS: Mapping[str, Callable[[ir.Node, SymbolicShapes], _Found]] = {
    "Attention": _attention,
    "BiasGelu": _first,
    "EmbedLayerNormalization": _embedding,
    "FastGelu": _first,
    "Gelu": _first,
    "MultiHeadAttention": _multi_head_attention,
    "QuickGelu": _first,
    "SkipLayerNormalization": _first_and_sum,
    "SkipSimplifiedLayerNormalization": _first_and_sum,
}
