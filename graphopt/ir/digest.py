"""Digests of models and weights."""

from __future__ import annotations

import itertools

import onnx_ir as ir

from graphopt.ir.file_tensor import blocks
from graphopt.ir.hashing import blake2b, sha256
from graphopt.ir.structure import take_structure

__all__ = ["model_digest", "structure_digest", "tensor_digest"]

_MEMO_KEY = "graphopt.sha256"
_SERIAL_KEY = "graphopt.serial"
_SERIALS = itertools.count()


def tensor_digest(tensor: ir.TensorProtocol) -> str:
    """Return the sha256 of a tensor's type, shape and bytes; remembered on the tensor."""
    known = tensor.meta.get(_MEMO_KEY)
    if known is None:
        # Type and shape, too: equal bytes may be other numbers.
        header = f"{tensor.dtype.name}{tuple(tensor.shape.numpy())}".encode()
        known = sha256(header)
        if tensor.dtype == ir.DataType.STRING:
            for text in tensor.numpy().reshape(-1).tolist():
                # With its length: "ab", "c" and "a", "bc" are not the same.
                known.update(len(text).to_bytes(8, "little") + bytes(text))
        else:
            for block in blocks(tensor):
                known.update(block)
        known = tensor.meta[_MEMO_KEY] = known.hexdigest()
    return str(known)


def model_digest(model: ir.Model) -> str:
    """Return a sha256 over structure and weights: equal for equal models, however stored."""
    structure = take_structure(model)
    whole = sha256(structure.proto.SerializeToString(deterministic=True))
    for tensor in structure.tensors:
        whole.update(tensor_digest(tensor).encode())
    return whole.hexdigest()


def structure_digest(model: ir.Model) -> str:
    """Return a digest that tells within one process whether anything was changed.

    Weights count by identity, so that no weight is read.
    """
    structure = take_structure(model)
    whole = blake2b(structure.proto.SerializeToString(deterministic=True))
    whole.update(repr([_serial(tensor) for tensor in structure.tensors]).encode())
    return whole.hexdigest()


def _serial(tensor: ir.TensorProtocol) -> int:
    """Return the number of a tensor, which no other one of this process has or will have."""
    # Not `id`: a new tensor often lies where one lay that was dropped, and what is remembered by
    # digests, as ranges on samples, would be taken for that of other weights.
    known = tensor.meta.get(_SERIAL_KEY)
    if known is None:
        known = tensor.meta[_SERIAL_KEY] = next(_SERIALS)
    return int(known)
