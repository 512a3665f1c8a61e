"""What of a model stands or falls together, as a person sees it before anything is removed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from graphopt.analysis.coupling import AttentionSite, Group, LooseLayer, Pin
from graphopt.report.text_table import format_table

__all__ = ["StructureReport"]

_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class StructureReport:
    """The groups of units of a model, and what could have been one and is none.

    Attributes:
        groups: In the order of the graph.
        attentions: Every attention; those of no group are told apart.
        layers: Layers whose outputs are no units.
        shared: Names of weights that tie layers only because they are stored once.
    """

    groups: Sequence[Group]
    attentions: Sequence[AttentionSite] = ()
    layers: Sequence[LooseLayer] = ()
    shared: Sequence[str] = ()

    def to_dict(self) -> list[dict[str, Any]]:
        """Return the JSON form: one entry for each group; what is none has 0 units."""
        groups = [
            {
                "name": group.name,
                "kind": group.kind,
                "units": len(group.units),
                "weights": sorted({site.value.name or "" for site in group.sites}),
                "pinned": None if group.pin is None else group.pin._asdict(),
            }
            for group in self.groups
        ]
        return groups + [
            {"name": pin.where, "kind": kind, "units": 0, "weights": [], "pinned": pin._asdict()}
            for kind, pin in self._unplaced()
        ]

    def _unplaced(self) -> list[tuple[str, Pin]]:
        """Return what could have been units and is not, with the reason."""
        heads = [("heads", site.pin) for site in self.attentions if site.group is None and site.pin]
        return heads + [(layer.kind, layer.pin) for layer in self.layers]

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
        rows += [(kind, "0", "", pin.where, f"stays: {pin.why}") for kind, pin in self._unplaced()]
        free = sum(group.pin is None for group in self.groups)
        title = f"{len(self.groups)} groups, {free} can lose units"
        lines = [format_table(("kind", "units", "weights", title, ""), rows, right=(1, 2))]
        if self.attentions:
            count = sum(site.pin is None for site in self.attentions)
            lines.append(f"{len(self.attentions)} attentions, {count} can lose heads")
        if self.shared:
            names = ", ".join(f"`{name}`" for name in self.shared[:_NAMED])
            more = f" and {len(self.shared) - _NAMED} more" if len(self.shared) > _NAMED else ""
            lines.append(f"{names}{more} tie layers that `unshare-weights` would let part")
        return "\n\n".join(lines)
