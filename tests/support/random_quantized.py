"""Layers that came quantized, in either of their forms, for the passes that turn one into the other.

Scales are powers of two, so that sums of floats are those of integers, and no value lies on the
border between two integers in one form alone.
"""

import numpy as np
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from random_models import BATCH, FLOAT

_PARAMETERS = {"scale": np.float32(0.25), "zero": np.uint8(128), "no_offset": np.int8(0)}


def _constant(scope, array):
    name = scope.fresh()
    scope.initializers.append(numpy_helper.from_array(np.asarray(array), name))
    return name


def _add(scope, op, inputs, **attributes):
    name = scope.fresh()
    scope.nodes.append(helper.make_node(op, inputs, [name], **attributes))
    return name


def quantized_product(scope):
    """A product with a constant matrix in 8 bits; its result goes back to floats."""
    where = lambda v: len(v.dims) >= 2 and v.dims[-1] not in (BATCH, 0)  # noqa: E731
    if (x := scope.pick(FLOAT, where=where)) is None:
        return None
    outputs = scope.draw(st.integers(1, 3))
    random = np.random.default_rng(scope.draw(st.integers(0, 3)))
    held = {name: _constant(scope, array) for name, array in _PARAMETERS.items()}
    wide = _constant(scope, np.float32(16.0))
    weight = _constant(scope, random.integers(-8, 8, (x.dims[-1], outputs), dtype=np.int8))
    per_tensor = (held["scale"], held["no_offset"])
    channels = random.choice([0.25, 0.5, 1.0], outputs).astype(np.float32)
    per_channel = (_constant(scope, channels), _constant(scope, np.zeros(outputs, np.int8)))
    is_wide = scope.draw(st.booleans())
    factor, offset = per_channel if is_wide else per_tensor
    integers = _add(scope, "QuantizeLinear", [x.name, held["scale"], held["zero"]])
    if scope.draw(st.booleans()):
        inputs = [integers, held["scale"], held["zero"], weight, factor, offset, wide, held["zero"]]
        rounded = _add(scope, "QLinearMatMul", inputs)
    else:
        left = _add(scope, "DequantizeLinear", [integers, held["scale"], held["zero"]])
        axis = {"axis": 1} if is_wide else {}
        right = _add(scope, "DequantizeLinear", [weight, factor, offset], **axis)
        product = _add(scope, "MatMul", [left, right])
        rounded = _add(scope, "QuantizeLinear", [product, wide, held["zero"]])
    return scope.node(
        "DequantizeLinear",
        [_Named(rounded), _Named(wide), _Named(held["zero"])],
        FLOAT,
        (*x.dims[:-1], outputs),
    )


def product_in_blocks(scope):
    """A product with a constant matrix of integers in blocks."""
    where = lambda v: len(v.dims) >= 2 and v.dims[-1] not in (BATCH, 0)  # noqa: E731
    # Below, the domain would not be imported. Larger matrices have more than one block.
    if scope.depth or (x := scope.pick(FLOAT, where=where)) is None or x.dims[-1] > 16:
        return None
    inputs, outputs = x.dims[-1], scope.draw(st.integers(1, 3))
    random = np.random.default_rng(scope.draw(st.integers(0, 3)))
    scale = random.uniform(0.25, 1.0, (1, outputs)).astype(np.float32)
    packed = random.integers(0, 256, (outputs, 1, 16), dtype=np.uint8)
    held = [_Named(_constant(scope, array)) for array in (packed, scale.T.copy())]
    sizes = {"K": inputs, "N": outputs, "bits": 8, "block_size": 16}
    dims = (*x.dims[:-1], outputs)
    return scope.node("MatMulNBits", [x, *held], FLOAT, dims, domain="com.microsoft", **sizes)


def product_scaled_on_every_run(scope):
    """A product whose activation is rounded as it comes, in operators of ONNX or at once."""
    where = lambda v: len(v.dims) >= 2 and v.dims[-1] not in (BATCH, 0)  # noqa: E731
    if (x := scope.pick(FLOAT, where=where)) is None:
        return None
    outputs = scope.draw(st.integers(1, 3))
    random = np.random.default_rng(scope.draw(st.integers(0, 3)))
    weight = _constant(scope, random.integers(-127, 128, (x.dims[-1], outputs), dtype=np.int8))
    along = outputs if scope.draw(st.booleans()) else ()
    scale = _constant(scope, np.asarray(random.uniform(0.01, 0.02, along), np.float32))
    bias = _constant(scope, random.uniform(-1, 1, outputs).astype(np.float32))
    dims = (*x.dims[:-1], outputs)
    if not scope.depth and scope.draw(st.booleans()):
        held = [_Named(name) for name in (weight, scale, "", bias)]
        domain = {"domain": "com.microsoft"}
        return scope.node("DynamicQuantizeMatMul", [x, *held], FLOAT, dims, **domain)
    names = [scope.fresh() for _ in range(3)]
    scope.nodes.append(helper.make_node("DynamicQuantizeLinear", [x.name], names))
    sums = _add(scope, "MatMulInteger", [names[0], weight, names[2]])
    floats = _add(scope, "Cast", [sums], to=FLOAT)
    factor = _add(scope, "Mul", [names[1], scale])
    product = _add(scope, "Mul", [floats, factor])
    return scope.node("Add", [_Named(product), _Named(bias)], FLOAT, dims)


class _Named:
    def __init__(self, name):
        self.name = name


QUANTIZED = {
    "convert-blocked-weights": (product_in_blocks,),
    "convert-dynamic-layers": (product_scaled_on_every_run,),
    "convert-quantized-layers": (quantized_product,),
}
