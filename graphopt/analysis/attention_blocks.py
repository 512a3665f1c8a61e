"""Attention, found from its Softmax outward.

    result = merge_heads(softmax(scale * Q K^T + masks) V)

with Q, K and V split into heads by Reshape and Transpose, or split already. Constants that scale
may stand at Q, at K, before the heads are split, or at the scores; K may be transposed in one step,
two, or by way of three dimensions; keys and values may continue those of earlier runs; the masks
may be added or chosen by Where, to scores that are reshaped for that; heads may be matrices of
their own, (B * H, S, d), as `torch.bmm` wants them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import onnx_ir as ir

from graphopt.analysis.equal_sizes import EqualSizes
from graphopt.analysis.head_splits import Dims, Heads, asked_dims, split_heads
from graphopt.analysis.mask_layouts import is_view, is_within, layout_of
from graphopt.analysis.operands import int_attribute, operand, transpose_permutation
from graphopt.analysis.score_chains import Choice, Mask, Scores, read_scores
from graphopt.analysis.symbolic_table import SymbolicTable
from graphopt.rewrite import Const, Op, Var, match

__all__ = ["Attention", "Mismatch", "find_attention"]

_RANK = 4
_MATRICES = 3
_PER_ELEMENT_AXIS_SINCE = 13
_MERGE = (0, 2, 1, 3)
_BATCH_SECOND = (1, 0, 2)


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
        product: The dimensions of the product of queries and keys.
        weights: The dimensions of the weights where they are multiplied with the values.
        context: The product of weights and values, heads merged by `merge`.
        merge: The Reshape that merges the heads; `None` where nothing is to be merged.
        is_time_first: What `merge` reads is (S, B * H, e), not (B, S, H, e).
        is_settled: What `merge` computes is (B, S, H * e), or (S, B, H * e).
        is_asked: It is so because `merge` asks for that in full.
    """

    softmax: ir.Node
    query: Heads
    key: Heads
    value: Heads
    scale: float
    masks: tuple[Mask, ...]
    choices: tuple[Choice, ...]
    is_guarded: bool
    product: Dims
    weights: Dims
    merge: ir.Node
    is_time_first: bool
    is_settled: bool = False
    is_asked: bool = False

    @property
    def result(self) -> ir.Value:
        """The context, heads merged."""
        return self.merge.outputs[0]

    @property
    def scores(self) -> Dims:
        """The dimensions of the scores by heads, (B, H, S, T)."""
        return (self.query.dims[0], self.query.count, self.query.dims[1], self.key.dims[1])


def find_attention(
    softmax: ir.Node, shapes: SymbolicTable, version: int, sizes: EqualSizes
) -> Attention | Mismatch:
    """Return the attention around ``softmax``, or what is missing of one.

    Args:
        softmax: A Softmax.
        shapes: Shapes of the values.
        version: Opset version of the Softmax.
        sizes: Sizes that are equal; learns those that this attention needs to be.
    """
    outer = _values_side(softmax, shapes, version)
    if isinstance(outer, Mismatch):
        return outer
    reason = f"scores: {_obstacle(softmax.inputs[0])}"
    for scores in read_scores(softmax.inputs[0], shapes):
        found = _around(softmax, scores, outer, shapes)
        if isinstance(found, str):
            reason = found
            continue
        return _settled(found, scores, shapes, sizes)
    return Mismatch("heads-not-split", reason)


class _ValuesSide(NamedTuple):
    """What follows a Softmax: the product with the values, and what merges the heads."""

    value: Heads
    weights: Dims
    is_guarded: bool
    merge: ir.Node
    is_time_first: bool


def _values_side(softmax: ir.Node, shapes: SymbolicTable, version: int) -> _ValuesSide | Mismatch:
    rank = len(_dims_of(softmax, 0, shapes) or ()) or _RANK
    if not _is_over_last_axis(softmax, version, rank):
        return Mismatch("no-attention", "the Softmax is not over the last axis")
    weights, is_guarded = _unguarded(softmax.outputs[0])
    product = _product_with_values(weights)
    if product is None:
        why = "what it computes is not the left side of one MatMul alone"
        return Mismatch("no-attention", why)
    value = split_heads(operand(product, 1), shapes)
    if isinstance(value, str):
        return Mismatch("heads-not-split", f"values, input 1 of MatMul `{product.name}`: {value}")
    dims = _dims_of(product, 0, shapes)
    if dims is None or len(dims) != len(_dims_of(product, 1, shapes) or ()):
        return Mismatch("unknown-shapes", f"MatMul `{product.name}` broadcasts")
    merged = _merged(product.outputs[0], value, shapes)
    if merged is None:
        why = f"not by one Transpose and one Reshape alone: {_following(product)}"
        return Mismatch("heads-not-merged", why)
    return _ValuesSide(value, dims, is_guarded, *merged)


def _around(
    softmax: ir.Node,
    scores: Scores,
    outer: _ValuesSide,
    shapes: SymbolicTable,
) -> Attention | str:
    value = outer.value
    query = split_heads(operand(scores.product, 0), shapes)
    key = split_heads(operand(scores.product, 1), shapes, is_transposed=True)
    ranks = [len(_dims_of(scores.product, index, shapes) or ()) for index in (0, 1)]
    known = shapes.of(scores.product.outputs[0])
    where = f"MatMul `{scores.product.name}`"
    if isinstance(query, str):
        return f"queries, input 0 of {where}: {query}"
    if isinstance(key, str):
        return f"keys, input 1 of {where}: {key}"
    if known is None or known.dims is None or ranks != [len(known.dims)] * 2:
        return f"the shapes of {where} are not known, or broadcast"
    # The operators take a past of keys and values alone.
    query = query.without_past()
    # The operators join both or none, in caches of one shape.
    if key.past is None or value.past is None or key.size != value.size:
        key, value = key.without_past(), value.without_past()
    return Attention(
        softmax=softmax,
        query=query,
        key=key,
        value=value,
        scale=scores.scale * query.scale * key.scale,
        masks=scores.masks,
        choices=scores.choices,
        is_guarded=outer.is_guarded,
        product=known.dims,
        weights=outer.weights,
        merge=outer.merge,
        is_time_first=outer.is_time_first,
    )


def _dims_of(node: ir.Node, index: int, shapes: SymbolicTable) -> Dims | None:
    known = shapes.of(operand(node, index))
    return known.dims if known is not None else None


def _is_over_last_axis(softmax: ir.Node, version: int, rank: int) -> bool:
    # Before opset 13 a Softmax was over all axes from `axis` on, 1 by default.
    default = -1 if version >= _PER_ELEMENT_AXIS_SINCE else 1
    return int_attribute(softmax, "axis", default) in (-1, rank - 1)


def _only_reader(value: ir.Value, op_type: str) -> ir.Node | None:
    uses = value.uses()
    if len(uses) != 1 or value.is_graph_output():
        return None
    user = next(iter(uses)).node
    return user if user.op_type == op_type and not user.domain else None


def _product_with_values(weights: ir.Value) -> ir.Node | None:
    """Return the MatMul that reads ``weights``, perhaps after a Reshape, on its left."""
    reshape = _only_reader(weights, "Reshape")
    if reshape is not None and reshape.inputs[0] is weights:
        weights = reshape.outputs[0]
    product = _only_reader(weights, "MatMul")
    return product if product is not None and product.inputs[0] is weights else None


_GUARD = Op("Where", Op("IsNaN", Var("weights")), Const("zero", equals=0), Var("weights"))


def _unguarded(weights: ir.Value) -> tuple[ir.Value, bool]:
    """Step over what replaces NaN by 0."""
    for user, _ in weights.uses():
        if user.op_type == "Where" and not user.domain:
            found = match(_GUARD, user.outputs[0])
            if found is not None and found["weights"] is weights:
                return user.outputs[0], True
    return weights, False


def _merged(context: ir.Value, value: Heads, shapes: SymbolicTable) -> tuple[ir.Node, bool] | None:
    """Return the Reshape that merges heads, and whether what it reads is (S, B * H, e)."""
    known = shapes.of(context)
    rank = len(known.dims) if known is not None and known.dims is not None else _RANK
    if rank == _MATRICES:
        transpose = _only_reader(context, "Transpose")
        if transpose is not None:
            merge = _only_reader(transpose.outputs[0], "Reshape")
            is_known = transpose_permutation(transpose, _MATRICES) == _BATCH_SECOND
            return (merge, True) if is_known and merge is not None else None
        parted = _only_reader(context, "Reshape")
        after = asked_dims(parted, shapes) if parted is not None else None
        if parted is None or after is None or len(after) != _RANK:
            return None
        if (after[1], after[3]) != (value.count, value.size):
            return None
        context = parted.outputs[0]
    # With one head there is nothing to move before it is merged.
    elif value.count == 1 and (merge := _only_reader(context, "Reshape")) is not None:
        return merge, False
    transpose = _only_reader(context, "Transpose")
    if transpose is None or transpose_permutation(transpose, _RANK) != _MERGE:
        return None
    merge = _only_reader(transpose.outputs[0], "Reshape")
    return None if merge is None else (merge, False)


def _following(product: ir.Node) -> str:
    """Say who reads what a product computes, up to the first value with several readers."""
    node = product
    steps: list[str] = []
    while len(steps) < _RANK:
        users = [f"{user.op_type} `{user.name}`" for user, _ in node.outputs[0].uses()]
        of = f"{node.op_type} `{node.name}`"
        steps.append(f"{of} is read by {' and '.join(users) or 'no node'}")
        if len(users) != 1 or node.op_type == "Reshape":
            break
        node = next(iter(node.outputs[0].uses())).node
    return ", ".join(steps)


def _obstacle(value: ir.Value | None) -> str:
    """Say what stands between the Softmax and a MatMul."""
    seen = 0
    # For a message alone: far enough for every chain of masks there is, and no farther.
    while value is not None and seen < _RANK * _RANK:
        node = value.producer()
        if node is None or node.domain or node.op_type not in _PASSED:
            break
        value, seen = operand(node, 1 if node.op_type == "Where" else 0), seen + 1
    node = value.producer() if value is not None else None
    if node is None:
        return f"no MatMul computes them, they start at `{value.name if value else ''}`"
    return f"{node.op_type} `{node.name}` is between the MatMul and the Softmax"


_PASSED = frozenset({"Add", "Div", "Identity", "Mul", "Reshape", "Where"})


def _settled(
    found: Attention, scores: Scores, shapes: SymbolicTable, sizes: EqualSizes
) -> Attention | Mismatch:
    """Check that B, S, T and H are the same throughout."""
    query, key, value = found.query, found.key, found.value
    if not query.count == key.count == value.count or query.size != key.size:
        split = ", ".join(f"{one.count} x {one.size}" for one in (query, key, value))
        return Mismatch("heads-differ", f"queries, keys and values are split into {split}")
    # A factor of the values would have to be applied to the result, which nobody here does.
    if value.scale != 1.0:
        return Mismatch("heads-differ", f"the values are scaled by {value.scale:g}")
    if (key.is_split or value.is_split) and key.size != value.size:
        return Mismatch("heads-differ", f"keys of {key.size} and values of {value.size} elements")
    is_batched = len(found.product) == _MATRICES and query.count > 1
    if is_batched:  # neither B * H can be 1, so that they are equal where the product succeeds
        sizes.equate(query.dims[0], key.dims[0])
    if not (found.masks or found.choices):  # then nothing can have made the scores larger
        sizes.equate(key.dims[1], value.dims[1])
    is_reshaped = len(found.weights) != len(found.product) or bool(scores.views)
    for view in (*scores.views, *([found.weights] if is_reshaped else [])):
        if not is_view(view, found.scores, sizes):
            why = f"scores of {found.scores} are reshaped to {view}"
            return Mismatch("mask-shape", why)
    added = [(mask.value, mask.view) for mask in found.masks]
    added += [(choice.condition, choice.view) for choice in found.choices]
    are_within = all(_is_mask_within(*one, found, shapes, sizes) for one in added)
    if len(found.weights) == _MATRICES and query.count > 1 and are_within:
        sizes.equate(query.dims[0], value.dims[0])
    if not _agree(query, key, value, sizes):
        why = f"queries are {query.dims}, keys {key.dims}, values {value.dims}"
        return Mismatch("unknown-shapes", why)
    return _with_result(found, shapes, sizes, are_within=are_within)


def _agree(query: Heads, key: Heads, value: Heads, sizes: EqualSizes) -> bool:
    batch, length = query.dims
    return (
        length is not None
        and sizes.are_equal(batch, key.dims[0])
        and sizes.are_equal(batch, value.dims[0])
        and sizes.are_equal(key.dims[1], value.dims[1])
    )


def _is_mask_within(
    mask: ir.Value, view: Dims | None, found: Attention, shapes: SymbolicTable, sizes: EqualSizes
) -> bool:
    known = shapes.of(mask)
    if known is None or known.dims is None:
        return False
    layout = layout_of(known.dims, view or found.product, found.scores, sizes)
    return layout is not None and is_within(layout.dims, found.scores, sizes)


def _with_result(
    found: Attention, shapes: SymbolicTable, sizes: EqualSizes, *, are_within: bool
) -> Attention | Mismatch:
    """Tell whether the result is provably (B, S, H * e).

    Where it is asked for in full, no mask can be larger than the scores: it would make the context
    larger than what it is reshaped to. Where the masks are provably not larger, so that the
    context is (B, H, S, e), one of the first two dimensions settles the other.
    """
    batch, length = found.query.dims
    expected = (batch, length, found.value.count * found.value.size)
    if found.is_time_first:
        expected = (length, batch, expected[2])
    result = asked_dims(found.merge, shapes)
    if result is not None and len(result) == len(expected) and result[2] == expected[2]:
        are_equal = [sizes.are_equal(*pair) for pair in zip(result, expected, strict=True)]
        if all(are_equal):
            return replace(found, is_settled=True, is_asked=True)
        if are_within and any(are_equal[:2]):
            return replace(found, is_settled=True)
    if not are_within:
        return Mismatch("mask-shape", "a mask may be larger than the scores")
    if not _copies_alike(found, shapes):
        return Mismatch("unknown-shapes", f"Reshape `{found.merge.name}` makes {result}")
    return found


def _copies_alike(found: Attention, shapes: SymbolicTable) -> bool:
    """Tell whether `merge` makes the same of merged heads: 0 copies a size that must be there."""
    asked = shapes.elements_of(operand(found.merge, 1))
    if asked is None:
        return False
    copied = [axis for axis, dim in enumerate(asked) if dim == 0]
    return not copied or (max(copied) < (1 if found.is_time_first else 2))
