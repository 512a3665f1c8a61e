"""What the fuzzer adds to a graph: each function adds one node or a few, if they fit."""

from __future__ import annotations

import ml_dtypes
import numpy as np
from movements import (
    concat,
    cut,
    expand,
    flatten,
    gather,
    pad,
    reshape,
    shape_arithmetic,
    split,
    squeeze,
    tile,
    transpose,
    unsqueeze,
)
from onnx import helper
from other_kinds import optional, sequence, text
from scopes import Value, ints
from special_arrays import FLOATS, INTEGERS, NUMBERS, dims_of, dtype_of, random_array

# -- one to one, two to one ----------------------------------------------------------------------

UNARY = tuple(
    """
    Identity Identity Identity Relu Neg Abs Sigmoid Sqrt Exp Tanh Dropout Floor Ceil Sign Reciprocal
    Softplus Erf IsNaN IsInf Not Softmax LogSoftmax Flatten Shape Size NonZero Sum Max Min Mean Elu
    LeakyRelu HardSigmoid Softsign Round Celu Selu Gelu Mish HardSwish Hardmax Sin Cos Squeeze
    Transpose BitwiseNot
    """.split()  # noqa: SIM905 - a block of names reads better
)


def unary(scope):
    x = scope.pick()
    return x and scope.node(scope.world.choose(UNARY), [x])


BINARY = tuple(
    """
    Add Add Add Sub Sub Mul Mul Mul Max Min Pow Equal Less Greater And Or Xor PRelu BitwiseAnd
    BitwiseOr LessOrEqual Mean Sum MatMul
    """.split()  # noqa: SIM905 - a block of names reads better
)


def binary(scope):
    world = scope.world
    x = scope.pick(*NUMBERS, "bool")
    if x is None:
        return None
    y = neutral(scope, x) if world.chance(0.5) else scope.pick(x.kind)
    pair = [x, y] if world.chance(0.5) else [y, x]
    return scope.node(world.choose(BINARY), pair)


def neutral(scope, x: Value) -> Value:
    """Return a constant that is neutral, or nearly so, and may be too large."""
    world = scope.world
    dims = world.choose([(), (1,), (1, 1), (2,), x.dims, (0,), (1, 1, 1, 1)])
    number = world.choose([0.0, -0.0, 1.0, 1.0, -1.0, 1.0000001, 2.0])
    if x.kind.startswith("u") or x.kind == "bool":
        number = abs(number)
    with np.errstate(all="ignore"):
        return scope.weight(np.full(dims, number).astype(dtype_of(x.kind)))


def divide(scope):
    """Integer division by zero would crash the runtime."""
    x = scope.pick(*NUMBERS)
    if x is None:
        return None
    if x.kind in FLOATS:
        return scope.node("Div", [x, neutral(scope, x)])
    divisor = scope.weight(np.array(scope.world.choose([1, 2, 3]), dtype_of(x.kind)))
    return scope.node(scope.world.choose(["Div", "Mod"]), [x, divisor])


def select(scope):
    x, c = scope.pick(*NUMBERS, "text", "bool"), scope.pick("bool")
    y = x and scope.pick(x.kind)
    return x and c and scope.node("Where", [c, x, y])


def cast(scope):
    x = scope.pick(*NUMBERS, "bool")
    if x is None:
        return None
    kinds = [1, 1, 11, 10, 16, 9, 17, 19] + ([7, 7, 6, 5, 3, 2, 13] if x.kind not in FLOATS else [])
    target = scope.world.choose(kinds)
    results = scope.node("Cast", [x], to=target)
    if results and scope.world.chance(0.5):
        back = {
            "float32": 1,
            "float64": 11,
            "float16": 10,
            "bfloat16": 16,
            "int64": 7,
            "int32": 6,
            "bool": 9,
        }
        if results[0].kind in INTEGERS or x.kind not in INTEGERS:
            return scope.node("Cast", results, to=back.get(x.kind, 1))
    return results


def cast_like(scope):
    x, y = scope.pick(*NUMBERS), scope.pick("float32", "float64", "float16")
    return x and y and scope.node("CastLike", [x, y])


# -- numbers -------------------------------------------------------------------------------------


def clip(scope):
    x = scope.pick(*NUMBERS)
    if x is None:
        return None
    if scope.world.opset < 11:
        return scope.node("Clip", [x], min=-1.0)
    limits = [
        scope.weight(np.array(number, dtype_of(x.kind))) if scope.world.chance(0.6) else None
        for number in (0, 2)
    ]
    return scope.node("Clip", [x, *limits])


def reduce(scope):
    world = scope.world
    x = scope.pick(*NUMBERS, where=lambda v: v.rank >= 1)
    if x is None:
        return None
    op = world.choose(["ReduceSum", "ReduceMean", "ReduceMax", "ReduceProd", "ReduceMin"])
    axes = [int(world.rng.integers(-x.rank, x.rank))]
    keep = int(world.rng.integers(2))
    if world.opset >= 18 or (op == "ReduceSum" and world.opset >= 13):
        return scope.node(op, [x, ints(scope, axes)], keepdims=keep)
    return scope.node(op, [x], axes=axes, keepdims=keep)


def matmul(scope):
    world = scope.world
    x = scope.pick("float32", "float64", "float16", where=lambda v: v.rank >= 2)
    if x is None:
        return None
    weight = scope.weight(random_array(world, x.kind, (x.dims[-1], world.choose([1, 2, 3]))))
    if x.rank == 2 and world.chance(0.4):
        return scope.node(
            "Gemm", [x, weight, None if world.chance(0.5) else neutral(scope, x)], alpha=0.5
        )
    return scope.node("MatMul", [x, weight])


def batch_norm(scope):
    world = scope.world
    x = scope.pick("float32", where=lambda v: v.rank >= 2)
    if x is None:
        return None
    stats = [
        scope.weight(np.abs(world.rng.normal(size=x.dims[1])).astype(np.float32)) for _ in range(4)
    ]
    if world.opset >= 14 and world.chance(0.3):
        for value in stats:  # the runtime overwrites the statistics: nobody else may read them
            scope.values.remove(value)
        return scope.node("BatchNormalization", [x, *stats], 3, training_mode=1)
    if world.chance(0.3):
        stats[2] = stats[1]
    return scope.node("BatchNormalization", [x, *stats])


def dropout(scope):
    world = scope.world
    x = scope.pick(*FLOATS[:3])
    if x is None:
        return None
    outputs = world.choose([1, 1, 2])
    if world.opset < 12:
        return scope.node("Dropout", [x], outputs, ratio=0.5)
    ratio = scope.weight(np.array(world.choose([0.0, 0.5]), np.float32))
    mode = (
        scope.weight(np.array(False))
        if world.chance(0.7)
        else scope.pick("bool", where=lambda v: v.rank == 0)
    )
    if mode is not None and bool(mode.held[0] | mode.held[1]):
        ratio = scope.weight(np.array(0.0, np.float32))  # trains, but loses nothing
    return scope.node("Dropout", [x, ratio, mode], outputs)


RANDOM = ("RandomUniformLike", "RandomNormalLike", "Bernoulli")


def random_numbers(scope):
    """Numbers of which only type and shape go on."""
    x = scope.pick("float32")
    if x is None:
        return None
    op = scope.world.choose(RANDOM)
    attributes = {"seed": 1.0} if scope.world.chance(0.3) else {}
    drawn = scope.node(op, [x], **attributes)
    if not drawn:
        return None
    scope.values.remove(drawn[0])
    return scope.node("Shape", drawn)


def quantize(scope):
    world = scope.world
    x = scope.pick("float32")
    if x is None:
        return None
    scale = scope.weight(np.array(world.choose([0.1, 0.5]), np.float32))
    zero = scope.weight(np.array(world.choose([0, 3]), world.choose([np.uint8, np.int8])))
    results = scope.node("QuantizeLinear", [x, scale, zero])
    return results and scope.node("DequantizeLinear", [results[0], scale, zero])


def packed_weight(scope):
    """Four or eight bits behind a Dequantize or a Cast."""
    world = scope.world
    if world.opset < 21:
        return None
    kind = world.choose(
        [ml_dtypes.int4, ml_dtypes.uint4, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2]
    )
    weight = scope.weight(
        np.array(world.rng.integers(0, 5, world.choose([3, 4])), kind), as_node=False
    )
    scope.values.remove(weight)
    scale = scope.weight(np.array(0.5, np.float32))
    return scope.node("DequantizeLinear", [weight, scale])


def attention_like(scope):
    x = scope.pick("float32", where=lambda v: v.rank >= 2)
    y = x and scope.node("Einsum", [x, x], equation="...ij,...kj->...ik")
    return y and scope.node("Softmax", y, axis=-1)


def top_k(scope):
    x = scope.pick("float32", "int64", where=lambda v: v.rank >= 1 and v.dims[-1] > 0)
    named = scope.world.choose([[True, True], [True, False], [False, True]])
    return x and scope.node("TopK", [x, ints(scope, [1])], named)


def pool(scope):
    x = scope.pick("float32", where=lambda v: v.rank in (3, 4))
    if x is None:
        return None
    return scope.node("MaxPool", [x], scope.world.choose([1, 2]), kernel_shape=[1] * (x.rank - 2))


# -- the same again ------------------------------------------------------------------------------


NOT_REPEATED = (*("BatchNormalization", "Constant", "If", "Loop", "Scan"), *RANDOM)


def repeat(scope):
    """Add a node once more, with another name and maybe spelled another way."""
    plain = [n for n in scope.nodes if n.op_type not in NOT_REPEATED and not n.domain]
    if not plain:
        return None
    node = scope.world.choose(plain)
    by_name = {value.name: value for value in scope.values}
    if any(name and name not in by_name for name in node.input):
        return None
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    inputs = [by_name.get(name) for name in node.input]
    return scope.node(node.op_type, inputs, [bool(name) for name in node.output], **attributes)


def constant(scope):
    """Add a constant; sometimes a copy of one that is there."""
    world = scope.world
    known = [value for value in scope.values if value.is_constant and value.is_tensor]
    if known and world.chance(0.4):
        return [scope.weight(world.choose(known).held[0])]
    kind = world.choose(
        [*FLOATS[:3], "float32", "float32", "float32", "int64", "int64", "int32", "bool", "text"]
    )
    return [scope.weight(random_array(world, kind, dims_of(world)))]


def function_call(scope):
    world = scope.world
    if not world.functions:
        return None
    function = world.choose(world.functions)
    inputs = [scope.pick("float32") for _ in function.input]
    if any(value is None for value in inputs):
        return None
    attributes = {name: world.choose([0, -1]) for name in function.attribute}
    return scope.node(
        function.name, inputs, len(function.output), domain=function.domain, **attributes
    )


OPERATORS = [
    *(
        unary,
        unary,
        unary,
        unary,
        binary,
        binary,
        binary,
        binary,
        divide,
        select,
        cast,
        cast,
        cast_like,
    ),
    *(
        transpose,
        transpose,
        reshape,
        reshape,
        reshape,
        unsqueeze,
        unsqueeze,
        squeeze,
        squeeze,
        flatten,
        expand,
    ),
    *(
        expand,
        tile,
        concat,
        concat,
        split,
        cut,
        cut,
        pad,
        gather,
        shape_arithmetic,
        shape_arithmetic,
    ),
    *(
        shape_arithmetic,
        clip,
        reduce,
        matmul,
        batch_norm,
        dropout,
        random_numbers,
        quantize,
        packed_weight,
    ),
    *(
        attention_like,
        top_k,
        pool,
        text,
        sequence,
        sequence,
        optional,
        repeat,
        repeat,
        repeat,
        constant,
        constant,
    ),
    *(function_call, function_call),
]
