"""Numbers that follow from sizes: what is no polynomial becomes a symbol of its own."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.analysis.symbolic_expressions import (
    Integer,
    Symbols,
    divide,
    equality,
    is_nonnegative,
    is_positive,
    single_symbol,
)

__all__ = [
    "absolute",
    "both",
    "either",
    "is_equal",
    "is_less",
    "largest",
    "limit_of",
    "negation",
    "quotient",
    "remainder",
    "select",
    "sliced",
    "smallest",
]

_TO_THE_END = 2**31 - 1


def quotient(symbols: Symbols, value: Integer, divisor: Integer) -> Integer:
    """Divide towards zero, as ONNX does for integers."""
    found = divide(value, divisor)
    if found is not None:
        return found
    is_size = is_nonnegative(value) and is_nonnegative(divisor)
    return symbols.of(("quotient", value, divisor), is_size=is_size)


def remainder(symbols: Symbols, value: Integer, divisor: Integer) -> Integer:
    """Return what a division leaves over."""
    if isinstance(value, int) and isinstance(divisor, int) and value >= 0 and divisor > 0:
        return value % divisor
    if not isinstance(value, int) and divide(value, divisor) is not None:
        return 0
    is_size = is_nonnegative(value) and is_nonnegative(divisor)
    return symbols.of(("remainder", value, divisor), is_size=is_size)


def largest(symbols: Symbols, *items: Integer) -> Integer:
    """Return the largest number."""
    best = items[0]
    for item in items[1:]:
        if is_nonnegative(item - best):
            best = item
        elif not is_nonnegative(best - item):
            best = _undecided(symbols, "largest", best, item)
    return best


def smallest(symbols: Symbols, *items: Integer) -> Integer:
    """Return the smallest number."""
    best = items[0]
    for item in items[1:]:
        if is_nonnegative(best - item) or limit_of(item, best) is not None:
            best = item
        elif not is_nonnegative(item - best) and limit_of(best, item) is None:
            best = _undecided(symbols, "smallest", best, item)
    return best


def _undecided(symbols: Symbols, kind: str, first: Integer, second: Integer) -> Integer:
    is_size = is_nonnegative(first) and is_nonnegative(second)
    return symbols.of((kind, frozenset((first, second))), is_size=is_size)


def limit_of(value: Integer, other: Integer) -> Integer | None:
    """Return ``limit`` where ``value`` is the smaller one of ``limit`` and ``other``."""
    symbol = single_symbol(value)
    if symbol is None or not isinstance(symbol.key, tuple) or symbol.key[0] != "smallest":
        return None
    pair: frozenset[Integer] = symbol.key[1]
    return next(iter(pair - {other})) if other in pair else None


def absolute(symbols: Symbols, item: Integer) -> Integer:
    """Return the number without its sign."""
    if isinstance(item, int) or is_nonnegative(item):
        return abs(item) if isinstance(item, int) else item
    return symbols.of(("absolute", item), is_size=True)


def is_equal(symbols: Symbols, first: Integer, second: Integer) -> Integer:
    """Return 1 where two numbers are equal, 0 where they never are."""
    decided = equality(first, second)
    if decided is None:
        return symbols.of(("equal", frozenset((first, second))), is_size=True)
    return int(decided)


def is_less(symbols: Symbols, first: Integer, second: Integer) -> Integer:
    """Return 1 where the first number is less, 0 where it never is."""
    difference = second - first
    if is_positive(difference):
        return 1
    if is_nonnegative(-difference):
        return 0
    return symbols.of(("less", first, second), is_size=True)


def negation(symbols: Symbols, item: Integer) -> Integer:
    """Return 1 for 0 and 0 for 1."""
    return 1 - item if isinstance(item, int) else symbols.of(("not", item), is_size=True)


def select(symbols: Symbols, condition: Integer, first: Integer, second: Integer) -> Integer:
    """Return ``first`` where the condition is 1, ``second`` where it is 0."""
    if isinstance(condition, int):
        return first if condition else second
    if first == second:
        return first
    is_size = is_nonnegative(first) and is_nonnegative(second)
    return symbols.of(("select", condition, first, second), is_size=is_size)


def both(symbols: Symbols, first: Integer, second: Integer) -> Integer:
    """Return 1 where both truth values are 1."""
    if 0 in (first, second):
        return 0
    if first in (1, second):
        return second
    return first if second == 1 else symbols.of(("and", first, second), is_size=True)


def either(symbols: Symbols, first: Integer, second: Integer) -> Integer:
    """Return 1 where one of two truth values is 1."""
    if 1 in (first, second):
        return 1
    if first in (0, second):
        return second
    return first if second == 0 else symbols.of(("or", first, second), is_size=True)


def sliced(symbols: Symbols, size: Integer, bounds: tuple[Integer, Integer, Integer]) -> Integer:
    """Return how many of ``size`` elements a Slice takes."""
    start, end, step = bounds
    numbers = [item for item in (start, end, step) if isinstance(item, int)]
    if isinstance(size, int) and len(numbers) == len(bounds) and _is_plain(size, numbers):
        return len(range(size)[slice(*numbers)])
    first, last = _clamped(start, size), _clamped(end, size)
    if step == 1 and first is not None and last is not None and is_nonnegative(last - first):
        return last - first
    if step == 1 and first == 0 and is_nonnegative(end):
        return smallest(symbols, size, end)
    return _unknown(symbols, size, bounds)


def _is_plain(size: int, numbers: Sequence[int]) -> bool:
    """Tell whether ONNX, the runtime and Python agree on what a Slice takes.

    Backwards from before the first element, or to an end that stands for the last, they do not.
    """
    start, end, step = numbers
    return step > 0 or (step < 0 and start >= -size and end < _TO_THE_END)


def _unknown(symbols: Symbols, size: Integer, bounds: tuple[Integer, ...]) -> Integer:
    return symbols.of(("slice", size, bounds), is_size=True)


def _clamped(place: Integer, size: Integer) -> Integer | None:
    """Return a bound of a Slice as a place from 0 to ``size``; ``None`` where that depends."""
    if isinstance(place, int) and place >= _TO_THE_END:
        return size
    if isinstance(place, int) and place < 0:
        if place <= -_TO_THE_END:
            return 0
        return size + place if is_nonnegative(size + place) else None
    if not is_nonnegative(place):
        return 0 if place + size == 0 else None  # as many from the end as there are
    if is_nonnegative(size - place):
        return place
    return size if is_nonnegative(place - size) else None
