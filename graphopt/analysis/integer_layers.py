"""Layers that multiply 8-bit integers, in each of the forms that ONNX has for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis.operands import int_attribute, ints_attribute, operand
from graphopt.ir import constant_array

__all__ = ["IntegerLayer", "Windows", "find_integer_layers"]

Array = npt.NDArray[Any]


class Windows(NamedTuple):
    """How a convolution slides over its input; each by spatial axis.

    Attributes:
        sizes: Of the kernel.
        strides: Steps between windows.
        dilations: Steps within a window.
        pads: Begin and end, in the order of ONNX; empty with ``auto_pad``.
        auto_pad: ``NOTSET``, ``VALID``, ``SAME_UPPER`` or ``SAME_LOWER``.
    """

    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    auto_pad: str


@dataclass(frozen=True)
class IntegerLayer:
    """One such layer of the main graph.

    Attributes:
        node: The operator that multiplies.
        name: What the layer is called; of a dynamically quantized one, before it was quantized.
        activation: The unsigned or signed integers that it reads.
        zero_point: Value that holds their zero point; ``None``: 0.
        weights: Integer weights: (groups, depth, columns), the depth in the order in which ONNX
            Runtime's kernels go through it.
        scale: Of the weights, (columns,) over all groups or ().
        windows: Of a convolution.
    """

    node: ir.Node
    name: str
    activation: ir.Value
    zero_point: ir.Value | None
    weights: Array
    scale: npt.NDArray[np.float32]
    windows: Windows | None = None


def find_integer_layers(graph: ir.Graph) -> tuple[list[IntegerLayer], list[tuple[ir.Node, str]]]:
    """Return the layers of a graph, and the operators that might be some, with why they are not."""
    layers: list[IntegerLayer] = []
    others: list[tuple[ir.Node, str]] = []
    for node in graph:
        form = _FORMS.get((node.domain, node.op_type))
        found: IntegerLayer | str | None = _NOT_REPLAYED.get(node.op_type)
        if found is None:
            found = _dequantized(node) if form is None else _direct(node, form)
        if isinstance(found, IntegerLayer):
            layers.append(found)
        elif found is not None:
            others.append((node, found))
    return layers, others


class _Form(NamedTuple):
    """Where the inputs of an operator on integers are."""

    weight: int
    zero_point: int | None
    scale: int | None
    weight_zero_point: int | None


_FORMS = {
    ("", "MatMulInteger"): _Form(1, 2, None, 3),
    ("", "QLinearMatMul"): _Form(3, 2, 4, 5),
    ("", "QLinearConv"): _Form(3, 2, 4, 5),
    ("com.microsoft", "QGemm"): _Form(3, 2, 4, 5),
    ("com.microsoft", "MatMulIntegerToFloat"): _Form(1, 4, 3, 5),
}
_LAYERS = frozenset({"MatMul", "Gemm", "Conv"})
_NOT_REPLAYED = {
    "ConvInteger": "its kernel multiplies in another order",
    "DynamicQuantizeMatMul": "it quantizes its activation itself",
    "MatMulNBits": "it quantizes its activation itself, block by block",
    "QAttention": "it multiplies inside",
}


def _direct(node: ir.Node, form: _Form) -> IntegerLayer | str:
    activation = operand(node, 0)
    weight = _integers(operand(node, form.weight))
    if activation is None or weight is None:
        return "its weight is not a constant of 8 bits"
    scale = np.ones((), np.float32)
    if form.scale is not None:
        held = constant_array(operand(node, form.scale))
        scale = scale if held is None else held
    elif (held := _scale_behind(node)) is not None:
        scale = held
    zero_point = None if form.zero_point is None else operand(node, form.zero_point)
    return _layer(node, activation, zero_point, weight, scale)


def _dequantized(node: ir.Node) -> IntegerLayer | str | None:
    """Return the layer that the runtime makes of a float operator between dequantized operands."""
    if node.domain or node.op_type not in _LAYERS:
        return None
    sources = [_dequantizer(operand(node, index)) for index in (0, 1)]
    if sources[0] is None or sources[1] is None:
        return None
    weight = _integers(operand(sources[1], 0))
    scale = constant_array(operand(sources[1], 1))
    activation = operand(sources[0], 0)
    if weight is None or scale is None or activation is None:
        return "its weight is not a constant of 8 bits"
    return _layer(node, activation, operand(sources[0], 2), weight, scale)


def _dequantizer(value: ir.Value | None) -> ir.Node | None:
    node = value.producer() if value is not None else None
    is_found = node is not None and not node.domain and node.op_type == "DequantizeLinear"
    return node if is_found else None


def _integers(value: ir.Value | None) -> Array | None:
    array = constant_array(value)
    if array is None and value is not None:
        # A table that is also the weight of an output layer is stored once, and transposed.
        node = value.producer()
        if node is not None and node.op_type == "Transpose" and not node.domain:
            array = constant_array(node.inputs[0])
            perm = ints_attribute(node, "perm")
            array = None if array is None else array.transpose(perm)
    return array if array is not None and array.dtype in (np.int8, np.uint8) else None


def _scale_behind(node: ir.Node) -> npt.NDArray[np.float32] | None:
    """Return the constant scale of ``MatMulInteger -> Cast -> Mul(., x_scale * w_scale)``."""
    value = node.outputs[0]
    for _ in range(2):
        users = [user for user, _ in value.uses()]
        if len(users) != 1:
            return None
        if users[0].op_type == "Mul":
            return _constant_factor(users[0])
        value = users[0].outputs[0]
    return None


def _constant_factor(node: ir.Node) -> npt.NDArray[np.float32] | None:
    for value in node.inputs:
        producer = value.producer() if value is not None else None
        if producer is None or producer.op_type != "Mul":
            continue
        for factor in producer.inputs:
            array = constant_array(factor)
            if array is not None and array.dtype == np.float32:
                return array
    return None


def _layer(
    node: ir.Node,
    activation: ir.Value,
    zero_point: ir.Value | None,
    weight: Array,
    scale: npt.NDArray[np.float32],
) -> IntegerLayer | str:
    windows = None
    if node.op_type in ("Conv", "QLinearConv"):
        windows = _windows(node, weight)
        packed = _packed_kernels(node, weight)
    else:
        if weight.ndim != 2:  # noqa: PLR2004 - rows and columns
            return f"its weight has rank {weight.ndim}"
        if int_attribute(node, "transA", 0):
            return "its activation is transposed"
        matrix = weight.T if int_attribute(node, "transB", 0) else weight
        packed = matrix[np.newaxis]
    # An activation in two integers is multiplied twice by the weight of one layer.
    name = (node.name or "").removesuffix("_quantized").removesuffix("_remainder")
    return IntegerLayer(node, name, activation, zero_point, packed, scale.reshape(-1), windows)


def _windows(node: ir.Node, weight: Array) -> Windows:
    rank = weight.ndim - 2
    ones = (1,) * rank
    return Windows(
        sizes=weight.shape[2:],
        strides=ints_attribute(node, "strides") or ones,
        dilations=ints_attribute(node, "dilations") or ones,
        pads=ints_attribute(node, "pads") or (0,) * (2 * rank),
        auto_pad=node.attributes.get_string("auto_pad", "NOTSET") or "NOTSET",
    )


def _packed_kernels(node: ir.Node, weight: Array) -> Array:
    """Return (groups, kernel positions * input channels, output channels of a group)."""
    groups = int_attribute(node, "group", 1) or 1
    outputs, inputs = weight.shape[:2]
    parts = weight.reshape(groups, outputs // groups, inputs, -1)
    return parts.transpose(0, 3, 2, 1).reshape(groups, -1, outputs // groups)
