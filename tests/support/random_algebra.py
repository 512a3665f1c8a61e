"""Linear layers, and the constants that exporters leave around them."""

import math

import numpy as np
from hypothesis import strategies as st
from random_models import BATCH, FLOAT, shape_constant

TAME = [0.5, 2.0, -1.5, 3.0, 0.0, 1e-8]


def _coin(scope):
    return scope.draw(st.booleans())


def _values(scope, dims):
    seed = scope.draw(st.integers(0, 2))
    return np.random.default_rng(seed).normal(size=dims).astype(np.float32)


def _weight(scope, dims):
    return scope.weight(_values(scope, dims), as_node=scope.draw(st.integers(0, 3)) == 0)


def image(scope):
    """A value of rank 3 or 4 with known channels, made from any value if there is none."""
    where = lambda v: len(v.dims) in (3, 4) and not {0, BATCH} & set(v.dims[1:])  # noqa: E731
    if (x := scope.pick(FLOAT, where=where)) is not None:
        return x
    x = scope.weight(np.random.default_rng(3).normal(size=(2, 2, 3)).astype(np.float32))
    return scope.node("Tanh", [x], FLOAT, x.dims)


def convolution(scope):
    """A Conv or ConvTranspose with a kernel of one element, in groups or not, perhaps a bias."""
    x = image(scope)
    channels, kernel = x.dims[1], (1,) * (len(x.dims) - 2)
    groups = scope.draw(st.sampled_from([1, channels]))
    width = groups * scope.draw(st.sampled_from([1, 2]))
    op = scope.draw(st.sampled_from(["Conv", "ConvTranspose"]))
    if op == "Conv":
        shape = (width, channels // groups, *kernel)
    else:
        shape = (channels, width // groups, *kernel)
    bias = [_weight(scope, (width,))] if _coin(scope) else []
    inputs = [x, _weight(scope, shape), *bias]
    return scope.node(op, inputs, FLOAT, (x.dims[0], width, *x.dims[2:]), group=groups)


def _matrix_source(scope):
    where = lambda v: len(v.dims) >= 2 and v.dims[-1] not in (BATCH, 0)  # noqa: E731
    return scope.pick(FLOAT, where=where) or image(scope)


def linear(scope):
    """MatMul, perhaps with a bias, or Gemm with attributes."""
    x = _matrix_source(scope)
    width = scope.draw(st.sampled_from([1, 2, 4]))
    if len(x.dims) == 2 and _coin(scope):
        is_transposed = _coin(scope)
        shape = (width, x.dims[-1]) if is_transposed else (x.dims[-1], width)
        bias = [_weight(scope, scope.draw(st.sampled_from([(), (width,)])))] * _coin(scope)
        attributes = {"alpha": 0.5} | ({"beta": 2.0} if _coin(scope) else {})
        inputs = [x, _weight(scope, shape), *bias]
        dims = (x.dims[0], width)
        return scope.node("Gemm", inputs, FLOAT, dims, transB=int(is_transposed), **attributes)
    weight = _weight(scope, (x.dims[-1], width))
    y = scope.node("MatMul", [x, weight], FLOAT, (*x.dims[:-1], width))
    if _coin(scope):
        return scope.node("Add", [y, _weight(scope, (width,))], FLOAT, y.dims)
    return y


def _constant_for(scope, y, axis):
    """A number, or one for each index of an axis."""
    if scope.draw(st.integers(0, 2)) == 0:
        number = np.array(scope.draw(st.sampled_from(TAME)), np.float32)
        return scope.weight(number, as_node=_coin(scope))
    dims = (y.dims[axis],) + (1,) * (len(y.dims) - 1 - axis)
    if _coin(scope):
        dims = (1,) * (len(y.dims) - len(dims)) + dims
    return _weight(scope, dims)


def _affine(scope, y, axis, ops):
    for _ in range(scope.draw(st.integers(1, 3))):
        op, constant = scope.draw(st.sampled_from(ops)), _constant_for(scope, y, axis)
        pair = [y, constant] if op in ("Sub", "Div") or _coin(scope) else [constant, y]
        y = scope.node(op, pair, FLOAT, y.dims)
    return y


def affine_layer(scope):
    """A layer, and products and sums with constants after it."""
    is_image = _coin(scope)
    y = convolution(scope) if is_image else linear(scope)
    return _affine(scope, y, 1 if is_image else len(y.dims) - 1, ["Mul", "Div", "Add", "Sub"])


def affine_chain(scope):
    """Products and sums with constants, one after the other."""
    x = image(scope)
    return _affine(scope, x, len(x.dims) - 1, ["Mul", "Div", "Add", "Sub"])


def normalized_layer(scope):
    """A layer and BatchNormalization in inference mode after it."""
    y = convolution(scope) if _coin(scope) else linear(scope)
    if len(y.dims) < 2 or y.dims[1] in (BATCH, 0):
        return None
    return batch_normalization(scope, y)


def batch_normalization(scope, y):
    """BatchNormalization in inference mode."""
    channels = y.dims[1]
    parameters = [_values(scope, channels) for _ in range(3)]
    parameters.append(np.abs(_values(scope, channels)) + np.float32(0.1))
    inputs = [y, *(scope.weight(values) for values in parameters)]
    return scope.node("BatchNormalization", inputs, FLOAT, y.dims)


def scaled_input(scope):
    """Factors per channel, or BatchNormalization, and one or two layers of the result."""
    x = image(scope) if _coin(scope) else _matrix_source(scope)
    if len(x.dims) > 2 and _coin(scope) and x.dims[1] not in (BATCH, 0):
        is_normalized = _coin(scope)
        y = batch_normalization(scope, x) if is_normalized else _affine(scope, x, 1, ["Mul", "Div"])
        for _ in range(scope.draw(st.integers(1, 2))):
            kernel = (1,) * (len(x.dims) - 2)
            inputs = [
                y,
                _weight(scope, (2, x.dims[1], *kernel)),
                *[_weight(scope, (2,))] * _coin(scope),
            ]
            pads = [scope.draw(st.integers(0, 1)), *[0] * (2 * len(kernel) - 1)]
            dims = (x.dims[2] + pads[0], *x.dims[3:]) if x.dims[2] != BATCH else None
            if dims is None:
                return None
            z = scope.node("Conv", inputs, FLOAT, (x.dims[0], 2, *dims), pads=pads)
        return z
    y = _affine(scope, x, len(x.dims) - 1, ["Mul", "Div"])
    for _ in range(scope.draw(st.integers(1, 2))):
        z = scope.node("MatMul", [y, _weight(scope, (x.dims[-1], 2))], FLOAT, (*x.dims[:-1], 2))
    if len(x.dims) == 2:
        y = batch_normalization(scope, x)
        inputs = [y, _weight(scope, (2, x.dims[1])), _weight(scope, (2,))]
        z = scope.node("Gemm", inputs, FLOAT, (x.dims[0], 2), transB=1, alpha=2.0)
    return z


def scaled_scores(scope):
    """Scores of an attention with factors at queries, keys and scores, through Split or Reshape."""
    x = image(scope)
    if len(x.dims) == 4:
        return None
    sides = []
    for order in ([0, 2, 1, 3], [0, 2, 3, 1]):
        weight = _weight(scope, (x.dims[2], 4))
        y = scope.node("MatMul", [x, weight], FLOAT, (*x.dims[:2], 4))
        y = scope.node("Add", [y, _weight(scope, (4,))], FLOAT, y.dims) if _coin(scope) else y
        if _coin(scope):
            sizes = shape_constant(scope, [2, 2])
            y = scope.node("Split", [y, sizes], FLOAT, (*x.dims[:2], 2), axis=2)
            scope.nodes[-1].output.append(scope.fresh())
        dims = [x.dims[0], x.dims[1], 2, y.dims[2] // 2]
        target = shape_constant(scope, [0, 0, *dims[2:]])
        y = scope.node("Reshape", [y, target], FLOAT, dims)
        y = scope.node("Transpose", [y], FLOAT, [dims[axis] for axis in order], perm=order)
        if _coin(scope):
            factor = scope.weight(np.array(0.25, np.float32))
            y = scope.node("Mul", [y, factor], FLOAT, y.dims)
        sides.append(y)
    if sides[0].dims[3] != sides[1].dims[2]:
        return None
    dims = (*sides[0].dims[:3], sides[1].dims[3])
    scores = scope.node("MatMul", sides, FLOAT, dims)
    factor = scope.weight(np.array(2.0, np.float32))
    return scope.node("Div", [scores, factor], FLOAT, dims)


def padded_convolution(scope):
    """A Pad of spatial axes, mostly with zeros, and one or two convolutions of it."""
    x = image(scope)
    spatial = len(x.dims) - 2
    sizes = st.lists(st.integers(0, 2), min_size=spatial, max_size=spatial)
    front, back = scope.draw(sizes), scope.draw(sizes)
    inputs = [x, shape_constant(scope, [0, 0, *front, 0, 0, *back])]
    if _coin(scope):
        inputs.append(scope.weight(np.array(scope.draw(st.sampled_from([0.0, -0.0, 1.0])), "f")))
    dims = [sum(sizes) for sizes in zip(x.dims[2:], front, back, strict=True)]
    y = scope.node("Pad", inputs, FLOAT, (*x.dims[:2], *dims))
    for _ in range(scope.draw(st.integers(1, 2))):
        kernel = [min(2, size) for size in dims]
        weight = _weight(scope, (2, x.dims[1], *kernel))
        own = [scope.draw(st.integers(0, 1)) for _ in range(2 * spatial)]
        after = zip(dims, kernel, own, own[spatial:], strict=False)
        result = [size - span + 1 + low + high for size, span, low, high in after]
        z = scope.node("Conv", [y, weight], FLOAT, (x.dims[0], 2, *result), pads=own)
    return z


def strided_convolution(scope):
    """A Conv that moves by two pixels or three over an image of one to three channels."""
    channels, kernel, step = (scope.draw(st.integers(1, 3)) for _ in range(3))
    step, pads = max(step, 2), [scope.draw(st.integers(0, 2)) for _ in range(4)]
    sizes = [step * scope.draw(st.integers(2, 3)) for _ in range(2)]
    x = scope.weight(_values(scope, (1, channels, *sizes)))
    y = scope.node("Tanh", [x], FLOAT, (1, channels, *sizes))
    spans = [(sizes[axis] + pads[axis] + pads[axis + 2] - kernel) // step + 1 for axis in range(2)]
    weight = _weight(scope, (2, channels, kernel, kernel))
    inputs = [y, weight, *([_weight(scope, (2,))] if _coin(scope) else [])]
    return scope.node("Conv", inputs, FLOAT, (1, 2, *spans), pads=pads, strides=[step, step])


def masked_softmax(scope):
    """A Softmax over some axis of scores to which a mask was added, perhaps behind a Reshape."""
    rows, width = scope.draw(st.integers(1, 3)), scope.draw(st.integers(2, 4))
    scores = scope.node("Tanh", [_weight(scope, (rows, width))], FLOAT, (rows, width))
    entries = st.sampled_from([0.0, -100.0, -100.0, -3.0, -1e4])
    mask = [scope.draw(entries) for _ in range(rows * width)]
    mask = scope.weight(np.array(mask, np.float32).reshape(rows, width))
    y = _in_any_order(scope, "Add", scores, mask)
    if _coin(scope):
        dims = scope.draw(st.sampled_from([(1, rows, width), (rows, 1, width), (width, rows)]))
        y = scope.node("Reshape", [y, shape_constant(scope, list(dims))], FLOAT, dims)
    axis = scope.draw(st.sampled_from([-1, -1, 0]))
    return scope.node("Softmax", [y], FLOAT, y.dims, axis=axis)


def infinite_mask(scope):
    """A Softmax of scores, some of which a mask puts at the lowest of numbers."""
    rows, width = scope.draw(st.integers(1, 3)), scope.draw(st.integers(2, 4))
    scores = scope.node("Tanh", [_weight(scope, (rows, width))], FLOAT, (rows, width))
    low = scope.draw(st.sampled_from([-np.inf, -3.4028235e38, -1e38]))
    # The first one of a row is seen: what is hidden as a whole attends to other positions.
    seen = [place % width == 0 or _coin(scope) for place in range(rows * width)]
    choice = scope.weight(np.array(seen).reshape(rows, width))
    numbers = [scope.weight(np.array(number, np.float32)) for number in (0.0, low)]
    mask = scope.node("Where", [choice, *numbers], FLOAT, (rows, width))
    y = _in_any_order(scope, "Add", scores, mask)
    return scope.node("Softmax", [y], FLOAT, y.dims, axis=-1)


def flattened_linear(scope):
    """A Gemm on a tensor flattened for it, and the Reshape back."""
    where = lambda v: len(v.dims) in (3, 4) and not {0, BATCH} & set(v.dims[1:])  # noqa: E731
    x = scope.pick(FLOAT, where=where) or image(scope)
    count = math.prod(x.dims[1:])
    inner = scope.draw(st.sampled_from([x.dims[-1], math.prod(x.dims[-2:])]))
    rows = -1 if x.dims[0] == BATCH else x.dims[0] * count // inner
    flat_dims = (None, inner)
    flat = scope.node("Reshape", [x, shape_constant(scope, [-1, inner])], FLOAT, flat_dims)
    width, is_transposed = scope.draw(st.sampled_from([1, 3])), _coin(scope)
    weight = _weight(scope, (width, inner) if is_transposed else (inner, width))
    bias = [_weight(scope, (width,))] * _coin(scope)
    attributes = {"transB": int(is_transposed)}
    y = scope.node("Gemm", [flat, weight, *bias], FLOAT, (None, width), **attributes)
    for value in (flat, y):
        scope.values.remove(value)  # nobody knows the number of rows
    if _coin(scope):
        target = [-1, count // inner, width]
    else:
        target = [-1, *x.dims[1:-1], width] if inner == x.dims[-1] else [-1, width, 1]
    if target[1:] == [width, 1] and rows == -1:
        target = [-1, count // inner, width]
    first = x.dims[0] if math.prod(target[1:]) * inner == count * width else rows
    return scope.node("Reshape", [y, shape_constant(scope, target)], FLOAT, (first, *target[1:]))


def affine_matrix(scope):
    """MatMul of a matrix, and what is added to it."""
    where = lambda v: len(v.dims) == 2 and v.dims[-1] not in (BATCH, 0)  # noqa: E731
    if (x := scope.pick(FLOAT, where=where)) is None:
        values = np.random.default_rng(5).normal(size=(3, 2)).astype(np.float32)
        x = scope.node("Relu", [scope.weight(values)], FLOAT, (3, 2))
    width = scope.draw(st.sampled_from([1, 3]))
    y = scope.node("MatMul", [x, _weight(scope, (x.dims[1], width))], FLOAT, (x.dims[0], width))
    shapes = [(), (1,), (width,), (1, width)]
    shapes += [] if BATCH in x.dims else [(x.dims[0], 1), (x.dims[0], width)]
    pair = [y, _weight(scope, scope.draw(st.sampled_from(shapes)))]
    return scope.node("Add", pair[:: scope.draw(st.sampled_from([1, -1]))], FLOAT, y.dims)


def _number(scope, number):
    return scope.weight(np.array(number, np.float32), as_node=_coin(scope))


def _in_any_order(scope, op, x, y):
    return scope.node(op, [x, y] if _coin(scope) else [y, x], FLOAT, x.dims)


def hard_activation(scope):
    """HardSigmoid or HardSwish by Clip, or nearly so."""
    if (x := scope.pick(FLOAT)) is None:
        return None
    high = scope.draw(st.sampled_from([6.0, 6.0, 1.0]))
    y = x if high > 1 else _in_any_order(scope, "Mul", x, _number(scope, 1 / 6))
    y = _in_any_order(scope, "Add", y, _number(scope, high / 2))
    y = scope.node("Clip", [y, _number(scope, 0.0), _number(scope, high)], FLOAT, x.dims)
    is_swish, is_late = _coin(scope), _coin(scope)
    if is_swish and is_late:
        y = _in_any_order(scope, "Mul", y, x)
    if high > 1:
        y = scope.node("Div", [y, _number(scope, high)], FLOAT, x.dims)
    return _in_any_order(scope, "Mul", y, x) if is_swish and not is_late else y


def composed_activation(scope):
    """Mish, or HardSwish by HardSigmoid."""
    if (x := scope.pick(FLOAT)) is None:
        return None
    if _coin(scope):
        y = scope.node("HardSigmoid", [x], FLOAT, x.dims, alpha=1 / 6, beta=0.5)
    else:
        y = scope.node("Tanh", [scope.node("Softplus", [x], FLOAT, x.dims)], FLOAT, x.dims)
    return _in_any_order(scope, "Mul", x, y)


EQUATIONS = [
    *("ij,jk->ik", "ij,kj->ki", "bij,bjk->bik", "bthd,bshd->bhts", "bhts,bshd->bthd", "ij->ji"),
    *("abc,cde->abde", "abcd,cde->abe", "bi,bi->b", "i,j->ji", "ij,ij->ij", "ijk->j", "i,i->"),
    *("ij,j->i", "ij,jk", "bij,bj->bi", "ij,ik->i", "abc,ca->b"),
]


def einsum(scope):
    """Einsum of one or two operands, whose sizes are small and known, but for one."""
    equation = scope.draw(st.sampled_from(EQUATIONS))
    left, _, output = equation.partition("->")
    if not output and "->" not in equation:
        output = "ik"
    sizes = {label: scope.draw(st.integers(1, 3)) for label in sorted(set(left) - {","})}
    operands = []
    for labels in left.split(","):
        value = _weight(scope, [sizes[label] for label in labels])
        if _coin(scope):
            value = scope.node("Tanh", [value], FLOAT, value.dims)
        operands.append(value)
    dims = [sizes[label] for label in output]
    return scope.node("Einsum", operands, FLOAT, dims, equation=equation)


ALGEBRA = {
    "decompose-einsum": (einsum,),
    "fuse-activations": (hard_activation, composed_activation),
    "fuse-gemm": (affine_matrix,),
    "unflatten-gemm": (flattened_linear,),
    "deepen-convolutions": (strided_convolution,),
    "bound-masks": (infinite_mask,),
    "deepen-masks": (masked_softmax,),
    "fold-padding": (padded_convolution,),
    "fold-input-scales": (scaled_input,),
    "fold-scales": (affine_layer, normalized_layer, scaled_scores),
    "fold-shifts": (affine_layer, affine_chain),
}
"""By pass: the operators to draw often, so that there are places for it."""
