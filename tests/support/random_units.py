"""Layers that compute units for other layers: what pruning cuts."""

import numpy as np
from hypothesis import strategies as st
from random_models import BATCH, FLOAT, shape_constant


def _matrix(scope, rows, columns, seed):
    return scope.weight(np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32))


def _layer(scope, x, columns, seed):
    dims = (*x.dims[:-1], columns)
    return scope.node("MatMul", [x, _matrix(scope, x.dims[-1], columns, seed)], FLOAT, dims)


def neurons(scope):
    """Two linear layers with an activation between."""
    where = lambda v: len(v.dims) in (2, 3) and v.dims[-1] not in {0, BATCH}  # noqa: E731
    x = scope.pick(FLOAT, where=where)
    if x is None:
        return None
    h = _layer(scope, x, scope.draw(st.sampled_from([2, 4, 6])), 1)
    return _layer(scope, scope.node("Relu", [h], FLOAT, h.dims), 3, 2)


def sharing(scope):
    """Two such pairs, one behind the other, whose neurons start from the same stored zeros."""
    where = lambda v: len(v.dims) in (2, 3) and v.dims[-1] not in {0, BATCH}  # noqa: E731
    x = scope.pick(FLOAT, where=where)
    if x is None:
        return None
    zeros = scope.weight(np.zeros(4, np.float32))
    for seed in (1, 3):
        h = _layer(scope, x, 4, seed)
        h = scope.node("Add", [h, zeros], FLOAT, h.dims)
        x = _layer(scope, scope.node("Relu", [h], FLOAT, h.dims), 3, seed + 1)
    return x


def heads(scope):
    """Attention of one value over itself, in four heads, with the projection of its result."""
    where = lambda v: len(v.dims) == 3 and not {0, BATCH} & set(v.dims[1:])  # noqa: E731
    x = scope.pick(FLOAT, where=where)
    if x is None:
        x = scope.node("Relu", [_kernel(scope, (2, 3, 4), 0)], FLOAT, (2, 3, 4))
    size = scope.draw(st.sampled_from([1, 2]))
    split = shape_constant(scope, [0, x.dims[1], 4, size])
    rows = [_layer(scope, x, 4 * size, seed) for seed in (4, 5, 6)]
    dims = (*x.dims[:2], 4, size)
    query, key, value = (scope.node("Reshape", [row, split], FLOAT, dims) for row in rows)
    query, value = (_turned(scope, side, [0, 2, 1, 3]) for side in (query, value))
    grid = (x.dims[0], 4, x.dims[1], x.dims[1])
    scores = scope.node("MatMul", [query, _turned(scope, key, [0, 2, 3, 1])], FLOAT, grid)
    weights = scope.node("Softmax", [scores], FLOAT, grid, axis=-1)
    context = scope.node("MatMul", [weights, value], FLOAT, value.dims)
    merged = shape_constant(scope, [0, x.dims[1], 4 * size])
    flat = (*x.dims[:2], 4 * size)
    context = scope.node("Reshape", [_turned(scope, context, [0, 2, 1, 3]), merged], FLOAT, flat)
    return _layer(scope, context, 3, 3)


def _turned(scope, x, order):
    return scope.node("Transpose", [x], FLOAT, [x.dims[axis] for axis in order], perm=order)


def channels(scope):
    """Two convolutions, perhaps with one of single channels between."""
    x = scope.node("Relu", [_kernel(scope, (1, 2, 4, 4), 0)], FLOAT, (1, 2, 4, 4))
    count = scope.draw(st.sampled_from([2, 4]))
    h = _convolved(scope, x, (count, 2, 1, 1), 1)
    if scope.draw(st.booleans()):
        h = _convolved(scope, h, (count, 1, 3, 3), 2, group=count, pads=[1, 1, 1, 1])
    return _convolved(scope, h, (3, count, 1, 1), 3)


def _kernel(scope, dims, seed):
    return scope.weight(np.random.default_rng(seed).normal(size=dims).astype(np.float32))


def _convolved(scope, x, kernel, seed, **attributes):
    dims = (x.dims[0], kernel[0], *x.dims[2:])
    return scope.node("Conv", [x, _kernel(scope, kernel, seed)], FLOAT, dims, **attributes)


UNITS = {
    "unshare-weights": (sharing,),
    "prune-heads": (heads,),
    "prune-neurons": (neurons,),
    "prune-channels": (channels,),
}
