"""Which tensors hold the same bytes, found with as little reading as possible."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Iterator
from typing import Any

import numpy as np
import onnx_ir as ir

__all__ = ["classes_of_equal_tensors"]

_MEMO_KEY = "graphopt.sample"
_SAMPLE_BYTES = 1024
_SAMPLES = 4

Weight = tuple[ir.Value, ir.TensorProtocol]


def classes_of_equal_tensors(weights: Iterable[Weight]) -> Iterator[list[ir.Value]]:
    """Yield lists of two or more values whose tensors have equal type, shape and bytes.

    Only tensors that share type and shape with another are read: of large ones a sample first, all
    of it only where the samples agree. Order follows ``weights``.
    """
    for alike in _groups(weights, lambda tensor: (tensor.dtype, tuple(tensor.shape.numpy()))):
        for candidates in _groups(alike, _sample):
            yield from _confirmed(candidates)


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
        content = _content(reference)
        equal, left = [first], []
        for value, tensor in others:
            if tensor is reference or np.array_equal(content, _content(tensor)):
                equal.append(value)
            else:
                left.append((value, tensor))
        if len(equal) > 1:
            yield equal


def _content(tensor: ir.TensorProtocol) -> np.ndarray[Any, Any]:
    """Return the bytes of ``tensor``, without a copy where its elements are whole bytes."""
    if tensor.dtype == ir.DataType.STRING:
        texts = [bytes(text) for text in tensor.numpy().reshape(-1).tolist()]
        packed = b"".join(len(text).to_bytes(8, "little") + text for text in texts)
        return np.frombuffer(packed, np.uint8)
    if tensor.dtype.bitwidth < _BITS_PER_BYTE:
        return np.frombuffer(tensor.tobytes(), np.uint8)
    return np.ascontiguousarray(tensor.numpy()).reshape(-1).view(np.uint8)


_BITS_PER_BYTE = 8


def _sample(tensor: ir.TensorProtocol) -> bytes:
    """Return some of the bytes, the same ones for tensors of one size; remembered on the tensor."""
    known = tensor.meta.get(_MEMO_KEY)
    if known is None:
        content = _content(tensor)
        digest = hashlib.sha256()
        if content.size <= _SAMPLES * _SAMPLE_BYTES:
            digest.update(content.tobytes())
        else:
            starts = np.linspace(0, content.size - _SAMPLE_BYTES, _SAMPLES).astype(int).tolist()
            for start in starts:
                digest.update(content[start : start + _SAMPLE_BYTES].tobytes())
        known = tensor.meta[_MEMO_KEY] = digest.digest()
    return bytes(known)
