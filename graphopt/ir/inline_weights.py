"""Protobuf models whose large weights are left out of the bytes, or put back into them.

Reading: `strip_weights` finds large ``raw_data`` in a mapped model file and gives the bytes of the
model without them, where each such tensor names its place in the file instead. Writing: `StandIns`
hold the places of weights while the rest is serialized, and then give the pieces of the file, with
the lengths of all messages around each weight.
"""

from __future__ import annotations

import math
import os
from bisect import bisect_left
from dataclasses import dataclass, field

import google.protobuf.message
import onnx
import onnx_ir as ir

from graphopt.errors import InvalidModelError
from graphopt.ir.file_tensor import SourceFile
from graphopt.ir.wire import (
    MalformedError,
    Message,
    encode_bytes,
    encode_field,
    fields,
    large_fields,
)

__all__ = ["LARGE_BYTES", "NOTHING_STRIPPED", "Piece", "StandIns", "Stripped", "strip_weights"]

LARGE_BYTES = 1 << 12
"""Smaller tensors are cheaper to parse than to refer to."""

_MAXIMUM_DEPTH = 100  # of messages in messages: where protobuf's own parser stops
_RELEASE_EVERY = 64

_DIMS, _DATA_TYPE, _RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 1, 2, 9, 13, 14
_PLAIN_FIELDS = frozenset({_DIMS, _DATA_TYPE, 8, _RAW_DATA, 12, _DATA_LOCATION, 16})


@dataclass(frozen=True)
class Stripped:
    """A protobuf model without its large weights.

    Attributes:
        data: The model; each tensor that lost its bytes is external, at `location`.
        location: A text that no file holds, so that none can pass a tensor of its own off as one
            of these.
    """

    data: bytes
    location: str

    def is_stripped(self, proto: onnx.TensorProto) -> bool:
        """Tell whether a tensor of the parsed model lost its bytes here.

        Raises:
            InvalidModelError: The file gives it in several parts, which protobuf merges.
        """
        if not self.location or not any(
            entry.value == self.location for entry in proto.external_data
        ):
            return False
        if len(proto.external_data) != len(("location", "offset")) or proto.HasField("raw_data"):
            raise InvalidModelError(
                f"tensor `{proto.name}` is given in several parts",
                why="a field that may occur once occurs again",
                hint="export the model again; the file is damaged",
            )
        return True


NOTHING_STRIPPED = Stripped(b"", os.urandom(16).hex())
"""Of a model that came as text."""


def strip_weights(source: SourceFile) -> Stripped:
    """Return the bytes of a model file without large weights.

    What cannot be understood is left as it is, for the protobuf parser to judge: a file that is no
    model at all comes back whole.
    """
    stripper = _Stripper(source, f"graphopt-{os.urandom(16).hex()}")
    try:
        data = stripper.message(Message.MODEL, 0, source.size, 0)
    except MalformedError:
        data = None
    finally:
        source.release()
    return Stripped(source.read(0, source.size) if data is None else data, stripper.location)


@dataclass
class _Stripper:
    source: SourceFile
    location: str
    found: int = 0

    def __post_init__(self) -> None:
        self._place = _entry(b"location", self.location.encode())

    def message(self, kind: Message, start: int, end: int, depth: int) -> bytes | None:
        """Return a message without the large weights in it; ``None`` where it has none."""
        data = self.source.mapping()
        pieces: list[bytes] = []
        copied = start
        if depth == _MAXIMUM_DEPTH:
            return None
        for part in large_fields(data, start, end, LARGE_BYTES):
            inner = kind.inner(part.number)
            if inner is None:
                continue
            if inner is Message.TENSOR:
                replaced = self._tensor(part.start, part.end)
            else:
                replaced = self.message(inner, part.start, part.end, depth + 1)
            if replaced is not None:
                header = encode_field(part.number, len(replaced))
                pieces += [data[copied : part.key], header, replaced]
                copied = part.end
        if not pieces:
            return None
        return b"".join([*pieces, data[copied:end]])

    def _tensor(self, start: int, end: int) -> bytes | None:
        """Return a tensor that refers to its bytes; ``None`` where they must be parsed."""
        data = self.source.mapping()
        parts = list(fields(data, start, end))
        raw = [part for part in parts if part.number == _RAW_DATA]
        is_plain = all(
            part.number in _PLAIN_FIELDS and not (part.number == _DATA_LOCATION and part.value)
            for part in parts
        )
        if len(raw) != 1 or not is_plain or raw[0].end - raw[0].start < LARGE_BYTES:
            return None
        kept = b"".join(data[part.key : part.end] for part in parts if part is not raw[0])
        tensor = onnx.TensorProto()
        try:
            tensor.ParseFromString(kept)
        except google.protobuf.message.DecodeError:
            return None
        # Broken, or in a form that nobody foresaw: the parser and the checks behind it see it as it
        # is.
        if raw[0].end - raw[0].start != _stored_bytes(tensor):
            return None
        self.found += 1
        if self.found % _RELEASE_EVERY == 0:
            self.source.release()  # a page was touched at each, and the system maps more around it
        return kept + _IS_EXTERNAL + self._place + _entry(b"offset", b"%d" % raw[0].start)


_IS_EXTERNAL: bytes = onnx.TensorProto(data_location=onnx.TensorProto.EXTERNAL).SerializeToString()


def _entry(key: bytes, value: bytes) -> bytes:
    """Return one of the entries that tell where an external tensor lies."""
    return encode_bytes(_EXTERNAL_DATA, encode_bytes(1, key) + encode_bytes(2, value))


def _stored_bytes(tensor: onnx.TensorProto) -> int | None:
    """Return how many bytes a tensor needs; ``None`` where its type or shape does not tell."""
    try:
        dtype = ir.DataType(tensor.data_type)
        bits = dtype.bitwidth
    except (ValueError, TypeError):
        return None
    if dtype == ir.DataType.STRING or any(dim < 0 for dim in tensor.dims):
        return None
    elements: int = math.prod(tensor.dims)
    return (elements * bits + 7) // 8


Piece = bytes | int
"""A part of a file: bytes, or the number of the weight that belongs there."""

_TOKEN_BYTES, _NUMBER_BYTES = 24, 8


@dataclass
class StandIns:
    """Short bytes that stand for weights while the rest of a model is serialized.

    They are random, so that nothing else in the model is taken for one, and are in no file.
    """

    _token: bytes = field(default_factory=lambda: os.urandom(_TOKEN_BYTES))
    _sizes: list[int] = field(default_factory=list)

    def put(self, proto: onnx.TensorProto, size: int) -> None:
        """Let ``proto`` hold a stand-in for ``size`` bytes; they are numbered from 0."""
        proto.raw_data = self._token + len(self._sizes).to_bytes(_NUMBER_BYTES, "little")
        self._sizes.append(size)

    def pieces(self, data: bytes) -> tuple[list[Piece], int]:
        """Return the pieces of a serialized model with its weights, and its size in bytes.

        Args:
            data: The model with stand-ins.
        """
        return self._message(data, Message.MODEL, (0, len(data)), self._sites(data))

    def _sites(self, data: bytes) -> list[int]:
        sites: list[int] = []
        position = data.find(self._token)
        while position >= 0:
            sites.append(position)
            position = data.find(self._token, position + _TOKEN_BYTES)
        return sites

    def _message(
        self, data: bytes, kind: Message, extent: tuple[int, int], sites: list[int]
    ) -> tuple[list[Piece], int]:
        """Return the pieces of one message, which holds all of ``sites``, and its size."""
        start, end = extent
        pieces: list[Piece] = []
        size, copied, reached = 0, start, 0
        for part in large_fields(data, start, end, _TOKEN_BYTES):
            if reached == len(sites):
                break
            if sites[reached] >= part.end:
                continue
            if kind is Message.TENSOR:
                number = int.from_bytes(data[part.end - _NUMBER_BYTES : part.end], "little")
                inside: list[Piece] = [number]
                length, passed = self._sizes[number], reached + 1
            else:
                passed = bisect_left(sites, part.end, reached)
                inner = kind.inner(part.number)
                assert inner is not None, "a stand-in lies where no weight can lie"
                inside, length = self._message(
                    data, inner, (part.start, part.end), sites[reached:passed]
                )
            head = data[copied : part.key] + encode_field(part.number, length)
            pieces += [head, *inside]
            size += len(head) + length
            copied, reached = part.end, passed
        pieces.append(data[copied:end])
        return pieces, size + end - copied
