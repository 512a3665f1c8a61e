"""Weights of integers in blocks, in the two forms that there are: read, and written.

``MatMul(x, DequantizeLinear(integers, scale, zero_point))`` with ``block_size`` (ONNX, opset 21),
and `MatMulNBits` (ONNX Runtime). Both multiply by ``(integers - zero_point) * scale``, the same
floats; their sums are added up in another order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis.operands import operand
from graphopt.compression.packed_bits import middle, pack, unpack
from graphopt.compression.quantized_operators import FormRefused
from graphopt.ir import constant_array, constant_tensor

__all__ = ["Blocks", "read_blocks", "read_nbits"]

_TYPES = {
    ir.DataType.INT4: (4, True),
    ir.DataType.UINT4: (4, False),
    ir.DataType.INT8: (8, True),
    ir.DataType.UINT8: (8, False),
}
_LEAST_BLOCK = 16
_MATRIX_RANK = 2
_LEVEL_OF_FLOATS = 1
"""Of `accuracy_level`: from 2 on activations are rounded, too."""


@dataclass(frozen=True, eq=False)
class Blocks:
    """A weight in blocks along its first axis.

    Attributes:
        bits: 4 or 8.
        size: Elements of a block.
        integers: uint8, ``(inputs, outputs)``, in ``[0, 2 ** bits)``.
        scale: float32, ``(blocks, outputs)``.
        zero_point: uint8, ``(blocks, outputs)``; ``None`` for ``2 ** (bits - 1)`` everywhere.
    """

    bits: int
    size: int
    integers: npt.NDArray[np.uint8]
    scale: npt.NDArray[np.float32]
    zero_point: npt.NDArray[np.uint8] | None

    def dequantized(self) -> npt.NDArray[np.float32]:
        """Return the float32 weight, ``(inputs, outputs)``, as both operators compute it."""
        rows = np.arange(len(self.integers)) // self.size
        offset: Any = middle(self.bits) if self.zero_point is None else self.zero_point[rows]
        centred = self.integers.astype(np.float32) - np.asarray(offset, np.float32)
        found: npt.NDArray[np.float32] = centred * self.scale[rows]
        return found

    def for_dequantize(self) -> list[npt.NDArray[Any]]:
        """Return integers, scales and, where there are some, zero points of `DequantizeLinear`.

        Without zero points integers have a sign.
        """
        if self.zero_point is None:
            kind = ir.DataType[f"INT{self.bits}"].numpy()
            centred = self.integers.astype(np.int16) - middle(self.bits)
            return [centred.astype(np.int8).astype(kind), self.scale]
        kind = ir.DataType[f"UINT{self.bits}"].numpy()
        return [self.integers.astype(kind), self.scale, self.zero_point.astype(kind)]

    def for_nbits(self) -> list[npt.NDArray[Any]]:
        """Return bytes, scales and, where there are some, zero points of `MatMulNBits`."""
        inputs, outputs = self.integers.shape
        blocks = len(self.scale)
        rows = np.full((outputs, blocks * self.size), middle(self.bits), np.uint8)
        rows[:, :inputs] = self.integers.T
        held: list[npt.NDArray[Any]] = [
            pack(rows.reshape(outputs, blocks, self.size), self.bits),
            np.ascontiguousarray(self.scale.T),
        ]
        return held if self.zero_point is None else [*held, pack(self.zero_point.T, self.bits)]


def read_nbits(node: ir.Node) -> Blocks:
    """Return the weight of a `MatMulNBits`.

    Raises:
        FormRefused: It rounds its activations, has its rows in another order, or computes its
            weight.
    """
    names = ("K", "N", "bits", "block_size")
    inputs, outputs, bits, size = (node.attributes.get_int(name, 0) or 0 for name in names)
    bits = bits or 4
    if bits not in (4, 8) or (node.attributes.get_int("weight_prepacked", 0) or 0) != 0:
        raise FormRefused("no-other-form", f"its weight has {bits} bits, or is packed otherwise")
    if (node.attributes.get_int("accuracy_level", 0) or 0) > _LEVEL_OF_FLOATS:
        raise FormRefused("activations-rounded", "its `accuracy_level` rounds activations, too")
    if operand(node, 4) is not None:
        raise FormRefused("no-other-form", "`g_idx` says to which block a row belongs")
    packed, scale, offset = (_constant(operand(node, place)) for place in (1, 2, 3))
    if packed is None or scale is None:
        raise FormRefused("computed-scale", "its weight or its scale is no constant")
    if scale.dtype != np.float32 or (offset is not None and offset.dtype != np.uint8):
        raise FormRefused("other-type", "its scales or its zero points are of other floats")
    blocks = -(-inputs // size)
    whole = unpack(packed.reshape(outputs, blocks, -1), bits, size)
    points = None if offset is None else unpack(offset.reshape(outputs, -1), bits, blocks)
    return Blocks(
        bits=bits,
        size=size,
        integers=np.ascontiguousarray(whole.reshape(outputs, -1)[:, :inputs].T),
        scale=np.ascontiguousarray(scale.reshape(outputs, blocks).T),
        zero_point=None if points is None else np.ascontiguousarray(points.T),
    )


def read_blocks(node: ir.Node) -> Blocks:
    """Return the weight that a blocked `DequantizeLinear` makes.

    Raises:
        FormRefused: It has not the form that `MatMulNBits` takes.
    """
    size = node.attributes.get_int("block_size", 0) or 0
    tensor = constant_tensor(node.inputs[0])
    integers, scale, offset = (_constant(operand(node, place)) for place in range(3))
    if tensor is None or integers is None or scale is None:
        raise FormRefused("computed-scale", "its weight or its scale is no constant")
    if tensor.dtype not in _TYPES or scale.dtype != np.float32:
        raise FormRefused("other-type", f"its weight is of {tensor.dtype}, scales of {scale.dtype}")
    rank, axis = integers.ndim, node.attributes.get_int("axis", 1)
    if rank != _MATRIX_RANK or (axis if axis is not None else 1) % rank:
        raise FormRefused("other-axis", "its blocks do not run along the rows of a matrix")
    if size < _LEAST_BLOCK or size & (size - 1):
        raise FormRefused("block-size", f"blocks of {size} are not a power of two from 16 on")
    bits, has_sign = _TYPES[tensor.dtype]
    moved = middle(bits) if has_sign else 0
    points = _moved(offset, moved)
    if points is None and not has_sign:
        points = np.zeros(scale.shape, np.uint8)
    is_middle = points is not None and bool((points == middle(bits)).all())
    found = _moved(integers, moved)
    assert found is not None
    return Blocks(
        bits=bits, size=size, integers=found, scale=scale, zero_point=None if is_middle else points
    )


def _moved(array: npt.NDArray[Any] | None, by: int) -> npt.NDArray[np.uint8] | None:
    return None if array is None else (array.astype(np.int16) + by).astype(np.uint8)


def _constant(value: ir.Value | None) -> npt.NDArray[Any] | None:
    """Return a constant; ``None`` where it is left out.

    Raises:
        FormRefused: It is computed, or callers may replace it.
    """
    if value is None:
        return None
    array = constant_array(value)
    if array is None:
        raise FormRefused("computed-scale", f"`{value.name}` is no constant")
    return array
