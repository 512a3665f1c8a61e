"""Layers that static quantization computes in integers: their weight, bias and form."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.compression.integer_layers import is_outlier_product
from graphopt.compression.weight_source import NoWeight, WeightSource, trace_weight
from graphopt.rewrite import ShapeTable

__all__ = ["LAYER_OPERATORS", "Layer", "LayerRefused", "find_layer", "sum_refusal"]

LAYER_OPERATORS = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm"})
_MATRIX_RANK = 2
_LOWEST_CONV_RANK = 3


@dataclass(frozen=True)
class Layer:
    """An operator with a constant weight that has an integer kernel.

    Attributes:
        node: The operator; its input 0 is the activation, its input 1 the weight.
        weight: The weight as the operator reads it.
        axis: Axis of the output channels in it.
        bias: ``(channels,)``, or ``None``.
        bias_reader: The node and input that read the bias; for ``MatMul``, the ``Add`` behind it.
    """

    node: ir.Node
    weight: WeightSource
    axis: int
    bias: npt.NDArray[np.float32] | None
    bias_reader: tuple[ir.Node, int] | None

    @property
    def channels(self) -> int:
        """Number of output channels."""
        return self.weight.shape[self.axis]

    @property
    def holds_bias(self) -> bool:
        """Tell whether the operator adds the bias, and no other one behind it."""
        return self.bias_reader is not None and self.bias_reader[0] is self.node

    @property
    def activation(self) -> ir.Value:
        """The operand that is computed at run time."""
        value = self.node.inputs[0]
        assert value is not None
        return value


@dataclass(frozen=True)
class LayerRefused:
    """Why an operator stays in float: a documented slug, and details."""

    slug: str
    why: str


def find_layer(node: ir.Node, *, with_transposed: bool = False) -> Layer | LayerRefused:
    """Return the layer that ``node`` is, or why it is none.

    Args:
        node: One of `LAYER_OPERATORS`.
        with_transposed: The runtime has an integer kernel for ``ConvTranspose``.
    """
    if node.op_type == "ConvTranspose" and not with_transposed:
        return LayerRefused("no-integer-kernel", "ONNX Runtime transposes convolutions in float")
    weight = _weight(node)
    if isinstance(weight, NoWeight):
        return LayerRefused(weight.slug, weight.why)
    rank = len(weight.shape)
    if node.op_type in ("Conv", "ConvTranspose"):
        fits, axis = rank >= _LOWEST_CONV_RANK, int(node.op_type == "ConvTranspose")
    else:
        is_transposed = bool(_number(node, "transB", 0.0))
        fits, axis = rank == _MATRIX_RANK, 0 if is_transposed else rank - 1
    if not fits:
        return LayerRefused("weight-rank", f"the weight has rank {rank}")
    if (why := _unsupported_form(node)) is not None:
        return LayerRefused("unsupported-form", why)
    if not np.all(np.isfinite(weight.array())):
        return LayerRefused("weight-not-finite", "the weight holds NaN or infinity")
    return _with_bias(node, weight, axis)


def _weight(node: ir.Node) -> WeightSource | NoWeight:
    if is_outlier_product(node):
        return NoWeight("already-quantized", "the rest of this product is in integers")
    return trace_weight(node.inputs[1])


def _unsupported_form(node: ir.Node) -> str | None:
    if node.op_type == "ConvTranspose" and _number(node, "group", 1.0) != 1.0:
        return "a transposed convolution in groups"
    if node.op_type != "Gemm":
        return None
    scales = (_number(node, "alpha", 1.0), _number(node, "beta", 1.0))
    is_plain = not _number(node, "transA", 0.0) and scales == (1.0, 1.0)
    return None if is_plain else "transA, alpha or beta is not the default"


def _number(node: ir.Node, name: str, default: float) -> float:
    attribute = node.attributes.get(name)
    return default if attribute is None else float(attribute.value)


def _with_bias(node: ir.Node, weight: WeightSource, axis: int) -> Layer | LayerRefused:
    channels = weight.shape[axis]
    if node.op_type == "MatMul":
        reader = _bias_add(node)
        bias = None if reader is None else _bias_of(*reader, channels, highest_rank=1)
        return Layer(node, weight, axis, bias, None if bias is None else reader)
    if len(node.inputs) < 3 or node.inputs[2] is None:  # noqa: PLR2004 - input 2 is the bias
        return Layer(node, weight, axis, None, None)
    bias = _bias_of(node, 2, channels)
    if bias is None:
        return LayerRefused("bias-not-constant", f"the bias is not {channels} finite constants")
    return Layer(node, weight, axis, bias, (node, 2))


def _bias_add(node: ir.Node) -> tuple[ir.Node, int] | None:
    """Return the ``Add`` that alone reads ``node``, and its other input.

    ONNX Runtime turns the pair into a ``Gemm`` before it looks for integer kernels, and finds one
    only if the bias is quantized too.
    """
    uses = tuple(node.outputs[0].uses())
    if len(uses) != 1 or node.outputs[0].is_graph_output():
        return None
    user, index = uses[0]
    is_beside = user.graph is node.graph  # a sum in a branch stays there
    return (user, 1 - index) if is_beside and user.op_type == "Add" and not user.domain else None


def sum_refusal(layer: Layer, shapes: ShapeTable | None) -> LayerRefused | None:
    """Return why signed integers of opset 21 cannot be multiplied before the sum behind a layer.

    ONNX Runtime 1.32 makes a ``Reshape`` and a ``Gemm`` of a product and a sum with a vector, moves
    quantizers across, and refuses what it has made. A constant bias can be made a row, which
    prevents that, but not where the product is a vector itself.

    Args:
        layer: Any layer.
        shapes: Of the values; ``None`` gives it the benefit of the doubt.
    """
    reader = _bias_add(layer.node) if layer.node.op_type == "MatMul" else None
    if reader is None or shapes is None:
        return None
    found, summand = shapes.of(layer.activation), shapes.of(reader[0].inputs[reader[1]])
    dims = None if found is None else found.dims
    added = None if summand is None else summand.dims
    if dims is None or added is None or len(added) != 1 or len(dims) == _MATRIX_RANK:
        return None
    is_row_possible = layer.bias is not None and len(dims) > _MATRIX_RANK
    if is_row_possible or any(isinstance(dim, str) for dim in dims):
        return None
    return LayerRefused("unsupported-form", "the runtime refuses its Gemm of signed integers")


def _bias_of(
    reader: ir.Node, index: int, channels: int, *, highest_rank: int = 2
) -> npt.NDArray[np.float32] | None:
    source = trace_weight(reader.inputs[index])
    if isinstance(source, NoWeight) or source.tensor.size != channels:
        return None
    if source.shape[-1:] != (channels,) or len(source.shape) > highest_rank:
        return None
    bias = source.array().reshape(channels)
    return bias if np.all(np.isfinite(bias)) else None
