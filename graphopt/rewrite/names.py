"""Unique names for the values and nodes that passes create."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.ir import graphs, node_list

__all__ = ["NamePool"]


class NamePool:
    """Every name used in a model, across scopes, so that new ones shadow nothing."""

    def __init__(self, model: ir.Model) -> None:
        self._used = _names(model)
        self._next: dict[str, int] = {}

    def unique(self, hint: str) -> str:
        """Return ``hint``, or ``hint_N`` with the smallest free number; the name is then taken."""
        name = hint
        # A name is never given out twice, though the value that had it is gone: reports tell values
        # by their names.
        while name in self._used or not name:
            number = self._next.get(hint, 0) + 1
            self._next[hint] = number
            name = f"{hint}_{number}"
        self._used.add(name)
        return name


def _names(model: ir.Model) -> set[str]:
    names: set[str | None] = set()
    for graph in graphs(model):
        names.update([value.name for value in graph.inputs])
        names.update(graph.initializers.data)
        walked = node_list(graph)
        # Of nodes, too, though ONNX tells them apart from values: a node and its output take one
        # hint.
        names.update([node.name for node in walked])
        names.update([output.name for node in walked for output in node.outputs])
    return {name for name in names if name}
