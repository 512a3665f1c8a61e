"""Arithmetic that exporters write for one operator: what random nodes would hardly ever come to."""

import math

import numpy as np
from hypothesis import strategies as st
from random_algebra import ALGEBRA
from random_attention import ATTENTION
from random_control_flow import CONTROL_FLOW
from random_fusions import FUSIONS
from random_models import BATCH, FLOAT, INT, shape_constant
from random_quantized import QUANTIZED
from random_streams import STREAMS
from random_structures import STRUCTURES
from random_tables import TABLES
from random_units import UNITS


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


def quick_gelu(scope):
    """A value times the Sigmoid of it, or of a multiple of it."""
    if (x := scope.pick(FLOAT)) is None:
        return None
    inner = _apply(scope, "Mul", x, _number(scope, 1.702)) if _coin(scope) else x
    return _apply(scope, "Mul", x, scope.node("Sigmoid", [inner], FLOAT, x.dims))


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


def skip_normalization(scope):
    """A residual sum, perhaps of a linear layer with its bias, and LayerNormalization."""
    where = lambda v: len(v.dims) in (2, 3) and v.dims[-1] not in (BATCH, 0)  # noqa: E731
    if (x := scope.pick(FLOAT, where=where)) is None:
        return None
    y = scope.pick(FLOAT, where=lambda v: v.dims == x.dims)
    if len(x.dims) == 3 and x.dims[1] != BATCH and _coin(scope):
        y = _stored(scope, x.dims[1:] if _coin(scope) else (1, *x.dims[1:]))
    if _coin(scope):
        y = _apply(scope, "Add", y, _vector(scope, x.dims[-1]))
        if _coin(scope) and not {0, BATCH} & set(y.dims[1:]):
            y = scope.node("Reshape", [y, shape_constant(scope, [-1, *y.dims[1:]])], FLOAT, y.dims)
    total = _apply(scope, "Add", x, y)
    # Weights as nodes may come later than the sum.
    scale, bias = (scope.weight(np.linspace(*ends, x.dims[-1], dtype=np.float32)) for ends in _ENDS)
    inputs = [total, scale, *([bias] if _coin(scope) else [])]
    scope.node("LayerNormalization", inputs, FLOAT, x.dims, axis=-1)
    return total


def _stored(scope, dims):
    """A value that does not depend on inputs, which is no constant to those who look for one."""
    values = np.random.default_rng(0).normal(size=dims).astype(np.float32)
    return scope.node("Relu", [scope.weight(values)], FLOAT, dims)


def residual_rms(scope):
    """A residual sum and the root-mean-square normalization of it."""
    where = lambda v: len(v.dims) in (2, 3) and v.dims[-1] not in (BATCH, 0)  # noqa: E731
    x = scope.pick(FLOAT, where=where) or _stored(scope, (2, 4))
    y = scope.pick(FLOAT, where=lambda v: v.dims == x.dims)
    x = _over_root(scope, _apply(scope, "Add", x, y))
    scale = scope.weight(np.linspace(0.5, 2, x.dims[-1], dtype=np.float32))
    return _apply(scope, "Mul", x, scale) if _coin(scope) else x


_ENDS = ((0.5, 2), (-1, 1))


def bias_gelu(scope):
    """Gelu of a sum with a constant vector."""
    if (x := _normalizable(scope)) is None:
        return None
    total = _apply(scope, "Add", x, _vector(scope, x.dims[-1]))
    how = scope.draw(st.sampled_from(["none", "tanh"]))
    return scope.node("Gelu", [total], FLOAT, total.dims, approximate=how)


def embedding(scope):
    """Words and positions, perhaps token types, added up and normalized."""
    length, width = 3, scope.draw(st.sampled_from([2, 4]))
    where = lambda v: v.kind == INT and len(v.dims) == 1  # noqa: E731
    x = scope.pick(FLOAT, INT, where=where)
    row = scope.draw(st.lists(st.integers(0, 4), min_size=length, max_size=length))
    if x is None:
        indices = scope.weight(np.array([row]))
    else:  # as many rows as x is long, from arithmetic that nobody foresees
        zeros = scope.node("Mul", [x, scope.weight(np.array(0))], INT, x.dims)
        column = scope.node("Unsqueeze", [zeros, scope.weight(np.array([1]))], INT, (*x.dims, 1))
        indices = scope.node("Add", [column, scope.weight(np.array(row))], INT, (*x.dims, length))
    dims = (*indices.dims, width)
    total = scope.node("Gather", [_table(scope, 5, width), indices], FLOAT, dims)
    if _coin(scope):
        types = scope.node("Min", [indices, scope.weight(np.array(1))], INT, indices.dims)
        term = scope.node("Gather", [_table(scope, 2, width), types], FLOAT, dims)
        total = _apply(scope, "Add", total, term)
    places = scope.weight(np.arange(length).reshape(scope.draw(st.sampled_from([(1, 3), (3,)]))))
    shape = (*places.dims, width)
    term = scope.node("Gather", [_table(scope, 4, width), places], FLOAT, shape)
    total = _apply(scope, "Add", total, term)
    scale, bias = (scope.weight(np.linspace(*ends, width, dtype=np.float32)) for ends in _ENDS)
    return scope.node("LayerNormalization", [total, scale, bias], FLOAT, dims, axis=-1)


def _table(scope, rows, width):
    values = np.random.default_rng(rows).normal(size=(rows, width)).astype(np.float32)
    return scope.weight(values)


PATTERNS = {
    **STRUCTURES,
    **ALGEBRA,
    **ATTENTION,
    **CONTROL_FLOW,
    "fuse-bias-gelu": (bias_gelu, gelu),
    "fuse-embedding-normalization": (embedding,),
    "fuse-gelu": (gelu, quick_gelu),
    "fuse-layer-normalization": (layer_normalization, rms_normalization),
    "fuse-rms-normalization": (residual_rms, layer_normalization),
    "fuse-skip-normalization": (skip_normalization,),
    **FUSIONS,
    **UNITS,
    **STREAMS,
    **TABLES,
    **QUANTIZED,
}
"""By pass: the operators to draw often, so that there are places for it."""
