"""Raising the opset of a model where no operator changes its meaning."""

from __future__ import annotations

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
_REMOVED_RESIZE_MODE = "tf_half_pixel_for_nn"


def opset_obstacle(model: ir.Model, version: int) -> str | None:
    """Return why the opset of ``model`` cannot become ``version`` as it is, or ``None``.

    Args:
        model: The model.
        version: Opset of the default domain, at most 13, at least that of the model.
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
    try:
        old = onnx.defs.get_schema(node.op_type, current).since_version
        new = onnx.defs.get_schema(node.op_type, version).since_version
    except onnx.defs.SchemaError:
        return False
    mode = node.attributes.get_string("coordinate_transformation_mode")
    if mode == _REMOVED_RESIZE_MODE:
        return False
    return old == new or old >= _SAME_UP_TO_13.get(node.op_type, version)
