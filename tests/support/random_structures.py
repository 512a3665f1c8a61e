"""Chains and cuts that exporters write: what random nodes would hardly ever come to."""

import numpy as np
from hypothesis import strategies as st
from random_models import BATCH, FLOAT, shape_constant


def _stored(scope, dims):
    """A value that does not depend on inputs, which is no constant to those who look for one."""
    values = np.arange(np.prod(dims), dtype=np.float32).reshape(dims) - 3
    return scope.node("Relu", [scope.weight(values)], FLOAT, dims)


def _permuted(scope, x, order):
    return scope.node("Transpose", [x], FLOAT, [x.dims[axis] for axis in order], perm=order)


def _reshaped(scope, x, dims):
    target = [-1 if size == BATCH else size for size in dims]
    return scope.node("Reshape", [x, shape_constant(scope, target)], FLOAT, dims)


def rearrangement(scope):
    """Heads split from a row, turned, flattened, turned back and split again, or a part of that."""
    where = lambda v: len(v.dims) == 3 and not {0, BATCH} & set(v.dims[1:])  # noqa: E731
    x = scope.pick(FLOAT, where=where) or _stored(scope, (2, 3, 4))
    first, rows, width = x.dims
    heads = scope.draw(st.sampled_from([n for n in (1, 2, 3, 4) if width % n == 0]))
    x = _reshaped(scope, x, (first, rows, heads, width // heads))
    if scope.draw(st.booleans()):
        x = _permuted(scope, x, [0, 2, 1, 3])
    if scope.draw(st.booleans()):
        _, one, two, three = x.dims
        flat = BATCH if first == BATCH else first * one
        x = _permuted(scope, _reshaped(scope, x, (flat, two, three)), [0, 2, 1])
        x = _reshaped(scope, x, (first, one, three, two))
    return _permuted(scope, x, scope.draw(st.permutations([1, 2, 3]).map(lambda p: [0, *p])))


STRUCTURES = {
    "collapse-rearrangements": (rearrangement,),
}
"""By pass: the operators to draw often, so that there are places for it."""
