"""Layers of a quantized model whose weights are stored as integers, in whatever form.

A repair after quantization looks for them by what they compute: a product of an activation with a
constant that is ``scale * (q - zero_point)``, and the bias that is added to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis.operands import operand
from graphopt.ir import constant_array, constant_tensor

__all__ = [
    "Bias",
    "IntegerLayer",
    "NoIntegerLayer",
    "find_integer_layer",
    "integer_layers",
    "is_outlier_product",
]

_PRODUCTS = frozenset({"Conv", "Gemm", "MatMul"})
_OPAQUE = frozenset(
    {
        ("", "ConvInteger"),
        ("", "QLinearConv"),
        ("", "QLinearMatMul"),
        ("com.microsoft", "DynamicQuantizeMatMul"),
        ("com.microsoft", "MatMulNBits"),
        ("com.microsoft", "QGemm"),
    }
)
_FUSED = ("com.microsoft", "MatMulIntegerToFloat")
_FUSED_BIAS = 6
_WEIGHT_VIEWS = frozenset({"Identity", "Reshape", "Transpose"})
_MOST_VIEWS = 3
_LARGEST_INT32 = 2**31 - 1


@dataclass(frozen=True, eq=False)
class Bias:
    """Where the bias of a layer is read.

    Attributes:
        reader: The node that adds it.
        index: Which of its inputs.
        values: It, as float64, ``(channels,)``.
        scale: Of an int32 bias behind `DequantizeLinear`; ``None``: it is held in float.
    """

    reader: ir.Node
    index: int
    values: npt.NDArray[np.float64]
    scale: npt.NDArray[np.float64] | None

    @property
    def sum(self) -> ir.Value:
        """What comes of the addition."""
        return self.reader.outputs[0]

    def stored(self, values: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
        """Return new values in the form that is stored; saturated where integers end."""
        if self.scale is None:
            return values.astype(np.float32)
        steps = np.rint(values / self.scale)
        return np.clip(steps, -_LARGEST_INT32 - 1, _LARGEST_INT32).astype(np.int32)


@dataclass(frozen=True, eq=False)
class IntegerLayer:
    """A layer with integer weights.

    Attributes:
        node: The product.
        activation: What it multiplies, in float, or as near to that as the graph has it.
        product: The float result, before any bias that another node adds.
        weight_reader: The node and input that read the integers.
        scale: Constant scale of the weights, as stored.
        zero_point: Constant zero point, as stored; ``None``: 0.
        bias: ``None`` where nothing constant is added.
    """

    node: ir.Node
    activation: ir.Value
    product: ir.Value
    weight_reader: tuple[ir.Node, int]
    scale: npt.NDArray[Any]
    zero_point: npt.NDArray[Any] | None
    bias: Bias | None

    @property
    def integers(self) -> ir.Value:
        """The constant that holds the integers."""
        reader, index = self.weight_reader
        value = reader.inputs[index]
        assert value is not None
        return value

    @property
    def result(self) -> ir.Value:
        """The float result, bias and all."""
        return self.product if self.bias is None else self.bias.sum


@dataclass(frozen=True)
class NoIntegerLayer:
    """A layer in integers that cannot be read.

    Attributes:
        node: The layer.
        why: Why not.
    """

    node: ir.Node
    why: str


def integer_layers(graph: ir.Graph) -> Iterator[IntegerLayer | NoIntegerLayer]:
    """Yield the layers of one graph that have integer weights, in its order."""
    for node in graph:
        found = find_integer_layer(node)
        if found is not None:
            yield found


def find_integer_layer(node: ir.Node) -> IntegerLayer | NoIntegerLayer | None:
    """Return ``node`` as a layer with integer weights; ``None`` where it is none."""
    if (node.domain, node.op_type) in _OPAQUE:
        return NoIntegerLayer(node, f"a {node.op_type} holds its bias and its rounding inside")
    if (node.domain, node.op_type) == _FUSED:
        return _fused(node)
    if not node.domain and node.op_type == "MatMulInteger":
        return _dynamic(node)
    if not node.domain and node.op_type in _PRODUCTS:
        return _dequantized(node)
    return None


def is_outlier_product(node: ir.Node) -> bool:
    """Tell whether a float `MatMul` is the share of outlier channels in a product of integers.

    It reads chosen channels of an activation that is multiplied as integers beside it. To round
    them after all would bring back the error that they were set apart for.

    Args:
        node: Any node.
    """
    gather = _maker(operand(node, 0), "Gather") if node.op_type == "MatMul" else None
    if gather is None or constant_tensor(gather.inputs[1]) is None:
        return False
    activation = gather.inputs[0]
    axis = gather.attributes.get_int("axis", 0)
    if activation is None or axis != _channel_axis(activation, axis):
        return False
    return any(
        (reader.domain, reader.op_type) == _FUSED
        for quantizer in activation.consumers()
        if not quantizer.domain and quantizer.op_type == "QuantizeLinear"
        for reader in quantizer.outputs[0].consumers()
    )


def _maker(value: ir.Value | None, op_type: str) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and not node.domain and node.op_type == op_type else None


def _channel_axis(value: ir.Value, axis: int) -> int:
    """Return the last axis of ``value``, counted as ``axis`` is."""
    return -1 if axis < 0 or value.shape is None else len(value.shape) - 1


def _dequantized(node: ir.Node) -> IntegerLayer | NoIntegerLayer | None:
    """A float product that reads its weight through `DequantizeLinear`."""
    value = operand(node, 1)
    source = value.producer() if value is not None else None
    for _ in range(_MOST_VIEWS):
        if source is None or source.domain or source.op_type not in _WEIGHT_VIEWS:
            break
        value = source.inputs[0]
        source = None if value is None else value.producer()
    if source is None or source.domain or source.op_type != "DequantizeLinear":
        return None
    scale, point = constant_array(operand(source, 1)), constant_array(operand(source, 2))
    activation = operand(node, 0)
    if constant_tensor(source.inputs[0]) is None:
        return None  # an activation in integers: a product of two activations
    if scale is None or activation is None or (operand(source, 2) is not None and point is None):
        return NoIntegerLayer(node, "the scale of its weight is computed at run time")
    product = node.outputs[0]
    bias = _bias_of(node, 2)
    if bias is None and node.op_type != "Conv" and operand(node, 2) is None:
        # Behind a Conv the last axis, which an addition goes along, is not that of the channels.
        bias = _added(product)
    if node.op_type == "Gemm" and bias is not None and _number(node, "beta", 1.0) != 1.0:
        bias = None
    return IntegerLayer(node, activation, product, (source, 0), scale, point, bias)


def _number(node: ir.Node, name: str, default: float) -> float:
    attribute = node.attributes.get(name)
    return default if attribute is None else float(attribute.value)


def _dynamic(node: ir.Node) -> IntegerLayer | NoIntegerLayer:
    """`DynamicQuantizeLinear`, `MatMulInteger`, `Cast`, `Mul`: as `quantize-dynamic` writes it."""
    quantizer = node.inputs[0].producer() if node.inputs[0] is not None else None
    if quantizer is None or quantizer.op_type != "DynamicQuantizeLinear":
        return NoIntegerLayer(node, "its activation is not quantized by DynamicQuantizeLinear")
    cast = _sole_reader(node.outputs[0], "Cast")
    rescale = None if cast is None else _sole_reader(cast.outputs[0], "Mul")
    activation = quantizer.inputs[0]
    if cast is None or rescale is None or activation is None:
        return NoIntegerLayer(node, "its sums are not scaled by one Mul")
    factor = next(value for value in rescale.inputs if value is not cast.outputs[0])
    maker = factor.producer() if factor is not None else None
    factors = () if maker is None or maker.op_type != "Mul" else maker.inputs
    scales = [one for one in map(constant_array, factors) if one is not None]
    if len(scales) != 1 or constant_tensor(node.inputs[1]) is None:
        return NoIntegerLayer(node, "its weight or the scale of it is computed at run time")
    product = rescale.outputs[0]
    point = constant_array(operand(node, 3))
    return IntegerLayer(node, activation, product, (node, 1), scales[0], point, _added(product))


def _fused(node: ir.Node) -> IntegerLayer | NoIntegerLayer:
    scale, activation = constant_array(operand(node, 3)), operand(node, 0)
    if scale is None or activation is None or constant_tensor(node.inputs[1]) is None:
        return NoIntegerLayer(node, "its weight or the scale of it is computed at run time")
    quantizer = activation.producer()
    if quantizer is not None and quantizer.op_type.endswith("QuantizeLinear"):
        activation = quantizer.inputs[0] or activation
    product, point = node.outputs[0], constant_array(operand(node, 5))
    has_bias = operand(node, _FUSED_BIAS) is not None
    bias = _bias_of(node, _FUSED_BIAS) if has_bias else _added(product)
    return IntegerLayer(node, activation, product, (node, 1), scale, point, bias)


def _added(product: ir.Value) -> Bias | None:
    """Return the bias that the only reader of ``product`` adds to it."""
    reader = _sole_reader(product, "Add")
    if reader is None:
        return None
    return _bias_of(reader, 1 if reader.inputs[0] is product else 0)


def _sole_reader(value: ir.Value, op_type: str) -> ir.Node | None:
    uses = tuple(value.uses())
    if len(uses) != 1 or value.is_graph_output():
        return None
    node, producer = uses[0].node, value.producer()
    if producer is None or node.graph is not producer.graph:
        return None  # in a branch or loop, which is not measured
    return node if not node.domain and node.op_type == op_type else None


def _bias_of(reader: ir.Node, index: int) -> Bias | None:
    """Return a constant bias with one number per channel on the last axis."""
    value = operand(reader, index)
    source = value.producer() if value is not None else None
    scale = None
    if source is not None and source.op_type == "DequantizeLinear":
        integers, scale = constant_array(operand(source, 0)), constant_array(operand(source, 1))
        is_plain = integers is not None and scale is not None and integers.dtype == np.int32
        is_private = len(source.outputs[0].uses()) == 1 and not source.outputs[0].is_graph_output()
        if not (is_plain and is_private) or (
            operand(source, 2) is not None and np.any(_zero_point(source))
        ):
            return None
        assert integers is not None
        assert scale is not None
        scale = np.broadcast_to(scale.astype(np.float64), integers.shape)
        array = integers * scale
    else:
        found = constant_array(value)
        if found is None or found.dtype != np.float32:
            return None
        array = found.astype(np.float64)
    if array.ndim == 0 or array.size != array.shape[-1]:
        return None
    return Bias(reader, index, array.reshape(-1), scale)


def _zero_point(node: ir.Node) -> npt.NDArray[Any]:
    found = constant_array(operand(node, 2))
    return np.ones(1) if found is None else found
