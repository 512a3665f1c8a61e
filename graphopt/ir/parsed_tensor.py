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
        dims: Any = self._shape.dims
        self._dims: tuple[int, ...] = dims
        self._size: int = math.prod(dims)
        self._nbytes: int | None = None
        self._bytes: bytes | None = None
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
        plain = _PLAIN_ARRAYS.get(self._dtype)
        if plain is not None and self._proto.HasField("raw_data"):
            # Read-only as the bytes are.
            array = np.frombuffer(self.tobytes(), plain).reshape(self._dims)
        else:
            array = super().numpy()
            # Shared by whoever asks: a pass that wrote into it would change the weight of all
            # others.
            array.flags.writeable = False
        if array.nbytes <= _REMEMBERED_BYTES:  # large ones came as lists of numbers, held already
            self._array = array
        return array

    def tobytes(self) -> bytes:
        """Return the elements as they are stored, in little endian."""
        if self._bytes is not None:
            return self._bytes
        data: bytes = super().tobytes()
        if len(data) <= _REMEMBERED_BYTES:
            self._bytes = data
        return data


_REMEMBERED_BYTES = 1 << 16

_PLAIN_ARRAYS = {
    dtype: dtype.numpy().newbyteorder("<")
    for dtype in (
        *(ir.DataType.BOOL, ir.DataType.FLOAT16, ir.DataType.FLOAT, ir.DataType.DOUBLE),
        *(ir.DataType.INT8, ir.DataType.INT16, ir.DataType.INT32, ir.DataType.INT64),
        *(ir.DataType.UINT8, ir.DataType.UINT16, ir.DataType.UINT32, ir.DataType.UINT64),
    )
}
"""What arrays of the types are made of that are stored element by element."""

_KNOWN_TYPES = {dtype.value: dtype for dtype in ir.DataType}


def is_known_type(proto: onnx.TensorProto) -> bool:
    """Tell whether the element type of a tensor is one that the IR has a name for."""
    return proto.data_type in _KNOWN_TYPES
