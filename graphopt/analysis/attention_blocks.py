"""Attention, found from its Softmax outward.

    result = merge_heads(softmax(scale * Q K^T + masks) V)

with Q, K and V split into heads by Reshape and Transpose. Constants that scale may stand at Q, at
K, before the heads are split, or at the scores; K may be transposed in one step, two, or by way of
three dimensions; the masks may be added or chosen by Where.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import onnx_ir as ir

from graphopt.analysis.head_splits import Dims, Heads, asked_dims, split_heads, unscaled
from graphopt.analysis.operands import int_attribute, operand, transpose_permutation
from graphopt.analysis.symbolic_table import SymbolicTable
from graphopt.ir import constant_array
from graphopt.rewrite import Const, Op, ValueShape, Var, match

__all__ = ["Attention", "Choice", "Mismatch", "find_attention"]

_LEAST_PENALTY = 1e3
_MAX_STEPS = 6
_RANK = 4
_PER_ELEMENT_AXIS_SINCE = 13
_MERGE = (0, 2, 1, 3)


class Choice(NamedTuple):
    """Scores replaced by a number, ``Where(condition, number, scores)`` or the other way round."""

    condition: ir.Value
    number: float
    is_number_first: bool


class Mismatch(NamedTuple):
    """Why a Softmax is not the middle of an attention that can be fused."""

    slug: str
    why: str


@dataclass(frozen=True)
class Attention:
    """One attention over heads.

    Attributes:
        softmax: The node in the middle.
        query: Source of shape (B, S, H * d) and how it is split.
        key: Source of shape (B, T, H * d).
        value: Source of shape (B, T, H * e).
        scale: What the scores are multiplied with, all factors together.
        masks: Values that are added to the scaled scores.
        choices: Scores replaced by a number, innermost first.
        is_guarded: NaN of the Softmax counts as 0.
        result: The context, heads merged: (B, S, H * e).
    """

    softmax: ir.Node
    query: Heads
    key: Heads
    value: Heads
    scale: float
    masks: tuple[ir.Value, ...]
    choices: tuple[Choice, ...]
    is_guarded: bool
    result: ir.Value


class _Scores(NamedTuple):
    product: ir.Node
    scale: float
    masks: tuple[ir.Value, ...]
    choices: tuple[Choice, ...]


def find_attention(softmax: ir.Node, shapes: SymbolicTable, version: int) -> Attention | Mismatch:
    """Return the attention around ``softmax``, or what is missing of one.

    Args:
        softmax: A Softmax.
        shapes: Shapes of the values.
        version: Opset version of the Softmax.
    """
    if not _is_over_last_axis(softmax, version):
        return Mismatch("no-attention", "the Softmax is not over the last axis")
    weights, is_guarded = _unguarded(softmax.outputs[0])
    product = _only_reader(weights, "MatMul")
    if product is None or product.inputs[0] is not weights:
        return Mismatch("no-attention", "what it computes is not the left side of one MatMul")
    value = split_heads(operand(product, 1), shapes)
    if isinstance(value, str):
        return Mismatch("heads-not-split", f"the values: {value}")
    result = _merged(product.outputs[0])
    if result is None:
        return Mismatch("heads-not-merged", "no Transpose and Reshape follow")
    reason = "no MatMul computes the scores"
    for scores in _scores(softmax.inputs[0], _MAX_STEPS):
        query = split_heads(operand(scores.product, 0), shapes)
        key = split_heads(operand(scores.product, 1), shapes, is_transposed=True)
        if isinstance(query, str) or isinstance(key, str):
            reason = f"the queries: {query}" if isinstance(query, str) else f"the keys: {key}"
            continue
        found = Attention(
            softmax=softmax,
            query=query,
            key=key,
            value=value,
            scale=scores.scale * query.scale * key.scale,
            masks=scores.masks,
            choices=scores.choices,
            is_guarded=is_guarded,
            result=result,
        )
        return _mismatched_shapes(found, shapes) or found
    return Mismatch("heads-not-split", reason)


def _is_over_last_axis(softmax: ir.Node, version: int) -> bool:
    default = -1 if version >= _PER_ELEMENT_AXIS_SINCE else 1
    return int_attribute(softmax, "axis", default) in (-1, _RANK - 1)


def _only_reader(value: ir.Value, op_type: str) -> ir.Node | None:
    uses = value.uses()
    if len(uses) != 1 or value.is_graph_output():
        return None
    user = next(iter(uses)).node
    return user if user.op_type == op_type and not user.domain else None


_GUARD = Op("Where", Op("IsNaN", Var("weights")), Const("zero", equals=0), Var("weights"))


def _unguarded(weights: ir.Value) -> tuple[ir.Value, bool]:
    """Step over what replaces NaN by 0."""
    for user, _ in weights.uses():
        if user.op_type == "Where" and not user.domain:
            found = match(_GUARD, user.outputs[0])
            if found is not None and found["weights"] is weights:
                return user.outputs[0], True
    return weights, False


def _merged(context: ir.Value) -> ir.Value | None:
    """Return the context with its heads merged."""
    transpose = _only_reader(context, "Transpose")
    if transpose is None or transpose_permutation(transpose, _RANK) != _MERGE:
        return None
    reshape = _only_reader(transpose.outputs[0], "Reshape")
    return None if reshape is None else reshape.outputs[0]


def _scores(value: ir.Value | None, steps: int) -> Iterator[_Scores]:
    """Yield the ways to read ``value`` as scaled and masked scores."""
    node = value.producer() if value is not None else None
    if value is None or node is None or node.domain or not steps:
        return
    if node.op_type == "MatMul":
        yield _Scores(node, 1.0, (), ())
        return
    inner, factor = unscaled(value)
    if inner is not value:
        for found in _scores(inner, steps - 1):
            if not found.masks and not found.choices:
                yield found._replace(scale=found.scale * factor)
    elif node.op_type == "Add":
        for index in (0, 1):
            yield from _masked_scores(node.inputs[index], node.inputs[1 - index], steps)
    elif node.op_type == "Where":
        yield from _chosen_scores(node, steps)


def _masked_scores(value: ir.Value | None, mask: ir.Value | None, steps: int) -> Iterator[_Scores]:
    for found in _scores(value, steps - 1):
        if mask is not None:
            yield found._replace(masks=(*found.masks, mask))


def _chosen_scores(node: ir.Node, steps: int) -> Iterator[_Scores]:
    condition = node.inputs[0]
    for index in (1, 2):
        number = constant_array(node.inputs[3 - index], 1)
        if condition is None or number is None or number.size != 1:
            continue
        if float(number.reshape(-1)[0]) > -_LEAST_PENALTY:
            continue
        choice = Choice(condition, float(number.reshape(-1)[0]), is_number_first=index == 2)  # noqa: PLR2004
        for found in _scores(node.inputs[index], steps - 1):
            yield found._replace(choices=(*found.choices, choice))


def _mismatched_shapes(found: Attention, shapes: SymbolicTable) -> Mismatch | None:
    """Check that B, S, T and H are the same throughout."""
    query, key, value = found.query, found.key, found.value
    if not query.count == key.count == value.count or query.size != key.size:
        return Mismatch("heads-differ", "queries, keys and values are split differently")
    if value.scale != 1.0:
        return Mismatch("heads-differ", "the values are scaled")
    merge = found.result.producer()
    result = asked_dims(merge, shapes) if merge is not None else None
    expected = (*query.dims[:2], value.count * value.size)
    if None in expected or not _is_merged_as(result, expected, found, shapes):
        return Mismatch("unknown-shapes", f"the result is {result}, not {expected}")
    if key.dims[:2] != value.dims[:2] or key.dims[0] != query.dims[0]:
        why = f"keys are {key.dims[:2]}, values {value.dims[:2]}, queries {query.dims[:2]}"
        return Mismatch("unknown-shapes", why)
    return None


def _is_merged_as(
    result: Dims | None, expected: Dims, found: Attention, shapes: SymbolicTable
) -> bool:
    """Tell whether the result is provably as expected, (B, S, H * e).

    Where it is asked for in full, no mask can be larger than the scores: it would make the context
    larger than what it is reshaped to. Where the masks are provably not larger, so that the
    context is (B, H, S, e), one of the first two dimensions settles the other.
    """
    if result == expected:
        return True
    if result is None or len(result) != len(expected) or result[2] != expected[2]:
        return False
    scores = (found.query.dims[0], found.query.count, found.query.dims[1], found.key.dims[1])
    if not all(_is_within(shapes.of(mask), scores) for mask in found.masks):
        return False
    return result[0] == expected[0] or result[1] == expected[1]


def _is_within(known: ValueShape | None, scores: Dims) -> bool:
    if known is None or known.dims is None or len(known.dims) > len(scores):
        return False
    aligned = zip(reversed(known.dims), reversed(scores), strict=False)
    return all(dim == 1 or (dim is not None and dim == other) for dim, other in aligned)
