"""The groups of a model that may lose units, and how much each unit would be missed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis.coupling import Coupling, Group, find_groups
from graphopt.compression.contractions import Contraction, contraction_of
from graphopt.compression.layer_covariances import Covariances
from graphopt.compression.obs import ObsLayer, removal_scores
from graphopt.compression.pruning_options import PruningOptions
from graphopt.compression.unit_scores import MOMENT_SCORES, unit_scores
from graphopt.compression.unit_selection import Ranking
from graphopt.compression.unplaced import refuse_unplaced
from graphopt.rewrite import ChannelMoments, Editor, Facts, Measure
from graphopt.training import UnitGradient, unit_gradients

__all__ = ["RankedGroup", "rank_groups"]

_PORTS = frozenset({"model-input", "model-output"})


@dataclass(frozen=True)
class RankedGroup:
    """A group that may lose units.

    Attributes:
        group: The group.
        layers: Those that sum over it by constant weights.
        ranking: How much each unit would be missed.
    """

    group: Group
    layers: tuple[Contraction, ...]
    ranking: Ranking


def rank_groups(
    model: ir.Model, coupling: Coupling, edit: Editor, facts: Facts, options: PruningOptions
) -> Iterable[RankedGroup]:
    """Yield the groups of the kind that may lose units; refuse those that have to stay."""
    every = find_groups(coupling)
    refuse_unplaced(model, coupling, every, edit, options.kind)
    groups = [group for group in every if options.kind in (group.kind, _would_be(group))]
    pinned = {group.name for group in groups if group.pin is not None}
    options.selection.check({group.name: len(group.units) for group in groups}, pinned)
    layers = {group: _layers(group) for group in groups}
    if options.rankings:
        yield from _ranked_before(groups, layers, options)
        return
    moments = _moments(model, facts.measure, layers.values(), options)
    covariances = None
    if options.score == "obs" and facts.measure is not None:
        covariances = Covariances(model, facts.measure, list(layers.values()))
    gradients: Mapping[int, UnitGradient] = {}
    if options.score == "gradient" and facts.measure is not None:
        free_groups = [
            group for group in groups if _obstacle(group, layers[group], options) is None
        ]
        gradients = _gradients(model, coupling, free_groups, facts.measure, options)
    scoring = _Scoring(coupling, options, moments, covariances, gradients)
    for number, group in enumerate(groups):
        why = _obstacle(group, layers[group], options)
        if why is None and not scoring.can_score(layers[group]):
            why = "not-measured", "what enters its layers was empty or not finite on the samples"
        if why is not None:
            edit.refuse(group.node, *why[:1], why=why[1])
            continue
        free = np.array([coupling.units.pin(unit) is None for unit in group.units])
        scores = scoring.scores(group, layers[group], number)
        if scores is None:
            edit.refuse(group.node, "not-measured", why="what enters a layer is not finite")
            continue
        yield RankedGroup(group, layers[group], Ranking(group.name, scores, free))


def _ranked_before(
    groups: Sequence[Group],
    layers: Mapping[Group, tuple[Contraction, ...]],
    options: PruningOptions,
) -> Iterable[RankedGroup]:
    """Yield the groups that were ranked in another copy of the model, as they were ranked."""
    for group in groups:
        ranking = options.rankings.get(group.name)
        if ranking is not None and _obstacle(group, layers[group], options) is None:
            yield RankedGroup(group, layers[group], ranking)


def _would_be(group: Group) -> str:
    """Return what a width would be called if it could go, so that the pass for that refuses it."""
    if group.kind != "width":
        return group.kind
    is_conv = any(use.node.op_type.startswith("Conv") for use in group.producers)
    return "channels" if is_conv else "neurons"


def _obstacle(
    group: Group, layers: Sequence[Contraction], options: PruningOptions
) -> tuple[str, str] | None:
    """Return why nothing is removed from a group: a slug, and a sentence."""
    if (why := options.selection.exclusion(group.name)) is not None:
        return "excluded", why
    if group.pin is not None:
        is_port = options.kind == "heads" and group.pin.slug in _PORTS
        hint = "; `caches=true` cuts caches as well" if is_port else ""
        return group.pin.slug, f"{group.pin.why} ({group.pin.where}){hint}"
    if options.score != "random" and not layers:
        return "no-weights", "no constant weight sums over it"
    return None


def _layers(group: Group) -> tuple[Contraction, ...]:
    found = {}
    for use in group.contractions:
        layer = contraction_of(use)
        if layer is not None:
            found[layer.node] = layer
    return tuple(found.values())


def _moments(
    model: ir.Model,
    measure: Measure | None,
    layers: Iterable[tuple[Contraction, ...]],
    options: PruningOptions,
) -> Mapping[Any, ChannelMoments]:
    if options.score not in MOMENT_SCORES or measure is None:
        return {}
    return measure.moments(model, [layer.channels() for some in layers for layer in some])


def _gradients(
    model: ir.Model,
    coupling: Coupling,
    groups: Sequence[Group],
    measure: Measure,
    options: PruningOptions,
) -> dict[int, UnitGradient]:
    """Return how the outputs depend on the mask of each unit of groups that may lose some."""
    if not groups:
        return {}
    return unit_gradients(model, coupling.units, groups, measure.feeds(), seed=options.seed)


@dataclass(frozen=True)
class _Scoring:
    """Scores the units of groups."""

    coupling: Coupling
    options: PruningOptions
    moments: Mapping[Any, ChannelMoments]
    covariances: Covariances | None
    gradients: Mapping[int, UnitGradient]

    def can_score(self, layers: Sequence[Contraction]) -> bool:
        """Tell whether what enters layers was measured, where scores need it."""
        if self.options.score not in MOMENT_SCORES:
            return True
        found = [self.moments.get(layer.channels()) for layer in layers]
        return all(moments is not None and moments.is_finite for moments in found)

    def scores(
        self, group: Group, layers: Sequence[Contraction], number: int
    ) -> npt.NDArray[np.float64] | None:
        """Return one score for each unit of a group, the ``number``-th one; ``None``: not found."""
        if self.options.score == "random":
            return np.random.default_rng((self.options.seed, number)).random(len(group.units))
        if self.options.score == "gradient":
            return np.array([self.gradients[unit].fisher for unit in group.units])
        places = {unit: place for place, unit in enumerate(group.units)}
        members = []
        for layer in layers:
            units = self.coupling.units.of(layer.use.factor).tolist()
            members.append(np.array([places[unit] for unit in units]))
        if self.covariances is not None:
            return self._removal_scores(layers, members, len(group.units))
        inputs = [(layer, self.moments.get(layer.channels())) for layer in layers]
        return unit_scores(self.options.score, inputs, members)

    def _removal_scores(
        self, layers: Sequence[Contraction], members: Sequence[npt.NDArray[Any]], count: int
    ) -> npt.NDArray[np.float64] | None:
        """Return the order in which units go, if what stays makes up for each that went."""
        assert self.covariances is not None
        found = self.covariances.of(layers)
        if found is None:
            return None
        trios = zip(layers, members, found, strict=True)
        states = [
            ObsLayer(covariance, layer.matrix(), np.repeat(units, layer.kernel))
            for layer, units, covariance in trios
        ]
        return removal_scores(states, count, self.options.most_removed(count))
