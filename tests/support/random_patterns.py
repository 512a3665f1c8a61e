"""Arithmetic that exporters write for one operator: what random nodes would hardly ever come to."""

import math

import numpy as np
from hypothesis import strategies as st
from random_models import BATCH, FLOAT


def _coin(scope):
    return scope.draw(st.booleans())


def _number(scope, number):
    return scope.weight(np.array(number, np.float32), as_node=_coin(scope))


def _apply(scope, op, left, right):
    """Apply a commutative operator to two values of one shape, or to one and a number."""
    dims = left.dims if len(left.dims) >= len(right.dims) else right.dims
    pair = [left, right] if _coin(scope) else [right, left]
    return scope.node(op, pair, FLOAT, dims)


def gelu(scope):
    """Gelu by erf or by tanh, with its factors in any order."""
    if (x := scope.pick(FLOAT)) is None:
        return None
    if _coin(scope):
        if _coin(scope):
            inner = scope.node("Div", [x, _number(scope, math.sqrt(2))], FLOAT, x.dims)
        else:
            inner = _apply(scope, "Mul", x, _number(scope, 1 / math.sqrt(2)))
        middle = scope.node("Erf", [inner], FLOAT, x.dims)
    else:
        middle = scope.node("Tanh", [_tanh_argument(scope, x)], FLOAT, x.dims)
    if _coin(scope):
        return _apply(scope, "Mul", x, _half_plus(scope, middle))
    one_more = _apply(scope, "Add", middle, _number(scope, 1.0))
    if _coin(scope):
        halved = _apply(scope, "Mul", x, _number(scope, 0.5))
        return _apply(scope, "Mul", halved, one_more)
    whole = _apply(scope, "Mul", x, one_more)
    return _apply(scope, "Mul", whole, _number(scope, 0.5))


def _half_plus(scope, middle):
    return _apply(
        scope, "Add", _apply(scope, "Mul", middle, _number(scope, 0.5)), _number(scope, 0.5)
    )


def _tanh_argument(scope, x):
    if _coin(scope):
        cube = scope.node("Pow", [x, _number(scope, 3.0)], FLOAT, x.dims)
    else:
        cube = _apply(scope, "Mul", _apply(scope, "Mul", x, x), x)
    total = _apply(scope, "Add", x, _apply(scope, "Mul", cube, _number(scope, 0.044715)))
    return _apply(scope, "Mul", total, _number(scope, math.sqrt(2 / math.pi)))


def _last_axis(scope, x, op):
    axes = scope.weight(np.array([scope.draw(st.sampled_from([-1, len(x.dims) - 1]))]))
    return scope.node(op, [x, axes], FLOAT, (*x.dims[:-1], 1))


def _square(scope, x):
    if _coin(scope):
        return scope.node("Pow", [x, _number(scope, 2.0)], FLOAT, x.dims)
    return scope.node("Mul", [x, x], FLOAT, x.dims)


def _over_root(scope, x):
    """Divide by the root of the mean square."""
    mean = _last_axis(scope, _square(scope, x), "ReduceMean")
    stable = _apply(scope, "Add", mean, _number(scope, 1e-5))
    form = scope.draw(st.sampled_from(["Div", "Reciprocal", "Pow"]))
    if form == "Pow":
        inverse = scope.node("Pow", [stable, _number(scope, -0.5)], FLOAT, stable.dims)
        return _apply(scope, "Mul", x, inverse)
    root = scope.node("Sqrt", [stable], FLOAT, stable.dims)
    if form == "Div":
        return scope.node("Div", [x, root], FLOAT, x.dims)
    return _apply(scope, "Mul", x, scope.node("Reciprocal", [root], FLOAT, root.dims))


def _vector(scope, width):
    return scope.weight(np.linspace(-1.5, 2, width, dtype=np.float32), as_node=_coin(scope))


def _normalizable(scope):
    return scope.pick(FLOAT, where=lambda v: v.dims and v.dims[-1] not in (BATCH, 0))


def layer_normalization(scope):
    """Layer normalization in arithmetic, with or without scale and bias."""
    if (x := _normalizable(scope)) is None:
        return None
    mean = _last_axis(scope, x, "ReduceMean")
    x = _over_root(scope, scope.node("Sub", [x, mean], FLOAT, x.dims))
    if _coin(scope):
        x = _apply(scope, "Mul", x, _vector(scope, x.dims[-1]))
    return _apply(scope, "Add", x, _vector(scope, x.dims[-1])) if _coin(scope) else x


def rms_normalization(scope):
    """Root-mean-square normalization in arithmetic, with or without a scale."""
    if (x := _normalizable(scope)) is None:
        return None
    x = _over_root(scope, x)
    return _apply(scope, "Mul", x, _vector(scope, x.dims[-1])) if _coin(scope) else x


PATTERNS = {
    "fuse-gelu": (gelu,),
    "fuse-layer-normalization": (layer_normalization, rms_normalization),
}
"""By pass: the operators to draw often, so that there are places for it."""
