"""How figures read: bytes, changes, and numbers that may be missing."""

from __future__ import annotations

import math

__all__ = ["format_bytes", "format_change", "format_number"]

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_STEP = 1024


def format_bytes(size: float) -> str:
    """Return a size in bytes with the unit that keeps it short, for example ``22.6 MiB``."""
    for unit in _UNITS:
        if abs(size) < _STEP or unit == _UNITS[-1]:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= _STEP
    raise AssertionError


def format_change(before: float, after: float) -> str:
    """Return the change from ``before`` to ``after`` as a signed percentage, or ``-``."""
    return f"{(after - before) / before:+.1%}" if before else "-"


def format_number(value: float | None, pattern: str = ".4g") -> str:
    """Return a number, ``-`` where there is none, ``inf`` or ``-inf`` where it is infinite."""
    if value is None or math.isnan(value):
        return "-"
    # By `str`, which keeps the sign: -inf dB is the worst that an output can be, and inf the best.
    return str(value) if math.isinf(value) else format(value, pattern)
