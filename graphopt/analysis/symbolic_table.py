"""Symbolic shapes as a shape table: equal names are equal sizes."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.analysis.size_names import SizeNames
from graphopt.analysis.symbolic_expressions import Integer
from graphopt.analysis.symbolic_shapes import SymbolicShapes
from graphopt.rewrite import ShapeTable, ValueShape

__all__ = ["SymbolicTable"]


class SymbolicTable(ShapeTable):
    """The shapes that symbolic analysis knows, by value; later values only where aliased.

    Attributes:
        symbolic: The analysis.
    """

    def __init__(self, model: ir.Model, table: ShapeTable) -> None:
        super().__init__({})
        self.symbolic = SymbolicShapes.kept(model, table)
        self._table = table
        self._names = SizeNames(self.symbolic.symbols)
        self._stand_ins: dict[ir.Value, ir.Value] = {}

    def of(self, value: ir.Value | None) -> ValueShape | None:
        """Return what is known of ``value``, or ``None`` where nothing is."""
        dims = self.symbolic.dims(value)
        if dims is None:
            return self._table.of(value)
        dtype = self.symbolic.dtype(value if value is None else self._stand_ins.get(value, value))
        return ValueShape(dtype, tuple(map(self._names.name_of, dims)))

    def alias(self, new: ir.Value, old: ir.Value) -> None:
        """Take note that ``new``, created after the analysis, has type and shape of ``old``."""
        self.symbolic.alias(new, old)
        self._stand_ins[new] = self._stand_ins.get(old, old)

    def elements_of(self, value: ir.Value | None) -> tuple[int | str, ...] | None:
        """Return the elements of a vector of whole numbers, named like dimensions."""
        found = self.symbolic.elements(value)
        return (
            None if found is None else tuple(map(self._names.name_of, found.reshape(-1).tolist()))
        )

    def name_of(self, dim: Integer) -> int | str:
        """Return how dimensions of this size are written."""
        return self._names.name_of(dim)

    def size_of(self, dim: int | str) -> Integer:
        """Return what a dimension is that this table named; other names are sizes of their own."""
        return self._names.size_of(dim)
