"""What of a model stands or falls together, as a person sees it before anything is removed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from graphopt.analysis.coupling import Group
from graphopt.report.text_table import format_table

__all__ = ["StructureReport"]


@dataclass(frozen=True, kw_only=True)
class StructureReport:
    """The groups of units of a model.

    Attributes:
        groups: In the order of the graph.
    """

    groups: Sequence[Group]

    def to_dict(self) -> list[dict[str, Any]]:
        """Return the JSON form: one entry for each group."""
        return [
            {
                "name": group.name,
                "kind": group.kind,
                "units": len(group.units),
                "weights": sorted({site.value.name or "" for site in group.sites}),
                "pinned": None
                if group.pin is None
                else {"slug": group.pin.slug, "why": group.pin.why, "where": group.pin.where},
            }
            for group in self.groups
        ]

    def __str__(self) -> str:
        rows = [
            (
                group.kind,
                str(len(group.units)),
                str(len({site.value for site in group.sites})),
                group.name,
                "" if group.pin is None else f"stays: {group.pin.why} ({group.pin.where})",
            )
            for group in self.groups
        ]
        free = sum(group.pin is None for group in self.groups)
        title = f"{len(rows)} groups, {free} can lose units"
        return format_table(("kind", "units", "weights", title, ""), rows, right=(1, 2))
