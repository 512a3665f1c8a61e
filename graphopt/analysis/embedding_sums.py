"""Sums of embeddings: words, token types, and positions that count from 0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis.operands import int_attribute, operand
from graphopt.analysis.symbolic_table import SymbolicTable
from graphopt.ir import constant_array, constant_tensor

__all__ = ["Embedding", "EmbeddingSum", "find_embedding_sum"]

_MATRIX_RANK = 2
_MAX_POSITIONS = 1 << 20
# Words, positions and token types: what the fused operator has inputs for.
_MAX_TERMS = 3


@dataclass(frozen=True)
class Embedding:
    """Rows of a table.

    Attributes:
        table: (rows, width), constant.
        indices: Which rows.
        rows: Rows of the table.
    """

    table: ir.Value
    indices: ir.Value
    rows: int


@dataclass(frozen=True)
class EmbeddingSum:
    """``words[i] + positions[0, 1, ...] + types[j]``.

    Attributes:
        words: The larger table of those that inputs index, indices (B, S).
        positions: Table of positions; its indices are 0, 1, ... in every row.
        types: The smaller table; ``None`` where there is only one.
    """

    words: Embedding
    positions: Embedding
    types: Embedding | None


def find_embedding_sum(value: ir.Value, shapes: SymbolicTable) -> EmbeddingSum | str | None:
    """Return the sum of embeddings that ``value`` is, why it does not fit, or ``None``."""
    terms = _terms(value)
    found = [embedding for term in terms if (embedding := _embedding(term)) is not None]
    if not 2 <= len(found) == len(terms) <= _MAX_TERMS:  # noqa: PLR2004 - words and positions
        return None
    known = shapes.of(value)
    dims = known.dims if known is not None else None
    if dims is None or len(dims) != _MATRIX_RANK + 1:
        return "the shape of the sum is not known"
    places = [each for each in found if _is_counting(each.indices, dims[1], shapes)]
    others = sorted((each for each in found if each not in places), key=lambda each: -each.rows)
    if len(places) != 1:
        return "no positions that provably count from 0 to the length of the sequence"
    for each in others:
        indices = shapes.of(each.indices)
        if indices is None or indices.dims != dims[:2]:
            return f"indices are {indices and indices.dims}, not {dims[:2]}"
    return EmbeddingSum(others[0], places[0], others[1] if len(others) > 1 else None)


def _terms(value: ir.Value) -> list[ir.Value]:
    """Return what is added up to ``value``, in up to two sums that nobody else reads."""
    node = value.producer()
    if node is None or node.op_type != "Add" or node.domain or None in node.inputs:
        return [value]
    terms = [term for term in node.inputs if term is not None]
    for index, term in enumerate(terms):
        inner = term.producer()
        if inner is not None and inner.op_type == "Add" and not inner.domain:
            rest = [operand(inner, 0), operand(inner, 1)]
            return [*(given for given in rest if given is not None), terms[1 - index]]
    return terms


def _embedding(value: ir.Value) -> Embedding | None:
    node = value.producer()
    if node is None or node.op_type != "Gather" or node.domain:
        return None
    table, indices = node.inputs
    tensor = constant_tensor(table)
    if table is None or indices is None or tensor is None or int_attribute(node, "axis", 0) != 0:
        return None
    if len(tensor.shape) != _MATRIX_RANK:
        return None
    return Embedding(table, indices, int(tensor.shape.numpy()[0]))


def _is_counting(indices: ir.Value, length: int | str | None, shapes: SymbolicTable) -> bool:
    """Tell whether ``indices`` are 0, 1, ... up to ``length``, in one row."""
    array = constant_array(indices, _MAX_POSITIONS)
    if array is not None:
        is_row = array.ndim == 1 or (array.ndim > 1 and array.shape[0] == 1)
        return is_row and array.size == length and _counts(array)
    node = indices.producer()
    if node is None or node.domain or node.op_type != "Slice":
        return False
    positions = constant_array(operand(node, 0), _MAX_POSITIONS)
    if positions is None or positions.shape[:-1] not in ((), (1,)) or not _counts(positions):
        return False
    # With one position alone, longer sequences would all be given that one.
    parameters = [shapes.elements_of(operand(node, index)) for index in (1, 2, 3, 4)]
    starts, ends, axes, steps = parameters
    last = ((-1,), (positions.ndim - 1,))
    is_last = axes in last or (operand(node, 3) is None and positions.ndim == 1)
    is_plain = starts == (0,) and is_last and (operand(node, 4) is None or steps == (1,))
    return is_plain and ends == (length,) and positions.size > 1


def _counts(array: npt.NDArray[Any]) -> bool:
    flat = array.reshape(-1)
    return array.dtype.kind in "iu" and bool((flat == np.arange(flat.size)).all())
