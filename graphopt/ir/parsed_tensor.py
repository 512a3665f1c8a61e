"""Small tensors that came with the model's own bytes.

The IR's own class asks the protobuf again each time, for shape, type and elements. Passes ask about
the constants of a graph often, so that this is remembered here.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

__all__ = ["ParsedTensor", "is_known_type"]


class ParsedTensor(ir.TensorProtoTensor):
    """A tensor of a parsed model, with what it is made of at hand.

    Args:
        proto: The tensor, of a type that `is_known_type`, not text and not outside of the model.
        shape: Its sizes, where a frozen shape with these is at hand.
    """

    def __init__(self, proto: onnx.TensorProto, shape: ir.Shape | None = None) -> None:
        super().__init__(proto)
        self._dtype = _KNOWN_TYPES[proto.data_type]
        self._shape = ir.Shape(proto.dims, frozen=True) if shape is None else shape
        self._size: int = math.prod(proto.dims)
        self._nbytes: int | None = None
        self._array: np.ndarray[Any, Any] | None = None

    @classmethod
    def of(cls, tensor: ir.TensorProtoTensor) -> ir.TensorProtoTensor:
        """Return ``tensor`` as one of these; as it is where its type is none that is known."""
        return cls(tensor.raw) if is_known_type(tensor.raw) else tensor

    @property
    def dtype(self) -> ir.DataType:  # type: ignore[override]
        """Element type."""
        return self._dtype

    @property
    def shape(self) -> ir.Shape:  # type: ignore[override]
        """Its sizes."""
        return self._shape

    @property
    def size(self) -> int:
        """Number of elements."""
        return self._size

    @property
    def nbytes(self) -> int:
        """Number of bytes of the elements."""
        if self._nbytes is None:
            self._nbytes = math.ceil(self._dtype.itemsize * self._size)
        return self._nbytes

    def numpy(self) -> np.ndarray[Any, Any]:
        """Return the elements, read-only."""
        if self._array is not None:
            return self._array
        array = super().numpy()
        array.flags.writeable = False
        if array.nbytes <= _REMEMBERED_BYTES:  # large ones came as lists of numbers, held already
            self._array = array
        return array


_REMEMBERED_BYTES = 1 << 16

_KNOWN_TYPES = {dtype.value: dtype for dtype in ir.DataType}


def is_known_type(proto: onnx.TensorProto) -> bool:
    """Tell whether the element type of a tensor is one that the IR has a name for."""
    return proto.data_type in _KNOWN_TYPES
