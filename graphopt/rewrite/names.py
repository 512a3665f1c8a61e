"""Unique names for the values and nodes that passes create."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from graphopt.ir import graphs

__all__ = ["NamePool"]


class NamePool:
    """Every name used in a model, across scopes, so that new ones shadow nothing."""

    def __init__(self, model: ir.Model) -> None:
        self._used = set(_names(model))
        self._next: dict[str, int] = {}

    def unique(self, hint: str) -> str:
        """Return ``hint``, or ``hint_N`` with the smallest free number; the name is then taken."""
        name = hint
        while name in self._used or not name:
            number = self._next.get(hint, 0) + 1
            self._next[hint] = number
            name = f"{hint}_{number}"
        self._used.add(name)
        return name


def _names(model: ir.Model) -> Iterator[str]:
    for graph in graphs(model):
        for value in (*graph.inputs, *graph.initializers.values()):
            yield value.name or ""
        for node in graph:
            yield node.name or ""
            yield from (output.name or "" for output in node.outputs)
