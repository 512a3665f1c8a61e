"""What arithmetic computes, whatever its order: polynomials in a few chosen values.

`x * 0.5 * (1 + f)`, `(x + x * f) / 2` and `x * (0.5 * f + 0.5)` are one polynomial in `x` and `f`.
Exporters differ in the order and in where they put the constants; the coefficients do not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from graphopt.ir import constant_array

__all__ = ["Polynomial", "is_close", "polynomial_of"]

Polynomial = dict[tuple[int, ...], float]
"""Coefficient of each monomial, by the powers of the variables; zeros are left out."""

_ARITHMETIC = frozenset({"Add", "Sub", "Mul", "Div", "Neg", "Pow", "Identity"})
_MAX_DEPTH = 10
_MAX_POWER = 4


def polynomial_of(value: ir.Value, variables: Sequence[ir.Value]) -> Polynomial | None:
    """Return ``value`` as a polynomial in ``variables``, with real coefficients.

    Constants of one element count as numbers. Returns ``None`` where anything else is involved,
    or more than four factors of one variable.
    """
    return _expand(value, variables, _MAX_DEPTH)


def is_close(found: Polynomial | None, expected: Mapping[tuple[int, ...], float]) -> bool:
    """Tell whether the coefficients are those expected, up to the rounding of float32 constants."""
    if found is None or found.keys() != expected.keys():
        return False
    return all(math.isclose(found[key], expected[key], rel_tol=1e-6) for key in expected)


def _expand(value: ir.Value | None, variables: Sequence[ir.Value], depth: int) -> Polynomial | None:
    if value is None:
        return None
    for position, variable in enumerate(variables):
        if value is variable:
            return {tuple(int(at == position) for at in range(len(variables))): 1.0}
    number = _number(value)
    if number is not None:
        return {(0,) * len(variables): number} if number else {}
    node = value.producer()
    if node is None or node.domain or node.op_type not in _ARITHMETIC or not depth:
        return None
    operands = [_expand(operand, variables, depth - 1) for operand in node.inputs]
    known = [operand for operand in operands if operand is not None]
    return _combine(node.op_type, known) if len(known) == len(operands) else None


def _number(value: ir.Value) -> float | None:
    array = constant_array(value, 1)
    if array is None or array.size != 1 or array.dtype.kind not in "fiu":
        return None
    number = float(array.reshape(-1)[0])
    return number if math.isfinite(number) else None


def _combine(op_type: str, operands: list[Polynomial]) -> Polynomial | None:
    first, last = operands[0], operands[-1]
    if op_type in ("Div", "Pow"):
        return _with_constant(op_type, first, _constant(last))
    if op_type == "Mul":
        return _product(first, last)
    if op_type == "Identity":
        return first
    if op_type == "Neg":
        return _scaled(first, -1.0)
    return _sum(first, last if op_type == "Add" else _scaled(last, -1.0))


def _with_constant(op_type: str, base: Polynomial, constant: float | None) -> Polynomial | None:
    if not constant:
        return None
    return _scaled(base, 1.0 / constant) if op_type == "Div" else _power(base, constant)


def _constant(polynomial: Polynomial) -> float | None:
    if not polynomial:
        return 0.0
    ((powers, number), *others) = polynomial.items()
    return None if others or any(powers) else number


def _scaled(polynomial: Polynomial, factor: float) -> Polynomial:
    return {powers: number * factor for powers, number in polynomial.items()}


def _sum(first: Polynomial, second: Polynomial) -> Polynomial:
    total = dict(first)
    for powers, number in second.items():
        total[powers] = total.get(powers, 0.0) + number
    return {powers: number for powers, number in total.items() if number}


def _product(first: Polynomial, second: Polynomial) -> Polynomial | None:
    total: Polynomial = {}
    for left, number in first.items():
        for right, other in second.items():
            powers = tuple(a + b for a, b in zip(left, right, strict=True))
            if max(powers, default=0) > _MAX_POWER:
                return None
            total[powers] = total.get(powers, 0.0) + number * other
    return total


def _power(base: Polynomial, exponent: float) -> Polynomial | None:
    if exponent != int(exponent) or not 1 <= exponent <= _MAX_POWER:
        return None
    result: Polynomial | None = base
    for _ in range(int(exponent) - 1):
        result = _product(result, base) if result is not None else None
    return result
