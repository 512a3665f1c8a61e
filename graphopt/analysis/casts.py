"""Which conversions between number types lose nothing."""

from __future__ import annotations

import onnx_ir as ir

__all__ = ["is_direct_cast_equal", "is_implementation_defined", "is_lossless"]

_T = ir.DataType
_INTEGER_RANGE: dict[ir.DataType, tuple[int, int]] = {
    _T.BOOL: (0, 1),
    _T.UINT8: (0, 2**8 - 1),
    _T.UINT16: (0, 2**16 - 1),
    _T.UINT32: (0, 2**32 - 1),
    _T.UINT64: (0, 2**64 - 1),
    _T.INT8: (-(2**7), 2**7 - 1),
    _T.INT16: (-(2**15), 2**15 - 1),
    _T.INT32: (-(2**31), 2**31 - 1),
    _T.INT64: (-(2**63), 2**63 - 1),
}
# Significand bits (the hidden one included), smallest and largest exponent of a power of two that
# the type holds, subnormal numbers included (IEEE 754-2019, table 3.5; bfloat16: same range as
# binary32 with 8 bits).
_FLOAT_FORMAT: dict[ir.DataType, tuple[int, int, int]] = {
    _T.FLOAT16: (11, -24, 15),
    _T.BFLOAT16: (8, -133, 127),
    _T.FLOAT: (24, -149, 127),
    _T.DOUBLE: (53, -1074, 1023),
}


def is_lossless(source: ir.DataType, target: ir.DataType) -> bool:
    """Tell whether every value of ``source``, NaN and -0.0 included, exists in ``target``."""
    if source == target:
        return True
    if source in _INTEGER_RANGE and target in _INTEGER_RANGE:
        low, high = _INTEGER_RANGE[source]
        return (
            # Every number but 0 becomes the same `true`.
            target != _T.BOOL
            and _INTEGER_RANGE[target][0] <= low <= high <= (_INTEGER_RANGE[target][1])
        )
    if source in _INTEGER_RANGE and target in _FLOAT_FORMAT:
        low, high = _INTEGER_RANGE[source]
        bits, _, exponent = _FLOAT_FORMAT[target]
        # All whole numbers up to 2**bits are exact, and 16 bits of floats end below 2**16.
        return bool(max(-low, high) <= 2**bits and high < 2 ** (exponent + 1))
    if source in _FLOAT_FORMAT and target in _FLOAT_FORMAT:
        ours, theirs = _FLOAT_FORMAT[source], _FLOAT_FORMAT[target]
        return bool(ours[0] <= theirs[0] and ours[1] >= theirs[1] and ours[2] <= theirs[2])
    return False


def is_direct_cast_equal(source: ir.DataType, middle: ir.DataType, target: ir.DataType) -> bool:
    """Tell whether casting ``source`` to ``target`` at once gives what the way by ``middle`` gives.

    The first step must lose nothing. The second then starts from the same numbers; it must be one
    whose result is defined by those numbers alone: back to the source, without loss, integers by
    their low bits, or a correctly rounded conversion between the same kinds of number.
    """
    if not is_lossless(source, middle):
        return False
    if target == source or is_lossless(source, target):
        return True
    if source in _INTEGER_RANGE and middle in _INTEGER_RANGE:
        return target in _INTEGER_RANGE or target in (_T.FLOAT, _T.DOUBLE)
    return source in _FLOAT_FORMAT and (target in _FLOAT_FORMAT or target == _T.BOOL)


def is_implementation_defined(source: ir.DataType | None, target: ir.DataType | None) -> bool:
    """Tell whether values out of range make a conversion depend on the machine.

    So it is for floating point to integers: what the C++ standard leaves undefined.
    """
    if source is None or target is None:
        return True
    return source not in _INTEGER_RANGE and target != _T.BOOL and target not in _FLOAT_FORMAT
