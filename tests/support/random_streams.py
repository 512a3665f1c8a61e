"""Streams that layers add to: what whole layers are removed from."""

import numpy as np
from hypothesis import strategies as st
from random_models import BATCH, FLOAT


def _product(scope, x, columns, seed):
    values = np.random.default_rng(seed).normal(size=(x.dims[-1], columns)).astype(np.float32)
    return scope.node("MatMul", [x, scope.weight(values)], FLOAT, (*x.dims[:-1], columns))


def _stream(scope):
    where = lambda v: len(v.dims) in (2, 3) and v.dims[-1] not in {0, BATCH}  # noqa: E731
    x = scope.pick(FLOAT, where=where)
    if x is None:
        values = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)
        x = scope.node("Relu", [scope.weight(values)], FLOAT, (2, 4))
    return x


def residual_layers(scope):
    """Two layers on one stream, normalized before or not, the sum written in either order."""
    x = _stream(scope)
    for seed in (1, 2):
        h = _product(scope, x, 3, seed)
        branch = _product(scope, scope.node("Tanh", [h], FLOAT, h.dims), x.dims[-1], seed + 5)
        terms = [x, branch] if scope.draw(st.booleans()) else [branch, x]
        x = scope.node("Add", terms, FLOAT, x.dims)
        if scope.draw(st.booleans()):
            x = scope.node("Tanh", [x], FLOAT, x.dims)
    return x


def scores(scope):
    """Two layers, then scores of classes for each row: what a model may return early."""
    x = residual_layers(scope)
    axes = list(range(1, len(x.dims) - 1))
    if axes:
        held = scope.weight(np.array(axes))
        x = scope.node("ReduceMean", [x, held], FLOAT, (x.dims[0], x.dims[-1]), keepdims=0)
    return _product(scope, x, 3, 9)


def is_scores(value):
    """Tell whether a value could be scores of classes."""
    return value.kind == FLOAT and len(value.dims) == 2 and value.dims[1] not in {0, 1, BATCH}


STREAMS = {"exit-early": (scores,), "prune-layers": (residual_layers,)}
"""By pass: the patterns that it acts on."""
