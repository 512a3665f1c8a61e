"""Raising the opset of a model where no operator changes its meaning."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import onnx_ir as ir

from graphopt.ir import nodes, opset_version

__all__ = ["opset_obstacle"]

# From which opset on an operator means what it means in opset 13: between the two, the
# specification only allows more types, more ranks, or negative axes (ONNX `docs/Changelog.md`).
_SAME_UP_TO_13 = {
    "Abs": 6,
    "Add": 7,
    "AveragePool": 7,
    "Cast": 9,
    "Ceil": 6,
    "Clip": 11,
    "Concat": 4,
    "Constant": 1,
    "Conv": 1,
    "DepthToSpace": 11,
    "Div": 7,
    "Equal": 7,
    "Erf": 9,
    "Exp": 6,
    "Expand": 8,
    "Flatten": 1,
    "Floor": 6,
    "Gather": 1,
    "Gemm": 7,
    "Greater": 7,
    "Identity": 1,
    "Less": 7,
    "Log": 6,
    "MatMul": 1,
    "Max": 8,
    "MaxPool": 8,
    "Min": 8,
    "Mul": 7,
    "Neg": 6,
    "Pad": 11,
    "ReduceMax": 1,
    "ReduceMean": 1,
    "ReduceMin": 1,
    "Relu": 6,
    "Reshape": 5,
    "Resize": 11,
    "Shape": 1,
    "Sigmoid": 6,
    "Slice": 10,
    "SpaceToDepth": 1,
    "Sqrt": 6,
    "Sub": 7,
    "Tanh": 6,
    "Tile": 6,
    "Transpose": 1,
}
# The same from opset 13 to 21; attributes and inputs that were added are optional and by default
# do what was done before.
_SAME_UP_TO_21 = {
    "Add": 13,
    "AveragePool": 11,
    "BatchNormalization": 9,
    "Cast": 13,
    "CastLike": 15,
    "Constant": 13,
    "ConstantOfShape": 9,
    "CumSum": 11,
    "DequantizeLinear": 13,
    "Div": 13,
    "Equal": 13,
    "Flatten": 13,
    "GRU": 7,
    "GreaterOrEqual": 12,
    "Identity": 13,
    "If": 13,
    "IsInf": 10,
    "IsNaN": 9,
    "LSTM": 7,
    "LeakyRelu": 6,
    "LessOrEqual": 12,
    "Loop": 13,
    "LpPool": 11,
    "Mul": 13,
    "PRelu": 9,
    "Pad": 13,
    "Pow": 13,
    "QLinearMatMul": 10,
    "QuantizeLinear": 13,
    "RNN": 7,
    "ReduceMax": 18,
    "ReduceMin": 18,
    "Relu": 13,
    "Reshape": 13,
    "Resize": 13,
    "Scan": 11,
    "ScatterElements": 13,
    "ScatterND": 13,
    "Shape": 13,
    "Size": 13,
    "Squeeze": 13,
    "Sub": 13,
    "Transpose": 13,
    "Unsqueeze": 13,
    "Where": 9,
}
_STEPS = ((13, _SAME_UP_TO_13), (21, _SAME_UP_TO_21))
_SIZES_AS_INPUT = 13
_REMOVED_RESIZE_MODE = "tf_half_pixel_for_nn"


def opset_obstacle(model: ir.Model, version: int) -> str | None:
    """Return why the opset of ``model`` cannot become ``version`` as it is, or ``None``.

    Args:
        model: The model.
        version: Opset of the default domain, at most 21, at least that of the model.
    """
    current = opset_version(model)
    if current == version:
        return None
    if model.functions:
        return "it has functions with opsets of their own"
    for node in nodes(model):
        if not node.domain and not _means_the_same(node, current, version):
            return f"`{node.op_type}` changes between opset {current} and {version}"
    return None


def _means_the_same(node: ir.Node, current: int, version: int) -> bool:
    mode = node.attributes.get_string("coordinate_transformation_mode")
    if mode == _REMOVED_RESIZE_MODE or _is_redefined(node, version):
        return False
    for reached, same_since in _STEPS:
        step = min(version, reached)
        if current < step and not _is_same_step(node, current, step, same_since):
            return False
        current = max(current, step)
    return current == version


def _is_same_step(node: ir.Node, current: int, version: int, same_since: Mapping[str, int]) -> bool:
    try:
        old = onnx.defs.get_schema(node.op_type, current).since_version
        new = onnx.defs.get_schema(node.op_type, version).since_version
    except onnx.defs.SchemaError:
        return False
    # From opset 18 on somebody must say how many parts there are, where their sizes are not given.
    if node.op_type == "Split" and old == _SIZES_AS_INPUT and len(node.inputs) > 1:
        return True
    return bool(old == new or old >= same_since.get(node.op_type, version))


def _is_redefined(node: ir.Node, version: int) -> bool:
    """Tell whether a form of an operator that is the same otherwise is not."""
    if version <= _STEPS[0][0]:
        return False
    # Opset 14 has other outputs for training, opset 19 other sizes where windows are cut off.
    if node.op_type == "BatchNormalization":
        return len(node.outputs) > 1
    return node.op_type == "AveragePool" and bool(node.attributes.get_int("ceil_mode"))
