"""Whether a layer is faster as two: measured on models of nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.ir import model_bytes
from graphopt.runtime import SessionOptions, measure_latency

__all__ = ["ratio_of_factors"]

Array = npt.NDArray[np.float32]
_BUDGET_S = 1.0
_OPSET = 13


def ratio_of_factors(node: ir.Node, shapes: Sequence[tuple[int, ...]], rows: int) -> float:
    """Return the CPU time of a layer with two factors over that with its weight.

    Args:
        node: A ``MatMul``, ``Gemm`` or ``Conv``, of whose attributes windows are taken.
        shapes: Of the weight and of both factors; ``(inputs, outputs)`` of matrices, and as they
            are stored of convolutions.
        rows: Rows that are multiplied; of an image, about as many positions.
    """
    whole, *factors = (np.full(shape, 0.5, np.float32) for shape in shapes)
    is_image = node.op_type == "Conv"
    spatial = len(whole.shape) - 2 if is_image else 0
    side = (
        max(round(rows ** (1 / spatial)), *(4 * k for k in whole.shape[2:])) if is_image else rows
    )
    shape = (1, whole.shape[1], *(side,) * spatial) if is_image else (rows, whole.shape[0])
    names = ("strides", "pads", "dilations", "auto_pad")
    window = [node.attributes[name] for name in names if name in node.attributes]
    operator = "Conv" if is_image else "MatMul"
    before = _model(operator, shape, [whole], window)
    after = _model(operator, shape, factors, window)
    feed = {"x": np.full(shape, 0.5, np.float32)}
    options = SessionOptions(threads=1)
    found = measure_latency(before, after, feed, options=options, budget_s=_BUDGET_S)
    return found.cpu_ratio if math.isfinite(found.cpu_ratio) else found.ratio


def _model(
    operator: str, shape: Sequence[int], weights: Sequence[Array], window: Sequence[ir.Attr]
) -> bytes:
    kind = ir.TensorType(ir.DataType.FLOAT)
    value = start = ir.Value(name="x", type=kind, shape=ir.Shape(shape))
    nodes: list[ir.Node] = []
    initializers: list[ir.Value] = []
    for number, weight in enumerate(weights):
        tensor: Any = ir.tensor(weight, name=f"w{number}")
        held = ir.Value(
            name=f"w{number}", type=kind, shape=ir.Shape(weight.shape), const_value=tensor
        )
        result = ir.Value(name=f"y{number}", type=kind)
        attributes = window if number == 0 else ()  # the second factor of a convolution is 1 x 1
        nodes.append(ir.Node("", operator, [value, held], attributes, outputs=[result]))
        initializers.append(held)
        value = result
    value.shape = ir.Shape([None] * len(shape))
    graph = ir.Graph(
        [start],
        [value],
        nodes=nodes,
        initializers=initializers,
        opset_imports={"": _OPSET},
        name="g",
    )
    return model_bytes(ir.Model(graph, ir_version=8))
