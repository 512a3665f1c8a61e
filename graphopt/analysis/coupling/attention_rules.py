"""Which dimensions the operators tie that compute a whole attention, or rotate its heads.

A head loses its index everywhere at once: its columns of queries, keys and values, its place in
masks, biases and caches, and its part of the result. How long heads are never changes, as the
scores are scaled by it.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from graphopt.analysis.coupling.layouts import Axis, Layout, length, opaque, tie_axes
from graphopt.analysis.coupling.units import Factor
from graphopt.analysis.coupling.walk import Walk, name_of
from graphopt.analysis.operands import int_attribute, ints_attribute, operand
from graphopt.analysis.symbolic_expressions import Integer

__all__ = ["ATTENTION_RULES"]

Found = Sequence[Layout | None] | None
_FLAT, _BY_HEADS = 3, 4
_HEADS_AXIS = 1


def _count(node: ir.Node, attribute: str, walk: Walk) -> Factor | None:
    """Return the heads that an attribute of a node counts, as a dimension."""
    number = int_attribute(node, attribute, 0)
    if not number:
        return None
    heads = walk.ties.factor(number)
    walk.count(node, attribute, heads)
    walk.note("batches", node, (heads,))
    return heads


def _merged(heads: Factor, size: Integer | None) -> Axis | None:
    """Return the axis of length ``size`` that heads and their elements make."""
    number = int(str(heads.size))
    if not isinstance(size, int) or size % number:
        return None
    return (heads,) if size == number else (heads, Factor(size // number))


def _tie_flat(value: ir.Value | None, place: int, heads: Factor, walk: Walk, where: str) -> bool:
    """Tie heads to an axis that they make together with their elements; tell whether it fits."""
    layout, dims = walk.layout(value), walk.dims(value)
    axis = None if layout is None or dims is None else _merged(heads, dims[place])
    if layout is None or axis is None:
        return False
    tie_axes(layout[place], axis, walk.ties, where)
    return True


def _tie_side(value: ir.Value | None, heads: Factor, walk: Walk, where: str) -> bool:
    """Tie heads to queries, keys or values: (B, S, H * d) or (B, H, S, d)."""
    layout = walk.layout(value)
    if layout is None:
        return False
    if len(layout) == _FLAT:
        return _tie_flat(value, 2, heads, walk, where)
    if len(layout) != _BY_HEADS:
        return False
    why = "the scores are scaled by how long heads are"
    walk.pin_axis(layout[3], "head-size", why, where)
    _tie_heads(value, _HEADS_AXIS, heads, walk, where)
    return True


def _tie_heads(value: ir.Value | None, place: int, heads: Factor, walk: Walk, where: str) -> None:
    """Tie heads to an axis of their own, where an optional operand has one longer than 1."""
    layout = walk.layout(value)
    if layout and len(layout) > place:
        tie_axes(layout[place], (heads,), walk.ties, where)
        for number, axis in enumerate(layout):
            if number not in (0, place):
                walk.pin_axis(axis, "sequence", "it lies along time, or within a head", where)


def _mask(value: ir.Value | None, heads: Factor, walk: Walk, where: str) -> None:
    """Tie heads to what is added to scores, (.., H or 1, S, T)."""
    layout = walk.layout(value)
    if layout and len(layout) >= _FLAT:
        _tie_heads(value, len(layout) - _FLAT, heads, walk, where)
    elif layout:
        walk.pin(layout, "sequence", "it lies along time, or within a head", where)


def _result(
    query: ir.Value | None, value: Integer | None, heads: Factor, walk: Walk
) -> Layout | None:
    """Return the axes of what is computed: (B, S, H * e) or (B, H, S, e), as queries lie.

    Args:
        query: What has batch and time.
        value: How long a head of the values is.
        heads: Those of the queries.
        walk: Knows the layouts.
    """
    rows = walk.layout(query)
    if rows is None or value is None:
        return None
    inner = opaque(value)
    if len(rows) == _BY_HEADS:
        return (rows[0], (heads,), rows[2], inner)
    return (*rows[:2], (heads, *inner))


def _per_head(value: ir.Value | None, heads: Factor, walk: Walk) -> Integer | None:
    """Return how long a head of keys or values is."""
    dims = walk.dims(value)
    if dims is None or len(dims) == _BY_HEADS:
        return None if dims is None else dims[3]
    merged = _merged(heads, dims[-1])
    return None if merged is None else length(merged[1:])


def _by_heads(node: ir.Node, number: int, heads: Factor, walk: Walk) -> Layout | None:
    """Return the axes of a cache that is handed on, or of scores: (B, H, .., ..)."""
    whole = walk.opaque(node.outputs[number])
    return None if whole is None else (whole[0], (heads,), *whole[2:])


def _results(node: ir.Node, query: Factor, shared: Factor, walk: Walk) -> Sequence[Layout | None]:
    """Return the axes of the result, of the keys and values handed on, and of the scores."""
    first = _result(operand(node, 0), _per_head(operand(node, 2), shared, walk), query, walk)
    sides = (query, shared, shared, query)
    count = min(len(node.outputs), len(sides))
    return [first, *(_by_heads(node, number, sides[number], walk) for number in range(1, count))]


def _multi_head(node: ir.Node, walk: Walk) -> Found:
    """com.microsoft MultiHeadAttention; the forms that pack queries, keys and values stay."""
    heads, where = _count(node, "num_heads", walk), name_of(node)
    if heads is None or any(operand(node, place) is None for place in (1, 2)):
        return None
    if not all(_tie_side(operand(node, place), heads, walk, where) for place in range(3)):
        return None
    if not _joined_bias(node, heads, walk, where):
        return None
    _mask(operand(node, 5), heads, walk, where)
    for place in (6, 7):
        _tie_heads(operand(node, place), _HEADS_AXIS, heads, walk, where)
    return _results(node, heads, heads, walk)


def _joined_bias(node: ir.Node, heads: Factor, walk: Walk, where: str) -> bool:
    """Tie heads to the bias of queries, keys and values, one after the other."""
    bias = walk.layout(operand(node, 3))
    if not bias:
        return True
    dims = [walk.dims(operand(node, place)) for place in range(3)]
    if any(sizes is None or len(sizes) != _FLAT for sizes in dims):
        return False
    return _tie_parts(bias[0], [sizes[2] for sizes in dims if sizes], heads, walk, where)


def _tie_parts(axis: Axis, sizes: Sequence[Integer], heads: Factor, walk: Walk, where: str) -> bool:
    """Tie heads to each of the parts that lie one after the other along an axis."""
    if len(axis) != 1:
        return False
    start = 0
    for size in sizes:
        merged = _merged(heads, size)
        if merged is None or not isinstance(size, int):
            return False
        tie_axes((axis[0].part(start, start + size),), merged, walk.ties, where)
        start += size
    return start == axis[0].size


def _packed(node: ir.Node, walk: Walk) -> Found:
    """com.microsoft Attention: one weight makes queries, keys and values."""
    data, weight = walk.layout(operand(node, 0)), walk.layout(operand(node, 1))
    heads, where = _count(node, "num_heads", walk), name_of(node)
    dims = walk.dims(operand(node, 1))
    if data is None or weight is None or heads is None or dims is None:
        return None
    sizes: Sequence[Integer] | None = ints_attribute(node, "qkv_hidden_sizes")
    if sizes is None:
        if not isinstance(dims[1], int) or "qkv_hidden_sizes" in node.attributes:
            return None
        sizes = [dims[1] // 3] * 3
    tie_axes(data[-1], weight[0], walk.ties, where)
    walk.note("contracts", node, data[-1], 0, len(data) - 1)
    walk.note("contracts", node, weight[0], 1, 0)
    walk.note("computes", node, weight[1], 1, 1)
    bias = walk.layout(operand(node, 2))
    for axis in [weight[1], *([bias[0]] if bias else [])]:
        if not _tie_parts(axis, sizes, heads, walk, where):
            return None
    past = operand(node, 4)  # (2, B, H, P, d)
    _tie_heads(past, 2, heads, walk, where)
    _mask(operand(node, 5), heads, walk, where)
    present = walk.opaque(node.outputs[1]) if len(node.outputs) > 1 else None
    if present is not None:
        present = (*present[:2], (heads,), *present[3:])
    size = sizes[2]
    value = size // int(str(heads.size)) if isinstance(size, int) else None
    return [_result(operand(node, 0), value, heads, walk), present]


def _grouped(node: ir.Node, walk: Walk) -> Found:
    """com.microsoft GroupQueryAttention, with queries, keys and values apart."""
    if any(operand(node, place) is None for place in (1, 2)):
        return None
    pair = _query_and_shared_heads(node, "num_heads", "kv_num_heads", walk)
    where = name_of(node)
    if pair is None or not _tie_three(node, *pair, walk=walk):
        return None
    query, shared = pair
    for place in (3, 4):
        _tie_heads(operand(node, place), _HEADS_AXIS, shared, walk, where)
    _mask(operand(node, 10), query, walk, where)
    sink = walk.layout(operand(node, 11))
    if sink:
        tie_axes(sink[0], (query,), walk.ties, where)
    return _results(node, query, shared, walk)


def _query_and_shared_heads(
    node: ir.Node, count: str, shared_count: str, walk: Walk
) -> tuple[Factor, Factor] | None:
    """Return heads of queries, and of keys and values: each of these serves as many neighbours."""
    query, shared = _count(node, count, walk), _count(node, shared_count, walk)
    if query is None or shared is None:
        return None
    served = _merged(shared, query.size)
    if served is None:
        return None
    tie_axes((query,), served, walk.ties, name_of(node))
    return query, shared


def _tie_three(node: ir.Node, query: Factor, shared: Factor, *, walk: Walk) -> bool:
    sides = ((0, query), (1, shared), (2, shared))
    return all(_tie_side(operand(node, n), side, walk, name_of(node)) for n, side in sides)


def _standard(node: ir.Node, walk: Walk) -> Found:
    """Attention of ONNX, opset 23 and 24: heads counted by attributes, or on an axis of theirs."""
    layouts, where = [walk.layout(operand(node, n)) for n in range(3)], name_of(node)
    if any(layout is None for layout in layouts):
        return None
    if len(layouts[0] or ()) == _FLAT:
        pair = _query_and_shared_heads(node, "q_num_heads", "kv_num_heads", walk)
    else:
        pair = _own_axes(node, walk)
    if pair is None or not _tie_three(node, *pair, walk=walk):
        return None
    query, shared = pair
    _mask(operand(node, 3), query, walk, where)
    for place in (4, 5):
        _tie_heads(operand(node, place), _HEADS_AXIS, shared, walk, where)
    return _results(node, query, shared, walk)


def _own_axes(node: ir.Node, walk: Walk) -> tuple[Factor, Factor] | None:
    dims = [walk.dims(operand(node, place)) for place in range(2)]
    sizes = [None if d is None or len(d) != _BY_HEADS else d[_HEADS_AXIS] for d in dims]
    if not all(isinstance(size, int) for size in sizes):
        return None
    query, shared = (walk.ties.factor(int(str(size))) for size in sizes)
    served = _merged(shared, query.size)
    if served is None:
        return None
    tie_axes((query,), served, walk.ties, name_of(node))
    walk.note("batches", node, (query,))
    walk.note("batches", node, (shared,))
    return query, shared


def _attention(node: ir.Node, walk: Walk) -> Found:
    return _packed(node, walk) if node.domain else _standard(node, walk)


def _rotary(node: ir.Node, walk: Walk) -> Found:
    """RotaryEmbedding, of ONNX (opset 23) and com.microsoft: elements of a head are turned."""
    data, dims = walk.layout(operand(node, 0)), walk.dims(operand(node, 0))
    where = name_of(node)
    if data is None or dims is None:
        return None
    for value in node.inputs[1:]:
        walk.pin(walk.layout(value), "rotated", "positions look it up", where)
    if len(data) == _BY_HEADS:
        walk.pin_axis(data[3], "rotated", "elements of a head are turned by pairs", where)
        return [data]
    heads = _count(node, "num_heads", walk) or _heads_by_size(node, walk)
    axis = None if heads is None else _merged(heads, dims[-1])
    if axis is None:
        return None
    return [(*data[:-1], tie_axes(data[-1], axis, walk.ties, where))]


def _heads_by_size(node: ir.Node, walk: Walk) -> Factor | None:
    """Return the heads where only the table of cosines, (positions, d / 2), tells how long."""
    place = 2 if node.domain else 1
    dims, table = walk.dims(operand(node, 0)), walk.dims(operand(node, place))
    half = None if table is None else table[-1]
    if dims is None or not isinstance(half, int) or not isinstance(dims[-1], int):
        return None
    return walk.ties.factor(dims[-1] // (2 * half)) if dims[-1] % (2 * half) == 0 else None


ATTENTION_RULES = {
    "Attention": _attention,
    "GroupQueryAttention": _grouped,
    "MultiHeadAttention": _multi_head,
    "RotaryEmbedding": _rotary,
}
