"""Nodes to visit in the order of execution, of which more turn up on the way."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence

import onnx_ir as ir

__all__ = ["Worklist"]


class Worklist:
    """Yields the nodes that were added, each once, those first that could run first.

    A node may be added while others are worked off; one that was yielded is yielded again then.

    Args:
        nodes: All nodes that may be added, in an order in which they could run.
    """

    def __init__(self, nodes: Sequence[ir.Node]) -> None:
        self._nodes = nodes
        self._places = {node: place for place, node in enumerate(nodes)}
        self._heap: list[int] = []
        self._waiting: set[int] = set()

    def add(self, node: ir.Node | None) -> None:
        """Take note of a node; others than those of the list are left out."""
        place = self._places.get(node)  # type: ignore[arg-type] # `None` is not in it
        if place is not None and place not in self._waiting:
            self._waiting.add(place)
            heapq.heappush(self._heap, place)

    def __iter__(self) -> Iterator[ir.Node]:
        while self._heap:
            place = heapq.heappop(self._heap)
            self._waiting.discard(place)
            yield self._nodes[place]
