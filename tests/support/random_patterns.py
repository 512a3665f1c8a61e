"""Arithmetic that exporters write for one operator: what random nodes would hardly ever come to."""

import math

import numpy as np
from hypothesis import strategies as st
from random_models import FLOAT


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


PATTERNS = {"fuse-gelu": (gelu,)}
"""By pass: the operators to draw often, so that there are places for it."""
