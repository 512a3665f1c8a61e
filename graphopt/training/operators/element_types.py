"""ONNX element types as torch types."""

from __future__ import annotations

import onnx_ir as ir
import torch

from graphopt.training.operators.registry import Tensor, UnsupportedForm

__all__ = ["as_torch", "torch_type"]

_TYPES = {
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.DOUBLE: torch.float64,
    ir.DataType.FLOAT16: torch.float16,
    ir.DataType.BFLOAT16: torch.bfloat16,
    ir.DataType.INT8: torch.int8,
    ir.DataType.INT16: torch.int16,
    ir.DataType.INT32: torch.int32,
    ir.DataType.INT64: torch.int64,
    ir.DataType.UINT8: torch.uint8,
    ir.DataType.UINT16: torch.uint16,
    ir.DataType.UINT32: torch.uint32,
    ir.DataType.UINT64: torch.uint64,
    ir.DataType.BOOL: torch.bool,
}
# Four bits take a byte each: their values are what counts, and only Q/DQ and Cast read them.
_WIDENED = {ir.DataType.INT4: torch.int8, ir.DataType.UINT4: torch.uint8}


def torch_type(kind: int) -> torch.dtype:
    """Return the torch type of an ONNX element type, by its number.

    Raises:
        UnsupportedForm: torch has none with the same arithmetic (text, 8-bit floats, complex).
    """
    found = _TYPES.get(ir.DataType(kind))
    if found is None:
        raise UnsupportedForm(f"element type {ir.DataType(kind).name}")
    return found


def as_torch(tensor: ir.TensorProtocol) -> Tensor:
    """Return a copy of an ONNX tensor.

    Raises:
        UnsupportedForm: As `torch_type`.
    """
    kind = _TYPES.get(tensor.dtype) or _WIDENED.get(tensor.dtype)
    if kind is None:
        raise UnsupportedForm(f"element type {tensor.dtype.name}")
    array = tensor.numpy()
    if tensor.dtype in _WIDENED:
        array = array.astype("int8" if tensor.dtype is ir.DataType.INT4 else "uint8")
    if tensor.dtype is ir.DataType.BFLOAT16:  # of ml_dtypes, which torch does not know
        return torch.tensor(array.astype("float32")).to(torch.bfloat16)
    return torch.tensor(array).to(kind)
