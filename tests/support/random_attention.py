"""Attention and rotary embeddings, written as exporters do."""

import math

import numpy as np
from hypothesis import strategies as st
from onnx import helper
from random_models import BATCH, BOOL, FLOAT, Known, shape_constant

LEAST = np.finfo(np.float32).min


def _coin(scope):
    return scope.draw(st.booleans())


def _number(scope, number):
    return scope.weight(np.array(number, np.float32), as_node=_coin(scope))


def _added(scope, x, y):
    pair = [x, y] if _coin(scope) else [y, x]
    return scope.node("Add", pair, FLOAT, x.dims)


def _scaled(scope, x, factor):
    return scope.node("Mul", [x, _number(scope, factor)], FLOAT, x.dims) if _coin(scope) else x


def _reshaped(scope, x, dims):
    target = [-1 if size == BATCH else size for size in dims]
    return scope.node("Reshape", [x, shape_constant(scope, target)], FLOAT, dims)


def _turned(scope, x, order):
    return scope.node("Transpose", [x], FLOAT, [x.dims[axis] for axis in order], perm=order)


def _stored(scope, dims):
    """A value that does not depend on inputs, which is no constant to those who look for one."""
    values = np.random.default_rng(0).normal(size=dims).astype(np.float32)
    return scope.node("Relu", [scope.weight(values)], FLOAT, dims)


def _tokens(scope):
    """A value of shape (B, S, width)."""
    where = lambda v: len(v.dims) in (2, 3) and not {0, BATCH} & set(v.dims[1:])  # noqa: E731
    x = scope.pick(FLOAT, where=where) or _stored(scope, (2, 3, 4))
    if len(x.dims) == 2:
        axis = scope.weight(np.array([1]))
        x = scope.node("Unsqueeze", [x, axis], FLOAT, (x.dims[0], 1, x.dims[1]))
    return x


def attention(scope):
    """Attention of one value over itself, in one or two heads."""
    x = _tokens(scope)
    count, size = scope.draw(st.sampled_from([(1, 2), (2, 2), (2, 1)]))
    heads = (x.dims[0], count, x.dims[1], size)
    rows = _packed(scope, x, count * size) if _coin(scope) else _separate(scope, x, count * size)
    query, key, value = (_split(scope, one, heads) for one in rows)
    if heads[0] != BATCH and _coin(scope):
        key, value = (_continued(scope, one) for one in (key, value))
    query = _scaled(scope, query, 0.5)
    if count > 1 and _coin(scope):
        context = _by_matrices(scope, query, key, value)
    else:
        scores = scope.node(
            "MatMul", [query, _turned(scope, key, [0, 1, 3, 2])], FLOAT, (*heads[:3], key.dims[2])
        )
        weights = _weights(scope, _masked(scope, _scaled(scope, scores, 1 / math.sqrt(size))))
        context = scope.node("MatMul", [weights, value], FLOAT, heads)
    context = _turned(scope, context, [0, 2, 1, 3])
    target = shape_constant(scope, [0, x.dims[1], count * size])
    return scope.node("Reshape", [context, target], FLOAT, (*x.dims[:2], count * size))


def _separate(scope, x, width):
    return [_projected(scope, x, width, seed) for seed in range(3)]


def _packed(scope, x, width):
    whole = _projected(scope, x, 3 * width, 0)
    return _cut(scope, whole, 3, width)


def _cut(scope, x, count, size):
    """Split the last axis into parts of one size."""
    parts = [Known(scope.fresh(), FLOAT, (*x.dims[:-1], size)) for _ in range(count)]
    names = [part.name for part in parts]
    inputs = [x.name, shape_constant(scope, [size] * count).name]
    scope.nodes.append(helper.make_node("Split", inputs, names, axis=len(x.dims) - 1))
    scope.values.extend(parts)
    return parts


def _projected(scope, x, width, seed):
    shape = (x.dims[-1], width)
    weight = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    product = scope.node("MatMul", [x, scope.weight(weight)], FLOAT, (*x.dims[:2], width))
    bias = np.linspace(-1.5, 2, width, dtype=np.float32)
    return _added(scope, product, scope.weight(bias)) if _coin(scope) else product


def _split(scope, x, heads):
    batch, count, length, size = heads
    target = shape_constant(scope, [0, length, count, size])
    parted = scope.node("Reshape", [x, target], FLOAT, (batch, length, count, size))
    return _turned(scope, parted, [0, 2, 1, 3])


def _continued(scope, heads):
    """Put a past of two tokens in front."""
    past = _stored(scope, (*heads.dims[:2], 2, heads.dims[3]))
    dims = (*heads.dims[:2], heads.dims[2] + 2, heads.dims[3])
    return scope.node("Concat", [past, heads], FLOAT, dims, axis=2)


def _by_matrices(scope, query, key, value):
    """Multiply matrices of three dimensions, and mask what they are parts of."""
    batch, count, length, size = query.dims
    flat = BATCH if batch == BATCH else batch * count
    query, key, value = (
        _reshaped(scope, one, (flat, *one.dims[2:])) for one in (query, key, value)
    )
    pairs = (flat, length, key.dims[1])
    scores = scope.node("MatMul", [query, _turned(scope, key, [0, 2, 1])], FLOAT, pairs)
    if _coin(scope):
        scores = _masked(scope, _reshaped(scope, scores, (batch, count, *pairs[1:])))
        scores = _reshaped(scope, scores, pairs)
    context = scope.node("MatMul", [_weights(scope, scores), value], FLOAT, (flat, length, size))
    return _reshaped(scope, context, (batch, count, length, size))


def _masked(scope, scores):
    """Let no query see keys that come later, or keep the scores."""
    length, keys = scores.dims[2:]
    form = scope.draw(st.sampled_from(["none", "added", "flat", "row", "chosen"]))
    later = np.triu(np.ones((length, keys), bool), 1 + keys - length)
    if form == "none":
        return scores
    if form == "chosen":
        choice = scope.node(
            "Identity", [scope.weight(later[None, None])], BOOL, (1, 1, *later.shape)
        )
        given = [choice, _number(scope, LEAST), scores]
        return scope.node("Where", given, FLOAT, scores.dims)
    mask = np.where(later, LEAST if _coin(scope) else -1e4, 0).astype(np.float32)
    mask = {"added": mask[None, None], "flat": mask, "row": mask[None, None, :1]}[form]
    return _added(scope, scores, scope.weight(mask, as_node=_coin(scope)))


def _weights(scope, scores):
    weights = scope.node("Softmax", [scores], FLOAT, scores.dims, axis=-1)
    if not _coin(scope):
        return weights
    nan = scope.node("IsNaN", [weights], BOOL, scores.dims)
    return scope.node("Where", [nan, _number(scope, 0), weights], FLOAT, scores.dims)


def rotary(scope):
    """Heads, rotated by angles that are the same for both halves."""
    where = lambda v: len(v.dims) == 4 and v.dims[-1] == 4 and 0 not in v.dims  # noqa: E731
    x = scope.pick(FLOAT, where=where) or _split(scope, _stored(scope, (2, 3, 8)), (2, 2, 3, 4))
    rows = scope.draw(st.sampled_from([1, x.dims[0]])) if x.dims[0] != BATCH else 1
    angles = _stored(scope, (rows, x.dims[2], 2))
    twice = scope.node("Concat", [angles, angles], FLOAT, (rows, x.dims[2], 4), axis=-1)
    cosines, sines = (
        scope.node(
            "Unsqueeze",
            [scope.node(kind, [twice], FLOAT, twice.dims), scope.weight(np.array([1]))],
            FLOAT,
            (rows, 1, x.dims[2], 4),
        )
        for kind in ("Cos", "Sin")
    )
    halves = (*x.dims[:3], 2)
    left, right = _cut(scope, x, 2, 2)
    turned = scope.node("Neg", [right], FLOAT, halves)
    turned = scope.node("Concat", [turned, left], FLOAT, x.dims, axis=-1)
    products = [
        scope.node("Mul", pair if _coin(scope) else pair[::-1], FLOAT, x.dims)
        for pair in ([x, cosines], [turned, sines])
    ]
    return scope.node("Add", products if _coin(scope) else products[::-1], FLOAT, x.dims)


def repeats(scope):
    """Slices along an axis repeated one by one, or all together."""
    where = lambda v: len(v.dims) == 3 and not {0, BATCH} & set(v.dims[1:])  # noqa: E731
    x = scope.pick(FLOAT, where=where) or _stored(scope, (2, 3, 4))
    axis, count = scope.draw(st.integers(1, 2)), scope.draw(st.integers(1, 3))
    dims = (*x.dims[:axis], 1, *x.dims[axis:])
    wide = scope.node("Unsqueeze", [x, scope.weight(np.array([axis]))], FLOAT, dims)
    target = [1] * len(dims)
    target[axis] = count
    dims = (*x.dims[:axis], count, *x.dims[axis:])
    wide = scope.node("Expand", [wide, shape_constant(scope, target)], FLOAT, dims)
    joined = scope.draw(st.sampled_from([axis - 1, axis]) if axis > 1 else st.just(axis))
    dims = list(x.dims)
    dims[joined] *= count
    return _reshaped(scope, wide, dims)


def grouped(scope):
    """Attention of ONNX Runtime whose queries share keys and values, perhaps those of a past."""
    count, size = scope.draw(st.sampled_from([(1, 2), (2, 2)]))
    group, keys = scope.draw(st.integers(2, 3)), 3
    where = lambda v: len(v.dims) == 3 and v.dims[2] == 4 and not {0, BATCH} & set(v.dims[:2])  # noqa: E731
    x = scope.pick(FLOAT, where=where) or _stored(scope, (2, 3, 4))
    batch, length = x.dims[:2]
    query = _projected(scope, x, count * group * size, 0)
    if _coin(scope):
        rows = [_projected(scope, x, count * size, seed) for seed in (1, 2)]
        key, value = (
            _continued(scope, _split(scope, one, (batch, count, length, size))) for one in rows
        )
        keys = length + 2
    else:
        key, value = (_stored(scope, (batch, count, keys, size)) for _ in range(2))
    places = scope.weight(np.repeat(np.arange(count), group))
    dims = (batch, count * group, keys, size)
    key, value = (scope.node("Gather", [one, places], FLOAT, dims, axis=1) for one in (key, value))
    inputs = [query, key, value]
    if _coin(scope):
        rows = scope.draw(st.sampled_from([1, batch]))
        inputs += [None, None, _stored(scope, (rows, 1, length, keys))]
    heads = {"domain": "com.microsoft", "num_heads": count * group}
    return scope.node("MultiHeadAttention", inputs, FLOAT, query.dims, **heads)


def side_by_side(scope):
    """Two or three linear layers of one value, with and without biases."""
    x = _tokens(scope)
    widths = scope.draw(st.lists(st.integers(1, 3), min_size=2, max_size=3))
    parts = [_projected(scope, x, width, seed) for seed, width in enumerate(widths)]
    return scope.node("Tanh", [parts[-1]], FLOAT, parts[-1].dims)


def split_bias(scope):
    """A constant added to what a row was split into."""
    where = lambda v: v.dims and v.dims[-1] in (4, 6) and 0 not in v.dims  # noqa: E731
    x = scope.pick(FLOAT, where=where) or _stored(scope, (2, 3, 4))
    parts = (2, x.dims[-1] // 2)
    x = _reshaped(scope, x, (*x.dims[:-1], *parts)) if x.dims.count(BATCH) < 2 else x
    dims = parts[scope.draw(st.integers(0, 1)) :]
    values = np.random.default_rng(1).normal(size=dims).astype(np.float32)
    return _added(scope, x, scope.weight(values, as_node=_coin(scope)))


ATTENTION = {
    "collapse-repeats": (repeats,),
    "fuse-attention": (attention,),
    "fuse-rotary-embedding": (rotary,),
    "group-queries": (grouped,),
    "hoist-biases": (split_bias,),
    "join-products": (side_by_side,),
}
"""By pass: the operators to draw often, so that there are places for it."""
