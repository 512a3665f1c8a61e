"""What operators of ONNX Runtime's own domain stand for: layers with what follows them."""

import numpy as np
from hypothesis import strategies as st
from random_models import BATCH, FLOAT


def _coin(scope):
    return scope.draw(st.booleans())


def _weight(scope, dims, seed=0):
    values = np.random.default_rng(seed).normal(size=dims).astype(np.float32)
    return scope.weight(values, as_node=_coin(scope))


def _of_weights(scope, dims):
    """A value that does not depend on inputs, which is no constant to those who look for one."""
    return scope.node("Abs", [_weight(scope, dims)], FLOAT, dims)


def conv_activation(scope):
    """A convolution, perhaps added to a value of its shape, perhaps with an activation."""
    where = lambda v: len(v.dims) == 3 and not {0, BATCH} & set(v.dims[1:])  # noqa: E731
    x = scope.pick(FLOAT, where=where) or _of_weights(scope, (2, 2, 3))
    batch, channels, length = x.dims
    width = scope.draw(st.sampled_from([channels, 1, 2]))
    inputs = [x, _weight(scope, (width, channels, 3))]
    if _coin(scope):
        inputs.append(_weight(scope, (width,), 1))
    dims = (batch, width, length)
    y = scope.node("Conv", inputs, FLOAT, dims, pads=[1, 1])
    if _coin(scope):
        other = scope.pick(FLOAT, where=lambda v: v.dims == dims)
        if other is None:
            other = _weight(scope, (batch if batch != BATCH else 1, width, length), 2)
        y = scope.node("Add", [y, other] if _coin(scope) else [other, y], FLOAT, dims)
    return _activation(scope, y)


def _activation(scope, x):
    plain = ["Relu", "Sigmoid", "Tanh", "LeakyRelu", "HardSigmoid", "Exp"]
    kind = scope.draw(st.sampled_from([*plain, "Elu", "Softplus", "Clip", "None"]))
    if kind == "None":
        return x
    if kind != "Clip":
        parameters = {"alpha": 0.25} if kind in ("LeakyRelu", "HardSigmoid") else {}
        return scope.node(kind, [x], FLOAT, x.dims, **parameters)
    ends = ((-1.0, 1.5), (2.0, 1.0), (np.nan, 1.0))
    low, high = scope.draw(st.sampled_from(ends))
    limits = [scope.weight(np.array(end, np.float32), as_node=_coin(scope)) for end in (low, high)]
    given = [limit if _coin(scope) else None for limit in limits]
    return scope.node("Clip", [x, *given], FLOAT, x.dims)


def gemm_activation(scope):
    """A fully connected layer, perhaps with an activation."""
    where = lambda v: len(v.dims) == 2 and v.dims[1] not in (0, BATCH)  # noqa: E731
    x = scope.pick(FLOAT, where=where) or _of_weights(scope, (2, 3))
    width = scope.draw(st.integers(1, 3))
    inputs = [x, _weight(scope, (width, x.dims[1]))]
    if _coin(scope):
        inputs.append(_weight(scope, (width,), 1))
    return _activation(scope, scope.node("Gemm", inputs, FLOAT, (x.dims[0], width), transB=1))


def turned_product(scope):
    """A product of a value with one of the same shape, turned, with scalars here and there."""
    x = scope.pick(FLOAT, where=lambda v: len(v.dims) in (2, 3)) or _of_weights(scope, (2, 3))
    y = scope.pick(FLOAT, where=lambda v: v.dims == x.dims)
    axes = list(range(len(x.dims)))
    axes[-2:] = reversed(axes[-2:])
    dims = [x.dims[axis] for axis in axes]
    y = scope.node("Transpose", [_scaled(scope, y)], FLOAT, dims, perm=axes)
    x = _scaled(scope, x)
    return _scaled(scope, scope.node("MatMul", [x, y], FLOAT, (*x.dims[:-1], x.dims[-2])))


def _scaled(scope, x):
    if _coin(scope):
        return x
    number = scope.draw(st.sampled_from([0.5, -3.0, 1e-9, 0.0, np.inf]))
    scalar = scope.weight(np.full((1,) * scope.draw(st.integers(0, 2)), number, np.float32))
    return scope.node(scope.draw(st.sampled_from(["Mul", "Div"])), [x, scalar], FLOAT, x.dims)


FUSIONS = {
    "fuse-conv-activation": (conv_activation,),
    "fuse-gemm-activation": (gemm_activation,),
    "fuse-matmul": (turned_product,),
}
"""By pass: the operators to draw often, so that there are places for it."""
