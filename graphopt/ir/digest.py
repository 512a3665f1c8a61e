"""Digests of models and weights."""

from __future__ import annotations

import hashlib

import onnx_ir as ir

from graphopt.ir.file_tensor import blocks
from graphopt.ir.structure import take_structure

__all__ = ["model_digest", "structure_digest", "tensor_digest"]

_MEMO_KEY = "graphopt.sha256"


def tensor_digest(tensor: ir.TensorProtocol) -> str:
    """Return the sha256 of a tensor's type, shape and bytes; remembered on the tensor."""
    known = tensor.meta.get(_MEMO_KEY)
    if known is None:
        header = f"{tensor.dtype.name}{tuple(tensor.shape.numpy())}".encode()
        known = hashlib.sha256(header)
        if tensor.dtype == ir.DataType.STRING:
            for text in tensor.numpy().reshape(-1).tolist():
                known.update(len(text).to_bytes(8, "little") + bytes(text))
        else:
            for block in blocks(tensor):
                known.update(block)
        known = tensor.meta[_MEMO_KEY] = known.hexdigest()
    return str(known)


def model_digest(model: ir.Model) -> str:
    """Return a sha256 over structure and weights: equal for equal models, however stored."""
    structure = take_structure(model)
    whole = hashlib.sha256(structure.proto.SerializeToString(deterministic=True))
    for tensor in structure.tensors:
        whole.update(tensor_digest(tensor).encode())
    return whole.hexdigest()


def structure_digest(model: ir.Model) -> str:
    """Return a digest that tells within one process whether anything was changed.

    Weights count by identity, so that no weight is read.
    """
    structure = take_structure(model)
    whole = hashlib.sha256(structure.proto.SerializeToString(deterministic=True))
    whole.update(repr([id(tensor) for tensor in structure.tensors]).encode())
    return whole.hexdigest()
