"""Integer weights of layers as matrices of channels by outputs, and back to how they are stored."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis.operands import int_attribute, ints_attribute
from graphopt.compression.integer_layers import IntegerLayer
from graphopt.compression.rounding import Grid
from graphopt.compression.weight_source import NoWeight, trace_weight
from graphopt.ir import constant_tensor
from graphopt.rewrite import Channels, Window

__all__ = ["IntegerMatrix", "float_matrix", "integer_matrix", "is_scaled", "read_channels"]

Floats = npt.NDArray[np.float64]

_MATRIX_RANK = 2
_LEAST_CONV_RANK = 3
_POSITIONS = 256  # of a Conv that are looked at in one run
_DEFAULT_AXIS = 1  # of DequantizeLinear


@dataclass(frozen=True, eq=False)
class IntegerMatrix:
    """The weight of a layer, group by group.

    Attributes:
        integers: ``(groups, channels, outputs)``.
        grids: What they stand for, one for each group.
        tensor: How they are stored.
        layout: Of the operator: how `stored` puts them back.
    """

    integers: Floats
    grids: tuple[Grid, ...]
    tensor: ir.TensorProtocol
    layout: _Layout

    @property
    def values(self) -> Floats:
        """What the integers stand for, ``(groups, channels, outputs)``."""
        pairs = zip(self.grids, self.integers, strict=True)
        return np.stack([grid.values(integers) for grid, integers in pairs])

    def stored(self, integers: Floats) -> npt.NDArray[Any]:
        """Return integers in the type and shape of the stored tensor."""
        array = self.layout.undone(integers, tuple(self.tensor.shape.numpy()))
        return array.astype(self.tensor.dtype.numpy())


@dataclass(frozen=True)
class _Layout:
    """How a weight is stored: output channels first, as of Conv and transposed Gemm, or last."""

    groups: int
    is_output_first: bool

    def matrices(self, array: npt.NDArray[Any]) -> Floats:
        wide: Floats = array.astype(np.float64)
        if not self.is_output_first:
            return wide[None]
        by_group = wide.reshape(self.groups, wide.shape[0] // self.groups, -1)
        return np.transpose(by_group, (0, 2, 1))

    def undone(self, matrices: Floats, shape: tuple[int, ...]) -> Floats:
        ordered = matrices.transpose(0, 2, 1) if self.is_output_first else matrices
        found: Floats = ordered.reshape(shape)
        return found


def _layout(node: ir.Node) -> _Layout:
    if node.op_type == "Conv":
        return _Layout(int_attribute(node, "group", 1) or 1, is_output_first=True)
    is_transposed = node.op_type == "Gemm" and bool(int_attribute(node, "transB", 0))
    return _Layout(1, is_output_first=is_transposed)


def integer_matrix(layer: IntegerLayer) -> IntegerMatrix | str:
    """Return the integers of a layer, or why they cannot be read."""
    reader, node = layer.weight_reader[0], layer.node
    tensor = constant_tensor(layer.integers)
    obstacle = _obstacle(layer, tensor)
    if tensor is None or obstacle is not None:
        return obstacle or "its weight is no constant"
    stored = np.asarray(tensor.numpy())
    scale = _spread(layer.scale, stored.shape, reader)
    point = np.zeros(()) if layer.zero_point is None else layer.zero_point
    zero_point = _spread(point, stored.shape, reader)
    if scale is None or zero_point is None:
        return "the scale has an unknown shape"
    layout = _layout(node)
    integers = layout.matrices(stored)
    # Not the limits of the type: a range that was reduced stays so.
    limits = (int(integers.min(initial=0)), int(integers.max(initial=0)))
    pairs = zip(layout.matrices(scale), layout.matrices(zero_point), strict=True)
    grids = tuple(Grid(one, other, *limits) for one, other in pairs)
    return IntegerMatrix(integers, grids, tensor, layout)


def _obstacle(layer: IntegerLayer, tensor: ir.TensorProtocol | None) -> str | None:
    """Return why the integers of a layer must stay as they are, or ``None``."""
    reader, _ = layer.weight_reader
    node = layer.node
    is_direct = reader is node or node.inputs[1] is reader.outputs[0]
    if tensor is None or not is_direct or node.op_type == "MatMulIntegerToFloat":
        return "its weight is stored in another shape than it is read in"
    rank = len(tensor.shape)
    fits = rank >= _LEAST_CONV_RANK if node.op_type == "Conv" else rank == _MATRIX_RANK
    if not fits:
        return f"the weight has rank {rank}"
    if node.op_type == "Gemm" and (int_attribute(node, "transA", 0) or is_scaled(node)):
        return "a Gemm with transA, alpha or beta"
    read = [layer.integers, *(() if reader is node else reader.outputs)]
    if any(len(value.uses()) > 1 or value.is_graph_output() for value in read):
        return "others read the weight too"
    if layer.integers.is_graph_input():
        return "the integers may be replaced by whoever runs the model"
    return None


def is_scaled(node: ir.Node) -> bool:
    """Tell whether a Gemm multiplies its product or its bias by a number."""
    given = [node.attributes.get(name) for name in ("alpha", "beta")]
    return any(one is not None and one.as_float() != 1.0 for one in given)


def _spread(
    numbers: npt.NDArray[Any], shape: tuple[int, ...], reader: ir.Node
) -> npt.NDArray[Any] | None:
    """Return scales or zero points for each element of a weight of ``shape``."""
    array = np.asarray(numbers).astype(np.float64)
    if array.size == 1:
        return np.broadcast_to(array.reshape(()), shape)
    if reader.op_type != "DequantizeLinear":  # one for each column
        return np.broadcast_to(array.reshape(-1), shape) if array.size == shape[-1] else None
    axis = (int_attribute(reader, "axis", _DEFAULT_AXIS) or 0) % len(shape)
    block = int_attribute(reader, "block_size", 0) or 0
    if block and array.ndim == len(shape):
        return np.repeat(array, block, axis=axis)[tuple(slice(size) for size in shape)]
    if array.size != shape[axis]:
        return None
    view = [1] * len(shape)
    view[axis] = -1
    return np.broadcast_to(array.reshape(view), shape)


def float_matrix(node: ir.Node) -> Floats | None:
    """Return the constant weight of a float layer, ``(groups, channels, outputs)``."""
    source = trace_weight(node.inputs[1])
    if isinstance(source, NoWeight) or len(source.shape) < _MATRIX_RANK:
        return None
    return _layout(node).matrices(source.array())


def read_channels(layer: IntegerLayer) -> Channels | None:
    """Return what a layer multiplies by a row of its weight; ``None`` where that is not known."""
    name, node, tensor = layer.activation.name or "", layer.node, constant_tensor(layer.integers)
    if node.op_type != "Conv" or tensor is None:
        return Channels(name)
    automatic = node.attributes.get("auto_pad")
    if automatic is not None and automatic.as_string() not in ("NOTSET", "VALID"):
        return None
    kernel = tuple(int(size) for size in tensor.shape.numpy()[2:])
    ones = (1,) * len(kernel)
    found = [ints_attribute(node, one) for one in ("strides", "dilations", "pads")]
    strides, dilations, pads = (
        given or default
        for given, default in zip(found, (ones, ones, (0,) * 2 * len(kernel)), strict=True)
    )
    groups = int_attribute(node, "group", 1) or 1
    window = Window(kernel, tuple(strides), tuple(dilations), tuple(pads), groups)
    # A small kernel needs few rows, a large one as many as it has elements.
    rows = max(_POSITIONS, math.prod(kernel))
    return Channels(name, window=window, positions=rows)
