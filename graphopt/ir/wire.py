"""The protobuf wire format, as far as it takes to leave weights out of a model and put them back.

A field is a key (number and wire type), then its value; messages, text and bytes come with their
length first. Only messages that hold what is looked for are entered; everything else is stepped
over by its length, so that the cost is that of the top-level fields.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum, unique
from typing import NamedTuple, Protocol

__all__ = [
    "Buffer",
    "Field",
    "MalformedError",
    "Message",
    "encode_bytes",
    "encode_field",
    "encode_varint",
    "fields",
    "large_fields",
]

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_MAXIMUM_VARINT_BYTES = 10


class Buffer(Protocol):
    """Bytes, or a mapped file: indexed one by one, sliced into bytes."""

    def __len__(self) -> int:
        """Return how many there are."""
        ...

    def __getitem__(self, key: int, /) -> int:
        """Return one."""
        ...


class MalformedError(ValueError):
    """The bytes are no message, or one that this reader does not know how to step over."""


@unique
class Message(IntEnum):
    """The messages of ONNX on the way from a model to the bytes of a tensor."""

    MODEL = 0
    GRAPH = 1
    FUNCTION = 2
    NODE = 3
    ATTRIBUTE = 4
    TENSOR = 5

    def inner(self, number: int) -> Message | None:
        """Return what the field ``number`` holds, where that leads to the bytes of a tensor."""
        return _INNER[self].get(number)


_INNER: dict[Message, dict[int, Message]] = {
    Message.MODEL: {7: Message.GRAPH, 25: Message.FUNCTION},
    Message.GRAPH: {1: Message.NODE, 5: Message.TENSOR},
    Message.FUNCTION: {7: Message.NODE},
    Message.NODE: {5: Message.ATTRIBUTE},
    # Lists of tensors are left out: no exporter puts weights there.
    Message.ATTRIBUTE: {5: Message.TENSOR, 6: Message.GRAPH, 11: Message.GRAPH},
    Message.TENSOR: {},
}


class Field(NamedTuple):
    """Where one field of a message lies.

    Attributes:
        number: Its number.
        key: Offset of its key.
        start: Offset of its value, after the length where it has one.
        end: Offset after its value.
        value: The number, of a varint; else 0.
    """

    number: int
    key: int
    start: int
    end: int
    value: int


def large_fields(data: Buffer, start: int, end: int, minimum: int) -> Iterator[Field]:
    """Yield the fields with a length of ``minimum`` bytes or more, in order.

    Raises:
        MalformedError: A field does not end where its message ends.
    """
    position = start
    try:
        while position < end:
            key = position
            # Nearly every key is one byte, and a length one or two: calls would double the time.
            tag = data[position]
            position += 1
            if tag >= 0x80:  # noqa: PLR2004 - the bit that says more bytes follow
                tag, position = _varint(data, key, end)
            kind = tag & 7
            if kind == _LENGTH:
                size = data[position]
                position += 1
                if size >= 0x80:  # noqa: PLR2004
                    more = data[position]
                    if more < 0x80:  # noqa: PLR2004
                        size += (more << 7) - 0x80
                        position += 1
                    else:
                        size, position = _varint(data, position - 1, end)
                stop = position + size
                if stop > end:
                    raise MalformedError(f"a field at {key} ends after its message")
                if size >= minimum:
                    yield Field(tag >> 3, key, position, stop, 0)
                position = stop
            else:
                position = _after(data, kind, position, end)
    except IndexError as error:
        raise MalformedError("a message is cut short") from error
    if position != end:
        raise MalformedError("a field ends after its message")


def fields(data: Buffer, start: int, end: int) -> Iterator[Field]:
    """Yield every field of a message.

    Raises:
        MalformedError: A field does not end where its message ends.
    """
    position = start
    while position < end:
        key = position
        tag, position = _varint(data, position, end)
        kind, value = tag & 7, 0
        if kind == _LENGTH:
            size, begin = _varint(data, position, end)
            position = begin + size
        elif kind == _VARINT:
            begin = position
            value, position = _varint(data, position, end)
        else:
            begin, position = position, _after(data, kind, position, end)
        if position > end:
            raise MalformedError(f"a field at {key} ends after its message")
        yield Field(tag >> 3, key, begin, position, value)


def _after(data: Buffer, kind: int, position: int, end: int) -> int:
    if kind == _VARINT:
        return _varint(data, position, end)[1]
    if kind == _FIXED64:
        return position + 8
    if kind == _FIXED32:
        return position + 4
    raise MalformedError(f"wire type {kind}")  # groups, which ONNX never had


def _varint(data: Buffer, position: int, end: int) -> tuple[int, int]:
    """Return a number and the offset after it."""
    number = shift = 0
    for place in range(position, min(end, position + _MAXIMUM_VARINT_BYTES)):
        byte = data[place]
        number |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004
            return number, place + 1
        shift += 7
    raise MalformedError("a number does not end")


def encode_varint(number: int) -> bytes:
    """Return the bytes of a number that is not negative."""
    if number < _SHORT:
        return bytes((number,))
    if number < _SHORT << 7:  # lengths of nearly all texts and messages
        return bytes((number & 0x7F | 0x80, number >> 7))
    encoded = bytearray()
    while number >= 0x80:  # noqa: PLR2004
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def encode_field(number: int, size: int) -> bytes:
    """Return the key and the length of a field whose value of ``size`` bytes follows."""
    if number < len(_SHORT_HEADS) and size < _SHORT << 7:  # nearly always: at once
        if size < _SHORT:
            return _SHORT_HEADS[number][size]
        return bytes((number << 3 | _LENGTH, size & 0x7F | 0x80, size >> 7))
    return encode_varint(number << 3 | _LENGTH) + encode_varint(size)


def encode_bytes(number: int, value: bytes) -> bytes:
    """Return a field that holds ``value``: text, bytes or a message."""
    size = len(value)
    # Nearly all are short, of one of the first fields: the lengths are at hand.
    if size < _SHORT and number < len(_SHORT_HEADS):
        return _SHORT_HEADS[number][size] + value
    return encode_field(number, size) + value


_SHORT = 0x80
_SHORT_HEADS = [
    [bytes((number << 3 | _LENGTH, size)) for size in range(_SHORT)] for number in range(16)
]
"""The keys and lengths that are one byte each."""
