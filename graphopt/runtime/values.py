"""Values of a model's inputs and outputs, to and from the parts of a frame.

A value is an array, a list of arrays (a sequence) or None (an empty optional). Arrays travel as
raw bytes in C order; arrays of text travel as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from graphopt.errors import RunError
from graphopt.runtime.framing import Buffer, Header

__all__ = ["Feeds", "Values", "decode_values", "dtype_of", "encode_values"]

Feeds: TypeAlias = Mapping[str, Any]
"""What a session is fed: input name to array, list of arrays (a sequence) or None (an optional)."""

Values: TypeAlias = dict[str, Any]
"""What a session returns: output name to `np.ndarray`; for a sequence, a list of them."""


def dtype_of(name: str) -> np.dtype[Any]:
    """Return the numpy type called `name`, also where `ml_dtypes` defines it (`bfloat16`, `int4`).

    Raises:
        TypeError: No such type.
    """
    try:
        return np.dtype(name)
    except TypeError:  # 1 MB in each process that imports it, for types that are seldom met
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, name, name))


def encode_values(values: Feeds) -> tuple[list[Header], list[Buffer]]:
    """Return a description of each value and the buffers that it needs, in order.

    Raises:
        RunError: A value is neither an array, a sequence of arrays nor None.
    """
    specs: list[Header] = []
    buffers: list[Buffer] = []
    for name, value in values.items():
        specs.append({"name": name, **_encode(name, value, buffers)})
    return specs, buffers


def decode_values(specs: Sequence[Header], buffers: Iterable[Buffer]) -> Values:
    """Return the values that `encode_values` described; arrays are views of `buffers`.

    An iterator is left at the first buffer behind them.
    """
    remaining = iter(buffers)
    return {spec["name"]: _decode(spec, remaining) for spec in specs}


def _encode(name: str, value: Any, buffers: list[Buffer]) -> Header:
    if value is None:
        return {"kind": "none"}
    if isinstance(value, (list, tuple)):
        return {"kind": "sequence", "items": [_encode(name, item, buffers) for item in value]}
    if not isinstance(value, (np.ndarray, np.generic)):
        raise RunError(
            "a value cannot be passed to the runtime",
            where=f"`{name}`",
            why=f"expected an array, a list of arrays or None, found `{type(value).__name__}`",
        )
    array = np.asarray(value)
    if array.dtype.kind in "OUST":
        return _encode_text(array, buffers)
    native = array.astype(array.dtype.newbyteorder("="), order="C", copy=False)
    buffers.append(native.reshape(-1).view(np.uint8).data)
    return {"kind": "tensor", "dtype": native.dtype.name, "shape": list(array.shape)}


def _encode_text(array: np.ndarray[Any, Any], buffers: list[Buffer]) -> Header:
    texts = [
        item.decode("utf-8", "surrogateescape") if isinstance(item, bytes) else str(item)
        for item in array.reshape(-1).tolist()
    ]
    buffers.append(memoryview(json.dumps(texts).encode()))
    return {"kind": "text", "shape": list(array.shape)}


def _decode(spec: Header, buffers: Iterator[Buffer]) -> Any:
    kind = spec["kind"]
    if kind == "none":
        return None
    if kind == "sequence":
        return [_decode(item, buffers) for item in spec["items"]]
    if kind == "text":
        texts = json.loads(bytes(next(buffers)))
        return np.array(texts, dtype=object).reshape(spec["shape"])
    array: np.ndarray[Any, Any] = np.frombuffer(next(buffers), dtype=dtype_of(spec["dtype"]))
    return array.reshape(spec["shape"])
