"""Sizes that a model forces to be equal, beyond what their expressions tell."""

from __future__ import annotations

import itertools

import onnx_ir as ir

from graphopt.analysis.operands import operand
from graphopt.analysis.symbolic_expressions import (
    Integer,
    Symbol,
    divide,
    polynomial,
    product,
    single_symbol,
)
from graphopt.analysis.symbolic_numbers import limit_of
from graphopt.analysis.symbolic_table import SymbolicTable

__all__ = ["EqualSizes", "sizes_forced_equal"]

_Dim = int | str | None


class EqualSizes:
    """Dimensions that are equal in every run that succeeds.

    Args:
        shapes: What names the dimensions.
    """

    def __init__(self, shapes: SymbolicTable) -> None:
        self._shapes = shapes
        self._meanings: dict[Symbol, Integer] = {}

    def copy(self) -> EqualSizes:
        """Return what is known by now, to learn more without telling this one."""
        made = EqualSizes(self._shapes)
        made._meanings = dict(self._meanings)
        return made

    def are_equal(self, one: _Dim, other: _Dim) -> bool:
        """Tell whether two dimensions are known, and known to be equal."""
        if one is None or other is None:
            return False
        return one == other or self._meaning(one) == self._meaning(other)

    def equate(self, one: _Dim, other: _Dim) -> None:
        """Take note that two dimensions are equal."""
        if one is None or other is None or self.are_equal(one, other):
            return
        pair = (self._meaning(one), self._meaning(other))
        # What has no name in the model gives way to what has one.
        for first, second in sorted((pair, pair[::-1]), key=lambda two: _has_name(two[0])):
            symbol = single_symbol(first)
            if symbol is not None and symbol not in _symbols(second):
                self._meanings[symbol] = second
                return

    def _meaning(self, dim: int | str) -> Integer:
        return self._substituted(self._shapes.size_of(dim))

    def _substituted(self, size: Integer) -> Integer:
        """Replace symbols by what they mean; no meaning leads back to its symbol."""
        if isinstance(size, int) or not any(symbol in self._meanings for symbol in _symbols(size)):
            return size
        total: Integer = 0
        for factors, coefficient in size.terms.items():
            own = [self._meanings.get(one, polynomial({(one,): 1})) for one in factors]
            total = total + product(own) * coefficient
        return self._substituted(total)


def _symbols(size: Integer) -> set[Symbol]:
    return set() if isinstance(size, int) else {one for term in size.terms for one in term}


def _has_name(size: Integer) -> bool:
    symbol = single_symbol(size)
    return symbol is None or isinstance(symbol.key, str)


def sizes_forced_equal(model: ir.Model, shapes: SymbolicTable) -> EqualSizes:
    """Return the sizes that Reshapes and broadcasts of the main graph need to be equal.

    Reshapes keep the number of elements, and make what they are asked for. Tensors without elements
    are left out of account: there is nothing in them that could be in the wrong place.
    """
    found = EqualSizes(shapes)
    for node in model.graph:
        if node.op_type in _BROADCASTING and not node.domain:
            _equate_cuts(node, shapes, found)
        if node.op_type != "Reshape" or node.domain:
            continue
        known = shapes.of(node.outputs[0])
        dims = known.dims if known is not None else None
        if dims is None:
            continue
        asked = shapes.elements_of(operand(node, 1))
        if asked is not None and len(asked) == len(dims):
            for one, other in zip(asked, dims, strict=True):
                if isinstance(one, str) and isinstance(other, str):
                    found.equate(one, other)
        _equate_last_unknown(node, dims, shapes, found)
    return found


# Those that put masks and positions, cut from longer tables, beside what they are for.
_BROADCASTING = frozenset({"Add", "And", "Div", "Mul", "Sub", "Where"})


def _equate_cuts(node: ir.Node, shapes: SymbolicTable, found: EqualSizes) -> None:
    """Find sizes that are equal, or one of them is cut off at a limit.

    Two such sizes fit together where nothing is cut off, or where the limit is 1: what they make
    together is the size that is not cut off either way.
    """
    known = [dims for value in node.inputs if (dims := shapes.symbolic.dims(value))]
    result = shapes.symbolic.dims(node.outputs[0])
    for one, other in itertools.permutations(known, 2):
        for axis, (first, second) in enumerate(zip(reversed(one), reversed(other), strict=False)):
            limit = limit_of(first, second) if first != second else None
            if isinstance(limit, int) and limit > 1:
                found.equate(shapes.name_of(first), shapes.name_of(second))
            elif limit is not None and result is not None and len(known) == 2:  # noqa: PLR2004
                found.equate(shapes.name_of(result[-1 - axis]), shapes.name_of(second))


def _equate_last_unknown(
    node: ir.Node, dims: tuple[_Dim, ...], shapes: SymbolicTable, found: EqualSizes
) -> None:
    """Find one dimension by dividing the number of elements by all others."""
    before = shapes.symbolic.dims(operand(node, 0))
    after = shapes.symbolic.dims(node.outputs[0])
    if before is None or after is None or len(after) != len(dims):
        return
    elements: Integer = product(before)
    for axis, dim in enumerate(after):
        others = product(other for place, other in enumerate(after) if place != axis)
        if isinstance(dim, int) or others == 0:
            continue
        size = divide(elements, others)
        if size is not None and size != dim:
            found.equate(dims[axis], shapes.name_of(size))
