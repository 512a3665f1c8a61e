"""Names of sizes: expressions as a shape table writes them; equal names are equal sizes."""

from __future__ import annotations

from collections.abc import Iterable

from graphopt.analysis.symbolic_expressions import Expression, Integer, Symbols, single_symbol

__all__ = ["SizeNames"]


class SizeNames:
    """Gives every size of one model a name, and finds it again by that name.

    Args:
        symbols: The symbols that the sizes are made of.
        reserved: Names that the inputs of the model give to sizes; they mean nothing else.
    """

    def __init__(self, symbols: Symbols, reserved: Iterable[str] = ()) -> None:
        self._symbols = symbols
        self._reserved = frozenset(reserved)
        self._names: dict[Expression, str] = {}
        self._sizes: dict[str, Expression] = {}

    def name_of(self, dim: Integer) -> int | str:
        """Return how a dimension of this size is written; a number stays one."""
        if isinstance(dim, int):
            return dim
        known = self._names.get(dim)
        if known is None:
            known = self._names[dim] = self._new_name(dim)
            self._sizes[known] = dim
        return known

    def size_of(self, dim: int | str) -> Integer:
        """Return what a dimension is; a name that was not given here is a size of its own."""
        if isinstance(dim, int):
            return dim
        return self._sizes.get(dim) or self._symbols.named(dim)

    def is_given(self, name: str) -> bool:
        """Tell whether `name_of` has returned ``name``, or an input of the model is so called."""
        return name in self._sizes or name in self._reserved

    def _new_name(self, dim: Expression) -> str:
        symbol, name = single_symbol(dim), repr(dim)
        if symbol is not None and symbol.key in self._reserved:
            return name
        while name in self._sizes or name in self._reserved:  # a model may call it as it likes
            name += "'"
        return name
