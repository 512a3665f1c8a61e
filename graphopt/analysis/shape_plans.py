"""How to compute vectors of sizes with as few nodes as may be.

Exporters write the same sizes again and again, each time from the value at hand. Here every vector
is written in one way: runs of dimensions as one Shape, each size from the first value that has it,
sums and products on vectors of one element, one Concat. What is written alike is computed once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt.analysis.operands import int_attribute, ints_attribute, operand
from graphopt.analysis.symbolic_expressions import (
    Expression,
    Integer,
    Symbol,
    polynomial,
    single_symbol,
)
from graphopt.ir import constant_array

__all__ = ["Recipe", "Recipes", "Source", "SourceTable", "recipe_of"]

_MAX_CANDIDATES = 4
_SHAPE_HAS_BOUNDS_SINCE = 15
_AXES_ARE_INPUT_SINCE = 13


@dataclass(frozen=True)
class Recipe:
    """A vector of int64, or a scalar, and how to compute it.

    Attributes:
        operator: Operator, or ``""`` for a value that is there and for a constant.
        inputs: What the operator reads.
        attributes: Attributes of the operator, sorted by name.
        value: The value that is there.
        constant: Elements of a constant vector.
    """

    operator: str = ""
    inputs: tuple[Recipe, ...] = ()
    attributes: tuple[tuple[str, int | tuple[int, ...]], ...] = ()
    value: ir.Value | None = None
    constant: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Source:
    """A place where a size can be read: a dimension of a value."""

    value: ir.Value
    axis: int
    dims: tuple[Integer, ...]


class SourceTable:
    """The first values in the order of execution that have each size as a dimension.

    Only values that a graph's own nodes may read are in its table: its own, and outer ones.
    """

    def __init__(self, outer: SourceTable | None = None) -> None:
        self._outer = outer
        self._sources: dict[tuple[Integer, bool], list[Source]] = {}
        self._seen: set[tuple[tuple[Integer, ...], bool]] = set()

    def add(self, value: ir.Value, dims: tuple[Integer, ...], *, is_spare: bool = False) -> None:
        """Add a value; a shape that is there already adds nothing.

        Args:
            value: The value.
            dims: Its dimensions.
            is_spare: The value is there only for somebody to ask for its shape, and might go.
        """
        if (dims, is_spare) in self._seen:
            return
        self._seen.add((dims, is_spare))
        for axis, size in enumerate(dims):
            if isinstance(size, int):
                continue
            known = self._sources.setdefault((size, is_spare), [])
            if len(known) < _MAX_CANDIDATES:
                known.append(Source(value, axis, dims))

    def of(self, size: Integer, *, is_spare: bool = False) -> Iterator[Source]:
        """Yield the places of ``size``, outer ones first."""
        if self._outer is not None:
            yield from self._outer.of(size, is_spare=is_spare)
        yield from self._sources.get((size, is_spare), ())


class Recipes:
    """Writes recipes for vectors of sizes.

    Args:
        version: Opset version of the model.
        sources: Where the sizes are read.
    """

    def __init__(self, version: int, sources: SourceTable) -> None:
        self._version = version
        self._sources = sources

    def vector(self, items: tuple[Integer, ...]) -> Recipe | None:
        """Return how to compute a vector, or ``None`` where a size can be read nowhere."""
        pieces: list[Recipe] = []
        place = 0
        while place < len(items):
            found = self._piece(items, place)
            if found is None:
                return None
            piece, length = found
            pieces.append(piece)
            place += length
        if len(pieces) == 1:
            return pieces[0]
        return Recipe("Concat", tuple(pieces), (("axis", 0),))

    def scalar(self, item: Integer) -> Recipe | None:
        """Return how to compute a scalar, or ``None``."""
        found = self.vector((item,))
        if found is None:
            return None
        if self._version < _AXES_ARE_INPUT_SINCE:
            return Recipe("Squeeze", (found,), (("axes", (0,)),))
        return Recipe("Squeeze", (found, Recipe(constant=(0,))))

    def _piece(self, items: tuple[Integer, ...], place: int) -> tuple[Recipe, int] | None:
        """Return a recipe for the elements from ``place`` on, and for how many."""
        item = items[place]
        if isinstance(item, int):
            end = place
            while end < len(items) and isinstance(items[end], int):
                end += 1
            return Recipe(constant=tuple(_numbers(items[place:end]))), end - place
        # A value that stays anyway comes first: reading the shape of another would keep it alive.
        for is_spare in (False, True):
            best, length = None, 0
            for source in self._sources.of(item, is_spare=is_spare):
                run = _run(items[place:], source.dims[source.axis :])
                if run > length:
                    best, length = source, run
            if best is not None:
                return self._dimensions(best, length), length
        computed = self._computed(item)
        return None if computed is None else (computed, 1)

    def _dimensions(self, source: Source, length: int) -> Recipe:
        start, end = source.axis, source.axis + length
        whole = Recipe("Shape", (Recipe(value=source.value),))
        if length == len(source.dims):
            return whole
        if self._version >= _SHAPE_HAS_BOUNDS_SINCE:
            return Recipe("Shape", whole.inputs, (("end", end), ("start", start)))
        bounds = (Recipe(constant=(start,)), Recipe(constant=(end,)))
        return Recipe("Slice", (whole, *bounds))

    def _computed(self, item: Expression) -> Recipe | None:
        symbol = single_symbol(item)
        if symbol is not None:
            return self._of_symbol(symbol)
        result: Recipe | None = None
        for factors, coefficient in sorted(item.terms.items(), key=_term_order):
            sign = result is not None and coefficient < 0
            term = self._term(factors, -coefficient if sign else coefficient)
            if term is None:
                return None
            operator = "Sub" if sign else "Add"
            result = term if result is None else Recipe(operator, (result, term))
        return result

    def _term(self, factors: tuple[Symbol, ...], coefficient: int) -> Recipe | None:
        result: Recipe | None = None
        for symbol in factors:
            factor = self.vector((polynomial({(symbol,): 1}),))
            if factor is None:
                return None
            result = factor if result is None else Recipe("Mul", (result, factor))
        number = Recipe(constant=(coefficient,))
        if result is None:
            return number
        return result if coefficient == 1 else Recipe("Mul", (result, number))

    def _of_symbol(self, symbol: Symbol) -> Recipe | None:
        if not isinstance(symbol.key, tuple) or symbol.key[0] != "quotient":
            return None
        parts = [self.vector((part,)) for part in symbol.key[1:]]
        if parts[0] is None or parts[1] is None:
            return None
        return Recipe("Div", (parts[0], parts[1]))


def _term_order(item: tuple[tuple[Symbol, ...], int]) -> tuple[bool, list[int]]:
    """Put terms that are added first, the constant last."""
    factors, coefficient = item
    return (coefficient < 0, [-len(factors), *(symbol.index for symbol in factors)])


def _numbers(items: Iterable[Integer]) -> Iterator[int]:
    return (item for item in items if isinstance(item, int))


def _run(items: tuple[Integer, ...], dims: tuple[Integer, ...]) -> int:
    """Return how many elements to read at once; numbers at the end stay with those that follow."""
    count = 0
    while count < min(len(items), len(dims)) and items[count] == dims[count]:
        count += 1
    while 0 < count < len(items) and isinstance(items[count - 1], int):
        count -= 1
    return count


# -- recipes of nodes that are there ------------------------------------------------------------


def recipe_of(node: ir.Node, written: Mapping[ir.Value, Recipe], rank: int | None) -> Recipe | None:
    """Return the recipe that ``node`` follows, as `Recipes` would write it, or ``None``.

    Args:
        node: A node that computes a vector or scalar of int64.
        written: Recipes of nodes before it.
        rank: Number of dimensions of its first input.
    """
    if node.op_type == "Shape":
        return _shape_recipe(node, rank)
    inputs = [_input_recipe(value, written) for value in node.inputs]
    given = tuple(recipe for recipe in inputs if recipe is not None)
    if len(given) < len(inputs):
        return None
    if node.op_type in ("Add", "Concat", "Div", "Mul", "Sub"):
        attributes = (("axis", 0),) if node.op_type == "Concat" else ()
        return Recipe(node.op_type, given, attributes)
    if node.op_type == "Slice":
        return Recipe("Slice", given[:3]) if given[3:] in _WHOLE_STEPS else None
    return _squeeze_recipe(node, given) if node.op_type == "Squeeze" else None


def _squeeze_recipe(node: ir.Node, given: tuple[Recipe, ...]) -> Recipe | None:
    if given[1:] == _FIRST_AXIS:
        return Recipe("Squeeze", given)
    if ints_attribute(node, "axes") == (0,):
        return Recipe("Squeeze", given, (("axes", (0,)),))
    return None


_FIRST_AXIS = (Recipe(constant=(0,)),)
_WHOLE_STEPS = ((), _FIRST_AXIS, (*_FIRST_AXIS, Recipe(constant=(1,))))


def _shape_recipe(node: ir.Node, rank: int | None) -> Recipe | None:
    start, end = int_attribute(node, "start", 0), int_attribute(node, "end", rank or 0)
    source = operand(node, 0)
    if rank is None or start is None or end is None or source is None:
        return None
    axes = range(rank)[start:end]
    if len(axes) == rank:
        return Recipe("Shape", (Recipe(value=source),))
    bounds = (("end", axes.stop), ("start", axes.start))
    return Recipe("Shape", (Recipe(value=source),), bounds)


def _input_recipe(value: ir.Value | None, written: Mapping[ir.Value, Recipe]) -> Recipe | None:
    if value is None:
        return None
    array = constant_array(value, _MAX_CONSTANT_ELEMENTS)
    if array is not None and array.ndim == 1 and array.dtype == np.int64:
        return Recipe(constant=tuple(array.tolist()))
    return written.get(value) or Recipe(value=value)


_MAX_CONSTANT_ELEMENTS = 64
