"""Element types of what operators compute: a declared table, one entry for each operator.

An entry is the number of the input whose type every output has, the type itself, or a function
that returns the type of each output, ``None`` where that is not known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import onnx_ir as ir

from graphopt.analysis.operands import cast_target, int_attribute, numbered_type, operand

__all__ = ["RESULT_TYPES", "TypeOf", "types_of_results"]

TypeOf = Callable[[ir.Value | None], ir.DataType | None]
"""Tells the element type of an input."""

_Types = Sequence[ir.DataType | None]
_Rule = int | ir.DataType | Callable[[ir.Node, TypeOf], _Types | None]

_BOOL, _FLOAT, _INT64 = ir.DataType.BOOL, ir.DataType.FLOAT, ir.DataType.INT64
_INT32, _UINT8 = ir.DataType.INT32, ir.DataType.UINT8


def types_of_results(node: ir.Node, type_of: TypeOf) -> _Types | None:
    """Return the element type of each output; ``None`` where no rule tells.

    Args:
        node: Any node.
        type_of: Tells the types of the inputs.
    """
    rules = RESULT_TYPES.get(node.domain)
    rule = None if rules is None else rules.get(node.op_type)
    if isinstance(rule, ir.DataType):  # before `int`, which these are, too
        return (rule,) * len(node.outputs)
    if isinstance(rule, int):
        return (type_of(operand(node, rule)),) * len(node.outputs)
    return None if rule is None else rule(node, type_of)


def _named(attribute: str, default: ir.DataType | None) -> _Rule:
    """Make a rule for operators with an attribute that names a type."""

    def rule(node: ir.Node, type_of: TypeOf) -> _Types | None:
        if attribute in node.attributes:
            number = int_attribute(node, attribute, 0)
            # 0 is no type: the attribute counts as absent then.
            if number != 0:
                return None if number is None else (numbered_type(number),)
        return (type_of(operand(node, 0)) if default is None else default,)

    return rule


def _cast(node: ir.Node, _type_of: TypeOf) -> _Types:
    return (cast_target(node),)


def _constant_of_shape(node: ir.Node, _type_of: TypeOf) -> _Types | None:
    value = node.attributes.get("value")
    if value is None:
        return (_FLOAT,)
    return None if value.is_ref() else (value.as_tensor().dtype,)


def _quantized(node: ir.Node, type_of: TypeOf) -> _Types | None:
    """The zero point has the type of the result; `output_dtype` names it since opset 21."""
    if operand(node, 2) is not None:
        return (type_of(operand(node, 2)),)
    number = int_attribute(node, "output_dtype", 0)
    return None if number is None else (numbered_type(number) if number else _UINT8,)


def _dequantized(node: ir.Node, type_of: TypeOf) -> _Types | None:
    """The scale has the type of the result, unless `output_dtype` names it (opset 23)."""
    number = int_attribute(node, "output_dtype", 0)
    if number is None:
        return None
    return (numbered_type(number) if number else type_of(operand(node, 1)),)


def _first_and(*others: ir.DataType | None) -> _Rule:
    """Make a rule: the first output is of the type of the first input, the others of these."""

    def rule(node: ir.Node, type_of: TypeOf) -> _Types:
        return (type_of(operand(node, 0)), *others)

    return rule


def _alone(node: ir.Node, type_of: TypeOf) -> _Types | None:
    """Versions differ in the type of masks and statistics: only of a lone result the rule tells."""
    return (type_of(operand(node, 0)),) if len(node.outputs) == 1 else None


def _layer_normalization(node: ir.Node, type_of: TypeOf) -> _Types | None:
    """Mean and deviation are of the type that they are computed in."""
    number = int_attribute(node, "stash_type", _FLOAT.value)
    if number is None:
        return None
    return (type_of(operand(node, 0)), numbered_type(number), numbered_type(number))


def _embedding(node: ir.Node, type_of: TypeOf) -> _Types:
    table = type_of(operand(node, 2))
    return (table, _INT32, table)


def _sum_and_norm(node: ir.Node, type_of: TypeOf) -> _Types:
    data = type_of(operand(node, 0))
    return (data, _FLOAT, _FLOAT, data)


_FIRST = """
    Abs Acos Acosh Add Asin Asinh Atan Atanh AveragePool BitShift BitwiseAnd BitwiseNot
    BitwiseOr BitwiseXor Ceil Celu Clip Compress Concat Conv ConvTranspose Cos Cosh CumSum
    DepthToSpace Div Einsum Elu Erf Exp Expand Flatten Floor GRU Gather GatherElements GatherND
    Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool GridSample GroupNormalization
    HardSigmoid HardSwish Hardmax Identity InstanceNormalization LRN LSTM LeakyRelu Log
    LogSoftmax LpNormalization LpPool MatMul Max Mean MeanVarianceNormalization Min Mish Mod Mul
    Neg PRelu Pad Pow RNN Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum
    ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu
    Reshape Resize ReverseSequence RotaryEmbedding Round ScatterElements ScatterND Selu Shrink
    Sigmoid Sign Sin Sinh Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub
    Sum Swish Tan Tanh ThresholdedRelu Tile Transpose Trilu Unsqueeze Upsample
""".split()  # noqa: SIM905 - a block of names reads better
_TRUTH = """
    And Equal Greater GreaterOrEqual IsInf IsNaN Less LessOrEqual Not Or Xor
""".split()  # noqa: SIM905
_COUNTS = "ArgMax ArgMin NonZero Shape Size".split()  # noqa: SIM905
_CONTRIB_FIRST = """
    Attention BiasGelu DynamicQuantizeMatMul FastGelu FusedConv FusedGemm FusedMatMul Gelu
    MultiHeadAttention QuickGelu RotaryEmbedding
""".split()  # noqa: SIM905

RESULT_TYPES: Mapping[str, Mapping[str, _Rule]] = {
    "": {
        **dict.fromkeys(_FIRST, 0),
        **dict.fromkeys(_TRUTH, _BOOL),
        **dict.fromkeys(_COUNTS, _INT64),
        "BatchNormalization": _alone,
        "Bernoulli": _named("dtype", None),
        "Cast": _cast,
        "CastLike": 1,
        "ConstantOfShape": _constant_of_shape,
        "ConvInteger": _INT32,
        "DequantizeLinear": _dequantized,
        "Dropout": _alone,
        "DynamicQuantizeLinear": lambda _node, _type_of: (_UINT8, _FLOAT, _UINT8),
        "EyeLike": _named("dtype", None),
        "LayerNormalization": _layer_normalization,
        "MatMulInteger": _INT32,
        "MaxPool": _first_and(_INT64),
        "OneHot": 2,
        "QLinearConv": 7,
        "QLinearMatMul": 7,
        "QuantizeLinear": _quantized,
        "RMSNormalization": 1,
        "RandomNormal": _named("dtype", _FLOAT),
        "RandomNormalLike": _named("dtype", None),
        "RandomUniform": _named("dtype", _FLOAT),
        "RandomUniformLike": _named("dtype", None),
        "TopK": _first_and(_INT64),
        "Unique": _first_and(_INT64, _INT64, _INT64),
        "Where": 1,
    },
    "com.microsoft": {
        **dict.fromkeys(_CONTRIB_FIRST, 0),
        "EmbedLayerNormalization": _embedding,
        "MatMulIntegerToFloat": 2,
        "SkipLayerNormalization": _sum_and_norm,
        "SkipSimplifiedLayerNormalization": _sum_and_norm,
    },
}
"""By domain and operator; `_Rule` says what an entry means. They hold for every opset since 7."""
