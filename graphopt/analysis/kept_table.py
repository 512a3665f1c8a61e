"""Shape tables that are kept while a model is edited, as what is derived from them sees them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import onnx_ir as ir

from graphopt.rewrite import ShapeTable, Touched

if TYPE_CHECKING:
    from graphopt.analysis.symbolic_shapes import SymbolicShapes

__all__ = ["KeptTable", "News"]


@dataclass
class News:
    """What is another one since somebody looked, for what is derived from shapes and model.

    Attributes:
        nodes: Nodes that are new, or that read or mean something else.
        values: Values of which the table says something else.
    """

    nodes: set[ir.Node] = field(default_factory=set)
    values: set[ir.Value] = field(default_factory=set)

    def around(self) -> set[ir.Node]:
        """Return the nodes that are others now, and those that read or compute other values."""
        found = set(self.nodes)
        for value in self.values:
            found.update(user for user, _ in value.uses())
            producer = value.producer()
            if producer is not None:
                found.add(producer)
        return {node for node in found if node.graph is not None}  # the others are there no more


class KeptTable(ShapeTable):
    """A shape table that is told of edits, and what was derived from it.

    Attributes:
        touched: What was changed since the table was last renewed.
        derived: What others found out from the table and the model, by name; outdated when the
            model changes.
        outdated: What was derived before the last edits that `news` tells of.
        news: What they changed.
    """

    def __init__(self) -> None:
        super().__init__({})
        self.touched = Touched()
        self.touched.everything = True
        self.derived: dict[str, object] = {}
        self.outdated: dict[str, object] = {}
        self.news = News()

    def symbolic(self) -> SymbolicShapes | None:
        """Return the analysis that the table is made of, brought up to date, if it is one."""
        return None

    def pending_news(self) -> News | None:
        """Return `news` with the edits since the last renewal; ``None`` if not node by node."""
        touched = self.touched
        if touched.everything:
            return None
        users = {user for user, _, _ in touched.replaced}
        return News(
            self.news.nodes.union(touched.nodes, users), self.news.values.union(touched.values)
        )
