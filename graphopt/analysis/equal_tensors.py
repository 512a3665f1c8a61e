"""Which tensors hold the same bytes, found with as little reading as possible."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.ir import FileTensor, blocks, sample_bytes, tensor_dims
from graphopt.ir.hashing import blake2b

__all__ = ["classes_of_equal_tensors"]

_MEMO_KEY = "graphopt.sample"
_SAMPLE_BYTES = 1024
_SAMPLES = 2
_READ_WHOLE_BYTES = 4096
_BLOCK_BYTES = 1 << 18

Weight = tuple[ir.Value, ir.TensorProtocol]


def classes_of_equal_tensors(weights: Iterable[Weight]) -> Iterator[list[ir.Value]]:
    """Yield lists of two or more values whose tensors have equal type, shape and bytes.

    Only tensors that share type and shape with another are read: of large ones a sample first, all
    of it only where the samples agree. Order follows ``weights``.
    """
    for alike in _groups(weights, lambda tensor: (tensor.dtype, tensor_dims(tensor))):
        is_small = _is_read_whole(alike[0][1])
        for candidates in _groups(alike, _whole if is_small else _sample):
            yield from (
                [[value for value, _ in candidates]] if is_small else _confirmed(candidates)
            )


def _is_read_whole(tensor: ir.TensorProtocol) -> bool:
    return tensor.dtype != ir.DataType.STRING and tensor.nbytes <= _READ_WHOLE_BYTES


def _whole(tensor: ir.TensorProtocol) -> bytes:
    return tensor.tobytes()


def _groups(weights: Iterable[Weight], key: Any) -> Iterator[list[Weight]]:
    found: dict[Hashable, list[Weight]] = {}
    for value, tensor in weights:
        found.setdefault(key(tensor), []).append((value, tensor))
    return (group for group in found.values() if len(group) > 1)


def _confirmed(candidates: list[Weight]) -> Iterator[list[ir.Value]]:
    """Split tensors that look alike into classes of really equal ones."""
    left = candidates
    while left:
        (first, reference), others = left[0], left[1:]
        equal, left = [first], []
        for value, tensor in others:
            if _is_equal(reference, tensor):
                equal.append(value)
            else:
                left.append((value, tensor))
        if len(equal) > 1:
            yield equal


def _is_equal(first: ir.TensorProtocol, second: ir.TensorProtocol) -> bool:
    """Compare the bytes of two tensors of one type and shape, block by block up to a difference."""
    if first is second or _is_in_one_place(first, second):
        return True
    if first.dtype == ir.DataType.STRING:
        return _texts(first) == _texts(second)
    pairs = zip(blocks(first, _BLOCK_BYTES), blocks(second, _BLOCK_BYTES), strict=True)
    return all(  # as arrays: views of memory compare byte by byte, in Python's own loop
        np.array_equal(np.frombuffer(mine, np.uint8), np.frombuffer(other, np.uint8))
        for mine, other in pairs
    )


def _is_in_one_place(first: ir.TensorProtocol, second: ir.TensorProtocol) -> bool:
    """Tell whether both are the same range of the same file."""
    if not (isinstance(first, FileTensor) and isinstance(second, FileTensor)):
        return False
    return first.source is second.source and first.offset == second.offset


def _texts(tensor: ir.TensorProtocol) -> list[bytes]:
    return [bytes(text) for text in tensor.numpy().reshape(-1).tolist()]


def _sample(tensor: ir.TensorProtocol) -> bytes:
    """Return some of the bytes, the same ones for tensors of one size; remembered on the tensor.

    What is computed when it is read counts as unlike all others: it is large and was computed of
    weights that differ, or they would have been one, so that reading it would be for nothing.
    """
    # Ours first: to ask the IR's protocols of another class is slow.
    if not isinstance(tensor, FileTensor) and isinstance(tensor, ir.LazyTensor):
        return repr(id(tensor)).encode()
    known = tensor.meta.get(_MEMO_KEY)
    if known is None:
        known = tensor.meta[_MEMO_KEY] = _digest_of_sample(tensor)
    return bytes(known)


def _digest_of_sample(tensor: ir.TensorProtocol) -> bytes:
    digest = blake2b()
    if tensor.dtype == ir.DataType.STRING:
        for text in _texts(tensor):
            digest.update(len(text).to_bytes(8, "little") + text)
    else:
        last = tensor.nbytes - _SAMPLE_BYTES
        for number in range(_SAMPLES):
            start = last * number // (_SAMPLES - 1)
            digest.update(sample_bytes(tensor, start, _SAMPLE_BYTES))
    return digest.digest()
