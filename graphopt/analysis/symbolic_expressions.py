"""Integer expressions over symbols, in a normal form: equal expressions are equal objects.

An expression is a polynomial with integer coefficients. Sums, differences and products are exact
modulo 2**64, as they are for int64 tensors. What is no polynomial (a quotient with a remainder, a
maximum that depends on the sizes) is a symbol of its own, made from what it was computed from, so
that the same computation gives the same symbol.

A number is a plain `int`; an `Expression` always holds a symbol.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping

__all__ = [
    "Expression",
    "Integer",
    "Symbol",
    "Symbols",
    "assume_positive",
    "divide",
    "equality",
    "is_nonnegative",
    "is_positive",
    "polynomial",
    "product",
    "single_symbol",
    "vanishes_with",
]

_WORD = 1 << 64
_HALF_WORD = 1 << 63
_MAX_TERMS = 32
"""An expression with more terms becomes a symbol of its own; see `Symbols.bounded`."""


class Symbol:
    """An integer that is not known before run time.

    Attributes:
        index: Place in the order of creation, which orders the factors of a term.
        key: What it stands for; symbols of equal keys are one.
        is_size: It is a size, never below zero.
        is_positive: It is above zero, or the run fails.
        home: The symbols that it is one of.
    """

    __slots__ = ("home", "index", "is_positive", "is_size", "key")

    def __init__(self, home: Symbols, index: int, key: Hashable, *, is_size: bool) -> None:
        self.home = home
        self.index = index
        self.key = key
        self.is_size = is_size
        self.is_positive = False

    def __repr__(self) -> str:
        return self.key if isinstance(self.key, str) else f"?{self.index}"


_Term = tuple[Symbol, ...]


class Expression:
    """A polynomial that holds at least one symbol; immutable; `polynomial` makes them.

    There is one of each, so that they are compared and hashed, all the time, as what they are.

    Attributes:
        terms: Coefficient of each product of symbols; the empty product is the constant.
    """

    __slots__ = ("terms",)

    def __init__(self, terms: Mapping[_Term, int]) -> None:
        self.terms = terms

    def __add__(self, other: Integer) -> Integer:
        return _normal(_sum(self.terms, _terms(other), 1))

    def __radd__(self, other: int) -> Integer:
        return self + other

    def __sub__(self, other: Integer) -> Integer:
        return _normal(_sum(self.terms, _terms(other), -1))

    def __rsub__(self, other: int) -> Integer:
        return _normal(_sum(_terms(other), self.terms, -1))

    def __neg__(self) -> Integer:
        return 0 - self

    def __mul__(self, other: Integer) -> Integer:
        found: dict[_Term, int] = {}
        for factors, coefficient in self.terms.items():
            for others, scale in _terms(other).items():
                term = tuple(sorted(factors + others, key=_by_index)) if others else factors
                found[term] = found.get(term, 0) + coefficient * scale
        return _normal(found)

    def __rmul__(self, other: int) -> Integer:
        return self * other

    def __repr__(self) -> str:
        ordered = sorted(self.terms.items(), key=lambda item: [s.index for s in item[0]])
        return "+".join(_term_text(factors, number) for factors, number in ordered)


Integer = int | Expression


def polynomial(terms: Mapping[_Term, int]) -> Expression:
    """Return the expression of these terms, one of which holds a symbol, none of them zero."""
    made = next(factors for factors in terms if factors)[0].home.made
    key = frozenset(terms.items())
    found = made.get(key)
    if found is None:
        found = made[key] = Expression(terms)
    return found


def _by_index(symbol: Symbol) -> int:
    return symbol.index


def _terms(value: Integer) -> Mapping[_Term, int]:
    return value.terms if isinstance(value, Expression) else {(): value}


def _sum(first: Mapping[_Term, int], second: Mapping[_Term, int], sign: int) -> dict[_Term, int]:
    found = dict(first)
    for term, coefficient in second.items():
        found[term] = found.get(term, 0) + sign * coefficient
    return found


def _normal(terms: Mapping[_Term, int]) -> Integer:
    kept = {}
    for term, coefficient in terms.items():
        wrapped = (coefficient + _HALF_WORD) % _WORD - _HALF_WORD
        if wrapped:
            kept[term] = wrapped
    if not kept:
        return 0
    if len(kept) == 1 and () in kept:
        return kept[()]
    return polynomial(kept)


def _term_text(factors: _Term, coefficient: int) -> str:
    names = [repr(symbol) for symbol in factors]
    return "*".join([str(coefficient), *names] if coefficient != 1 or not names else names)


class Symbols:
    """Makes the symbols of one model.

    Attributes:
        made: The expressions of them.
        positive: Those that are known to be above zero.
        doubts: How often it was asked of a number whether it is above zero, and not known.
        reliances: How often the answer was yes because of what is demanded of a symbol.
    """

    def __init__(self) -> None:
        self._known: dict[Hashable, Expression] = {}
        self.made: dict[frozenset[tuple[_Term, int]], Expression] = {}
        self.positive: set[Symbol] = set()
        self.doubts = 0
        self.reliances = 0

    def forget_positive(self) -> None:
        """Take nothing for granted any more: what demanded sizes above zero may be gone."""
        for symbol in self.positive:
            symbol.is_positive = False
        self.positive.clear()

    def of(self, key: Hashable, *, is_size: bool = False) -> Expression:
        """Return the symbol that stands for ``key``; sizes and other numbers are kept apart."""
        known = self._known.get((key, is_size))
        if known is None:
            symbol = Symbol(self, len(self._known), key, is_size=is_size)
            known = self._known[key, is_size] = polynomial({(symbol,): 1})
        return known

    def named(self, name: str) -> Expression:
        """Return the size that inputs call ``name``."""
        return self.of(name, is_size=True)

    def bounded(self, value: Integer) -> Integer:
        """Return ``value``, or a symbol in its place where it has grown too long."""
        if isinstance(value, Expression) and len(value.terms) > _MAX_TERMS:
            return self.of(("sum", value), is_size=is_nonnegative(value))
        return value


# -- proofs: what holds for all sizes, zero included -------------------------------------------


def is_nonnegative(value: Integer) -> bool:
    """Tell whether ``value`` is provably zero or more."""
    if isinstance(value, int):
        return value >= 0
    return all(
        coefficient > 0 and all(symbol.is_size for symbol in factors)
        for factors, coefficient in value.terms.items()
    )


def is_positive(value: Integer) -> bool:
    """Tell whether ``value`` is provably above zero."""
    if isinstance(value, int):
        return value > 0
    if not is_nonnegative(value):
        return False
    if () in value.terms:
        return True  # some number above zero, and sizes
    home = next(factors[0] for factors in value.terms if factors).home
    if any(all(symbol.is_positive for symbol in factors) for factors in value.terms):
        home.reliances += 1
        return True
    home.doubts += 1
    return False


def assume_positive(value: Integer) -> bool:
    """Take note that ``value`` is above zero in every run that succeeds; tell if it is news."""
    if isinstance(value, int) or len(value.terms) != 1 or not is_nonnegative(value):
        return False
    (factors,) = value.terms
    is_news = not all(symbol.is_positive for symbol in factors)
    for symbol in factors:
        symbol.is_positive = True
        symbol.home.positive.add(symbol)
    return is_news


def equality(first: Integer, second: Integer) -> bool | None:
    """Tell whether two numbers are always equal, never equal, or ``None``: it depends."""
    if first == second:
        return True
    difference = first - second
    if isinstance(difference, int) or is_positive(difference) or is_positive(-difference):
        return False
    return None


def vanishes_with(value: Integer, other: Integer) -> bool:
    """Tell whether ``value`` is provably zero wherever ``other``, never negative, is zero."""
    if value in (other, 0) or is_positive(other):
        return True
    if isinstance(other, int) or isinstance(value, int):
        return False
    # A sum of sizes is zero only where each of its terms is: where one factor of each is.
    return any(
        all(all(symbol in factors for factors in value.terms) for symbol in term)
        for term in other.terms
    )


def single_symbol(value: Integer) -> Symbol | None:
    """Return the symbol that ``value`` is, or ``None`` where it is more or less than that."""
    if isinstance(value, int) or len(value.terms) != 1:
        return None
    ((factors, coefficient),) = value.terms.items()
    return factors[0] if len(factors) == 1 and coefficient == 1 else None


def product(values: Iterable[Integer]) -> Integer:
    """Multiply."""
    items = list(values)
    result: Integer = math.prod([item for item in items if isinstance(item, int)])
    for item in items:
        if isinstance(item, Expression):
            result = item if result == 1 else item * result
    return result


def divide(value: Integer, divisor: Integer) -> Integer | None:
    """Divide without remainder, given that ``divisor`` is not zero; ``None``: not for all sizes.

    Numbers alone are divided towards zero, as ONNX does.
    """
    if divisor == 0:
        return None
    if isinstance(value, int) and isinstance(divisor, int):
        quotient = abs(value) // abs(divisor) * (1 if (value < 0) == (divisor < 0) else -1)
        return quotient if quotient < _HALF_WORD else None
    if value in (0, divisor):
        return 0 if value == 0 else 1
    terms = _terms(divisor)
    if len(terms) != 1:
        return None
    ((common, scale),) = terms.items()
    found: dict[_Term, int] = {}
    for factors, coefficient in _terms(value).items():
        left = _without(factors, common)
        if left is None or coefficient % scale:
            return None
        found[left] = coefficient // scale
    return _normal(found)


def _without(factors: _Term, common: _Term) -> _Term | None:
    left = list(factors)
    for symbol in common:
        if symbol not in left:
            return None
        left.remove(symbol)
    return tuple(left)
