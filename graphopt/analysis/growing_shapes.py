"""A shape table that keeps up while a pass puts new values in the place of old ones."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.rewrite import ShapeTable, ValueShape

__all__ = ["GrowingShapes"]


class GrowingShapes(ShapeTable):
    """A table, and what is known of values created since it was made.

    Args:
        table: The snapshot that the pass was given.
    """

    def __init__(self, table: ShapeTable) -> None:
        super().__init__({})
        self._table = table

    def of(self, value: ir.Value | None) -> ValueShape | None:
        """Return what is known of ``value``, or ``None`` where nothing is."""
        return self._table.of(value) or super().of(value)

    def alias(self, new: ir.Value, old: ir.Value) -> None:
        """Let ``new`` be known as ``old`` is, whose place it takes."""
        known = self.of(old)
        if known is not None:
            self._shapes[new] = known
