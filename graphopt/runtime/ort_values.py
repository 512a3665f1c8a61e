"""Arrays to and from ONNX Runtime's own values (worker side).

The runtime's numpy conversion refuses or misreads what numpy itself lacks: bfloat16 raises, float8
comes back as bytes, 4-bit integers raise. Those are moved by address instead.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from graphopt.runtime.values import dtype_of

__all__ = ["array_of", "dtype_name", "needs_ort_value", "ort_value_of"]

# ONNX element type (TensorProto.DataType), the runtime's name, the numpy name.
_EXOTIC = (
    (16, "bfloat16", "bfloat16"),
    (17, "float8e4m3fn", "float8_e4m3fn"),
    (18, "float8e4m3fnuz", "float8_e4m3fnuz"),
    (19, "float8e5m2", "float8_e5m2"),
    (20, "float8e5m2fnuz", "float8_e5m2fnuz"),
    (21, "uint4", "uint4"),
    (22, "int4", "int4"),
    (23, "float4e2m1", "float4_e2m1fn"),
)
_NAME_BY_RUNTIME = {
    "float": "float32",
    "double": "float64",
    **{runtime: name for _, runtime, name in _EXOTIC},
}
_ELEMENT_TYPE = {name: number for number, _, name in _EXOTIC}
_NAME_BY_ELEMENT = {number: name for number, _, name in _EXOTIC}
_FOUR_BITS = frozenset({"uint4", "int4", "float4_e2m1fn"})


def dtype_name(runtime_type: str) -> str:
    """Return the numpy name for `tensor(float)`; other types keep their form: `seq(float32)`.

    >>> dtype_name("tensor(float)"), dtype_name("seq(tensor(int64))")
    ('float32', 'sequence(int64)')
    """
    kind, _, inner = runtime_type.removesuffix(")").partition("(")
    if kind == "tensor":
        return _NAME_BY_RUNTIME.get(inner, inner)
    if kind == "seq":
        return f"sequence({dtype_name(inner)})"
    if kind == "optional":
        return f"optional({dtype_name(inner)})"
    return runtime_type


def needs_ort_value(name: str) -> bool:
    """Tell whether numpy alone cannot hold elements of the type called `name`."""
    return name in _ELEMENT_TYPE


def ort_value_of(array: np.ndarray[Any, Any]) -> Any:
    """Return an `OrtValue` in main memory that holds `array`.

    Raises:
        TypeError: It is a sequence, or an empty optional.
    """
    import onnxruntime as ort

    if not isinstance(array, np.ndarray):
        raise TypeError("cannot feed what is no tensor beside a type that numpy lacks")
    name = array.dtype.name
    if name not in _ELEMENT_TYPE:
        return ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array).reshape(array.shape))
    value = ort.OrtValue.ortvalue_from_shape_and_type(list(array.shape), _ELEMENT_TYPE[name])
    raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    data = (_pack(raw) if name in _FOUR_BITS else raw).tobytes()
    ctypes.memmove(value.data_ptr(), data, len(data))
    return value


def array_of(value: Any) -> np.ndarray[Any, Any]:
    """Return the array that an `OrtValue` in main memory holds.

    Raises:
        TypeError: It holds no tensor.
    """
    if not value.is_tensor():
        raise TypeError(f"cannot read a {value.data_type()} beside a type that numpy lacks")
    name = _NAME_BY_ELEMENT.get(value.element_type())
    if name is None:
        array: np.ndarray[Any, Any] = value.numpy()
        return array
    dtype = dtype_of(name)
    shape = value.shape()
    size = value.tensor_size_in_bytes()
    raw = np.frombuffer(ctypes.string_at(value.data_ptr(), size), np.uint8)
    if dtype.name in _FOUR_BITS:
        raw = _unpack(raw, int(np.prod(shape)), signed=dtype.name == "int4")
    return raw.view(dtype).reshape(shape)


def _pack(nibbles: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Two elements a byte, the first one in the low half (ONNX, `TensorProto.raw_data`)."""
    padded = np.append(nibbles, np.zeros(nibbles.size % 2, np.uint8)) & 0x0F
    packed: np.ndarray[Any, Any] = padded[0::2] | (padded[1::2] << 4)
    return packed


def _unpack(packed: np.ndarray[Any, Any], count: int, *, signed: bool) -> np.ndarray[Any, Any]:
    nibbles = np.stack([packed & 0x0F, packed >> 4], axis=-1).reshape(-1)[:count]
    if signed:
        nibbles = ((nibbles.astype(np.int8) ^ 8) - 8).view(np.uint8)
    return np.ascontiguousarray(nibbles)
