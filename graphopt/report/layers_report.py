"""The blocks of a model and their sub-layers, as a person sees them before any is removed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from graphopt.analysis.blocks import Block
from graphopt.report.text_table import format_table

__all__ = ["LayersReport"]


@dataclass(frozen=True, kw_only=True)
class LayersReport:
    """The blocks of a model.

    Attributes:
        blocks: Stream by stream, in order.
    """

    blocks: Sequence[Block]

    def to_dict(self) -> list[dict[str, Any]]:
        """Return the JSON form: one entry for each block."""
        return [
            {
                "name": block.name,
                "stream": block.stream,
                "is_normalized_after": block.leave is not block.layers[-1].exit,
                "layers": [
                    {
                        "name": name,
                        "kind": block.layers[place].kind,
                        "node": block.layers[place].node.name or "",
                        "nodes": len(block.layers[place].nodes),
                    }
                    for name, place in block.parts()
                ],
            }
            for block in self.blocks
        ]

    def __str__(self) -> str:
        rows = [
            (
                block.name,
                str(block.stream),
                str(sum(len(layer.nodes) for layer in block.layers)),
                ", ".join(layer.kind for layer in block.layers),
                block.layers[-1].node.name or "",
            )
            for block in self.blocks
        ]
        if not rows:
            return "no blocks: nothing is added to a stream in the main graph"
        streams = len({block.stream for block in self.blocks})
        title = f"{len(rows)} blocks on {streams} stream{'s' if streams > 1 else ''}"
        return format_table(("name", "stream", "nodes", title, "ends at"), rows, right=(1, 2))
