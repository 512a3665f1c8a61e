"""Units of one kind: the heads of a layer, its neurons, the channels of a block."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt.analysis.coupling.structure import Coupling
from graphopt.analysis.coupling.units import Factor, Pin
from graphopt.analysis.coupling.walk import Use, name_of
from graphopt.ir import constant_tensor

__all__ = ["Group", "Site", "find_groups"]


@dataclass(frozen=True)
class Site:
    """One axis of a weight, and the unit of each of its indices.

    Attributes:
        value: The weight.
        axis: Which of its axes.
        factor: Its indices.
    """

    value: ir.Value
    axis: int
    factor: Factor


@dataclass(frozen=True)
class Group:
    """Units that are like each other.

    Attributes:
        kind: ``heads``, ``neurons``, ``channels`` or ``width`` (of the residual stream).
        name: The node that computes them, the first in order.
        units: Their numbers, in the order of their indices.
        sites: The axes of weights that they lie on.
        contractions: Where sums run over them: what zeros there leave out is what removal does.
        producers: Where they are computed from weights of their own.
        attentions: Where products of activations are made for each of them apart.
        pin: Why none of them can be removed, or ``None``.
    """

    kind: str
    name: str
    units: tuple[int, ...]
    sites: tuple[Site, ...]
    contractions: tuple[Use, ...]
    producers: tuple[Use, ...]
    attentions: tuple[Use, ...]
    pin: Pin | None

    @property
    def weights(self) -> int:
        """How many numbers lie on the units, of all weights that have them along an axis.

        What has them along two axes counts twice.
        """
        tensors = [constant_tensor(site.value) for site in self.sites]
        return sum(tensor.size for tensor in tensors if tensor is not None)

    @property
    def node(self) -> ir.Node:
        """The node by which reports name the group: where it is summed over, if anywhere."""
        return (self.contractions or self.producers)[0].node


def find_groups(coupling: Coupling) -> tuple[Group, ...]:
    """Return the groups of units that layers compute, in the order of the graph."""
    families = _families(coupling)
    uses: dict[int, list[Use]] = defaultdict(list)
    for use in coupling.uses:
        units = coupling.units.of(use.factor).tolist()
        for family in {families[unit] for unit in units if unit in families}:
            uses[family].append(use)
    sites = _sites(coupling, families)
    members: dict[int, list[int]] = defaultdict(list)
    for unit, family in families.items():
        members[family].append(unit)
    found = []
    for family, its_uses in uses.items():
        roles = {use.role for use in its_uses}
        is_pinned = any(coupling.units.pin(unit) is not None for unit in members[family])
        if not sites.get(family) or "computes" not in roles:
            continue  # what the model takes
        if not roles & {"contracts", "batches"} and not is_pinned:
            continue  # nothing depends on it
        found.append(_group(coupling, sorted(members[family]), sites[family], its_uses))
    return tuple(found)


def _families(coupling: Coupling) -> dict[int, int]:
    """Return for each unit the least unit with which it shares a dimension of some weight.

    Sharing is followed through all dimensions: units of a dimension that is one of several joined
    ones belong to all of these.
    """
    parent: dict[int, int] = {}

    def root(unit: int) -> int:
        while parent.setdefault(unit, unit) != unit:
            parent[unit] = parent[parent[unit]]
            unit = parent[unit]
        return unit

    for layout in coupling.layouts.values():
        for axis in layout:
            for factor in axis:
                if factor.atoms is None or not len(factor.atoms):
                    continue
                units = np.unique(coupling.units.of(factor)).tolist()
                first = root(units[0])
                for unit in units[1:]:
                    other = root(unit)
                    low, high = min(first, other), max(first, other)
                    parent[high] = first = low
    return {unit: root(unit) for unit in list(parent)}


def _sites(coupling: Coupling, families: dict[int, int]) -> dict[int, list[Site]]:
    found: dict[int, list[Site]] = defaultdict(list)
    for value, layout in coupling.layouts.items():
        if constant_tensor(value) is None:
            continue
        for place, axis in enumerate(layout):
            for factor in axis:
                if factor.atoms is None:
                    continue
                for family in {families[unit] for unit in coupling.units.of(factor).tolist()}:
                    found[family].append(Site(value, place, factor))
    return found


def _group(
    coupling: Coupling, units: Sequence[int], sites: Sequence[Site], uses: Sequence[Use]
) -> Group:
    def chosen(role: str) -> tuple[Use, ...]:
        return tuple(use for use in uses if use.role == role)

    producers, contractions = chosen("computes"), chosen("contracts")
    normalized = chosen("normalizes")
    pins = [coupling.units.pin(unit) for unit in units]
    # A group of which a part can go is no pinned one.
    pin = next((pin for pin in pins if pin is not None), None) if all(pins) else None
    # Without an index the statistic is another number for all the others.
    if normalized and pin is None:
        where = normalized[0].node.name or normalized[0].node.op_type
        pin = Pin("normalized-over", "a statistic is taken over it", where)
    first = (producers or contractions)[0].node
    batches = chosen("batches")
    kind = _kind(batches, normalized, producers, contractions)
    name = name_of(first)
    return Group(kind, name, tuple(units), tuple(sites), contractions, producers, batches, pin)


def _kind(
    batches: Sequence[Use], normalized: Sequence[Use], producers: Sequence[Use], sums: Sequence[Use]
) -> str:
    if batches:
        return "heads"
    if normalized or not sums:
        return "width"
    convolutions = any(use.node.op_type.startswith("Conv") for use in (*producers, *sums))
    return "channels" if convolutions else "neurons"
