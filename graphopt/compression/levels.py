"""Nodes in the order in which they depend on one another, those that do not together."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import onnx_ir as ir

from graphopt.ir import subgraphs_of

__all__ = ["divided", "last_of_parts", "levels_of"]


def levels_of(graph: ir.Graph, chosen: Sequence[ir.Node]) -> list[list[ir.Node]]:
    """Return the chosen nodes in levels: each depends on nodes of the levels before it alone.

    Args:
        graph: In topological order.
        chosen: Nodes of it.
    """
    wanted = set(chosen)
    depth: dict[ir.Value, int] = {}
    levels: dict[int, list[ir.Node]] = {}
    for node in graph:
        read = list(node.inputs)
        for inner in subgraphs_of(node):  # what branches capture counts as read
            read += [value for one in inner for value in one.inputs]
        above = max((depth.get(value, 0) for value in read if value is not None), default=0)
        if node in wanted:
            levels.setdefault(above, []).append(node)
            above += 1
        for output in node.outputs:
            depth[output] = above
    return [levels[level] for level in sorted(levels)]


def divided(levels: Sequence[list[ir.Node]], most: int) -> list[list[ir.Node]]:
    """Merge neighbouring levels so that there are at most ``most``, of about equal numbers."""
    count = min(most, len(levels))
    bounds = [len(levels) * step // count for step in range(count + 1)] if count else [0]
    return [
        [node for level in levels[start:end] for node in level]
        for start, end in itertools.pairwise(bounds)
    ]


def last_of_parts(count: int, most: int) -> frozenset[int]:
    """Return the last number of each of at most ``most`` parts of ``range(count)``, about equal."""
    parts = min(most, count)
    return frozenset(count * (part + 1) // parts - 1 for part in range(parts))
