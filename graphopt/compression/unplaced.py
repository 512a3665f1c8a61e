"""Naming what a pass that removes units cannot act on: nothing is passed over in silence."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from graphopt.analysis.coupling import Coupling, Group, find_attentions, find_loose_layers
from graphopt.rewrite import Editor

__all__ = ["refuse_unplaced"]


def refuse_unplaced(
    model: ir.Model, coupling: Coupling, groups: Sequence[Group], edit: Editor, kind: str
) -> None:
    """Refuse every attention without heads, or every layer whose outputs are no units.

    Args:
        model: The model.
        coupling: What it ties together.
        groups: Of all kinds; what belongs to one of them is refused there, if at all.
        edit: Takes the refusals.
        kind: ``heads``, ``neurons`` or ``channels``.
    """
    if kind == "heads":
        for site in find_attentions(model, coupling, groups):
            if site.group is None and site.pin is not None:
                edit.refuse(site.node, site.pin.slug, why=site.pin.why)
        return
    for layer in find_loose_layers(model, coupling, groups):
        if layer.kind == kind:
            edit.refuse(layer.node, layer.pin.slug, why=layer.pin.why)
