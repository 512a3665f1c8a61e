"""Chains and cuts that exporters write: what random nodes would hardly ever come to."""

import itertools

import numpy as np
from hypothesis import strategies as st
from onnx import helper
from random_models import BATCH, BOOL, DTYPES, FLOAT, INT, Known, shape_constant


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


def copied_count(scope):
    """How often each index is one of an element that is not 0: a number that nobody knows."""
    x = scope.pick(FLOAT, where=lambda v: v.dims) or _stored(scope, (2, 3))
    found, rows, parted = (scope.fresh() for _ in range(3))
    target = shape_constant(scope, [0, len(x.dims), 1])
    scope.nodes += [
        helper.make_node("NonZero", [x.name], [found]),
        helper.make_node("Transpose", [found], [rows], perm=[1, 0]),
        helper.make_node("Reshape", [rows, target.name], [parted]),
    ]
    parts = Known(parted, INT, (BATCH, len(x.dims), 1))
    return scope.node("ReduceSum", [parts, _vector(scope, 0)], INT, (len(x.dims), 1), keepdims=0)


def _vector(scope, *numbers):
    return shape_constant(scope, numbers)


def _sliced(scope, x, axis, bounds):
    """Take a part of an axis of known size."""
    start, end, *step = bounds
    size = len(range(*slice(start, end, *(step or [1])).indices(x.dims[axis])))
    places = [_vector(scope, number) for number in (start, end, axis, *step)]
    dims = [*x.dims[:axis], size, *x.dims[axis + 1 :]]
    return scope.node("Slice", [x, *places], FLOAT, dims)


def _cuttable(scope):
    where = lambda v: len(v.dims) > 1 and v.dims[1] in (3, 4)  # noqa: E731
    return scope.pick(FLOAT, where=where) or _stored(scope, (2, 4, 32))


def nested_slices(scope):
    """A Slice of a Slice, of the same axis or of another one."""
    x = _cuttable(scope)
    bounds = st.tuples(st.integers(0, 3), st.sampled_from([1, 3, 4, 2**63 - 1]), st.integers(1, 2))
    for _ in range(2):
        axes = [axis for axis, size in enumerate(x.dims) if size != BATCH]
        axis = scope.draw(st.sampled_from(axes))
        x = _sliced(scope, x, axis, scope.draw(bounds))
    return x


def parts(scope):
    """Parts of one axis, by Slices or by a Split, and perhaps put together again."""
    x = _cuttable(scope)
    border = scope.draw(st.integers(1, x.dims[1] - 1))
    borders = [0, border, x.dims[1]]
    if scope.draw(st.booleans()):
        borders = sorted({*borders, 1})
    found = [_sliced(scope, x, 1, pair) for pair in itertools.pairwise(borders)]
    if scope.draw(st.booleans()):
        return found[0]
    found = scope.draw(st.permutations(found))
    total = sum(part.dims[1] for part in found)
    joined = scope.node("Concat", found, FLOAT, (x.dims[0], total, *x.dims[2:]), axis=1)
    return _sliced(scope, joined, 1, (0, border)) if scope.draw(st.booleans()) else joined


def phases(scope):
    """Every second or third row, joined at the end."""
    x = _stored(scope, (2, 6, scope.draw(st.sampled_from([2, 8]))))
    step = scope.draw(st.sampled_from([2, 3]))
    found = [_sliced(scope, x, 1, (start, 2**63 - 1, step)) for start in range(step)]
    if scope.draw(st.booleans()):
        found.reverse()
    return scope.node("Concat", found, FLOAT, (2, 6 // step, step * x.dims[2]), axis=2)


def nested_concats(scope):
    """A Concat of a Concat."""
    x = _cuttable(scope)
    axis = scope.draw(st.sampled_from([1, 1, len(x.dims) - 1]))
    joined = scope.node("Concat", [x, x], FLOAT, (x.dims[0], 2 * x.dims[1], *x.dims[2:]), axis=1)
    if axis != 1:
        x = joined
    dims = [size + other if place == axis else size for place, (size, other) in _sizes(joined, x)]
    return scope.node("Concat", [joined, x], FLOAT, dims, axis=axis)


def _sizes(first, second):
    return enumerate(zip(first.dims, second.dims, strict=True))


def filled(scope):
    """A tensor filled with one number, and an operator that works element by element."""
    x = scope.pick(FLOAT, INT) or _stored(scope, (2, 3))
    number = scope.draw(st.sampled_from([0, 1, -2, 15]))
    kind = scope.draw(st.sampled_from([FLOAT, INT]))
    sizes = scope.node("Shape", [x], INT, (len(x.dims),))
    value = scope.weight(np.array(number, DTYPES[kind]))
    full = scope.node("Expand", [value, sizes], kind, x.dims)
    if kind != x.kind:
        full = scope.node("Cast", [full], x.kind, x.dims, to=x.kind)
    pair = [x, full] if scope.draw(st.booleans()) else [full, x]
    if scope.draw(st.booleans()):
        choice = scope.node("Cast", [full], BOOL, x.dims, to=BOOL)
        return scope.node("Where", [choice, *pair], x.kind, x.dims)
    op = scope.draw(st.sampled_from(["Add", "Sub", "Mul", "Min"]))
    return scope.node(op, pair, x.kind, x.dims)


def _counted(scope, x, axis):
    """The coordinates of ``x`` along an axis, at each of its places, perhaps counted otherwise."""
    size = scope.node("Shape", [x], INT, (1,), start=axis, end=axis + 1)
    limit = scope.node("Squeeze", [size, _vector(scope, 0)], INT, ())
    bounds = [scope.weight(np.array(0)), limit, scope.weight(np.array(1))]
    count = scope.node("Range", bounds, INT, (x.dims[axis],))
    dims = [size if place == axis else 1 for place, size in enumerate(x.dims)]
    spread = _reshape_integers(scope, count, dims)
    sizes = scope.node("Shape", [x], INT, (len(x.dims),))
    full = scope.node("Expand", [spread, sizes], INT, x.dims)
    return _reshape_integers(scope, full, (*x.dims, 1))


def _reshape_integers(scope, x, dims):
    added = [place for place, size in enumerate(dims) if size == 1]
    if len(dims) - len(added) == len(x.dims):
        return scope.node("Unsqueeze", [x, _vector(scope, *added)], INT, dims)
    return scope.node("Unsqueeze", [x, _vector(scope, -1)], INT, dims)


def lookup(scope):
    """A value, looked up or written place by place."""
    where = lambda v: len(v.dims) == 2 and 1 not in v.dims  # noqa: E731
    x = scope.pick(FLOAT, where=where) or _stored(scope, (2, 3))
    order = (
        scope.draw(st.sampled_from([[0, 1], [0, 1], [1, 0]])) if x.dims[0] == x.dims[1] else [0, 1]
    )
    parts = [_counted(scope, x, axis) for axis in order]
    indices = scope.node("Concat", parts, INT, (*x.dims, 2), axis=-1)
    if scope.draw(st.booleans()):
        return scope.node("GatherND", [x, indices], FLOAT, x.dims)
    doubled = scope.node("Add", [x, x], FLOAT, x.dims)
    return scope.node("ScatterND", [x, indices, doubled], FLOAT, x.dims)


def flat_product(scope):
    """A product of matrices in one row, with a Reshape at its borders or not."""
    where = lambda v: len(v.dims) == 4 and not {0, BATCH} & set(v.dims[1:])  # noqa: E731
    x = scope.pick(FLOAT, where=where) or _stored(scope, (2, 3, 4, 5))
    first, second, rows, columns = x.dims
    flat = BATCH if first == BATCH else first * second
    a = _reshaped(scope, x, (flat, rows, columns))
    turned = _permuted(scope, x, [0, 1, 3, 2]) if scope.draw(st.booleans()) else x
    b = _reshaped(scope, turned, (flat, columns, rows))
    product = scope.node("MatMul", [a, b], FLOAT, (flat, rows, rows))
    if scope.draw(st.booleans()):
        product = scope.node("Softmax", [product], FLOAT, product.dims, axis=-1)
    if scope.draw(st.booleans()):
        halves = scope.weight(np.array(0.5, np.float32))
        product = scope.node("Mul", [product, halves], FLOAT, product.dims)
    return _reshaped(scope, product, (first, second, rows, rows))


STRUCTURES = {
    "open-reshapes": (copied_count,),
    "collapse-concats": (parts, phases, nested_concats),
    "collapse-slices": (nested_slices, parts),
    "eliminate-lookups": (lookup,),
    "scalarize-operands": (filled,),
    "unflatten-batches": (flat_product,),
    "collapse-rearrangements": (rearrangement,),
}
"""By pass: the operators to draw often, so that there are places for it."""
