"""Removing units of one kind from a model: choosing, testing, cutting, making up for them."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis.coupling import Coupling, Group, couple, find_groups
from graphopt.compression.compensation import Affine, compensate, shifted_bias
from graphopt.compression.contractions import Contraction, contraction_of
from graphopt.compression.layer_bias import bias_of
from graphopt.compression.masking import surgery_fault
from graphopt.compression.quantized_weights import remove_unread
from graphopt.compression.surgery import Surgery, plan_surgery
from graphopt.compression.unit_scores import MEASURED_SCORES, unit_scores
from graphopt.errors import PassError
from graphopt.ir import clone
from graphopt.rewrite import ChannelMoments, Editor, Facts, Measure
from graphopt.runtime import generate_feed_sets

__all__ = ["COMPENSATIONS", "SCORE_NAMES", "PruningOptions", "needs_samples", "prune"]

SCORE_NAMES = ("random", "l1", "l2", "activation", "wanda", "flap")
COMPENSATIONS = ("off", "bias", "least-squares")


@dataclass(frozen=True)
class PruningOptions:
    """What a pass that removes units is told.

    Attributes:
        kind: ``heads``, ``neurons`` or ``channels``.
        ratio: Share of the units of each group that goes, in [0, 1).
        multiple: The number that stays is a multiple of this, rounded to the nearest one.
        score: One of `SCORE_NAMES`.
        compensation: One of `COMPENSATIONS`.
        ridge: Of least squares.
        exclude: Patterns of names of groups that stay.
        seed: Of random scores.
    """

    kind: str
    ratio: float
    multiple: int
    score: str
    compensation: str
    ridge: float
    exclude: tuple[str, ...]
    seed: int


@dataclass(frozen=True)
class _Choice:
    group: Group
    units: tuple[int, ...]
    layers: tuple[Contraction, ...]


def needs_samples(options: PruningOptions) -> bool:
    """Tell whether calibration samples are needed."""
    return options.score in MEASURED_SCORES or options.compensation != "off"


def prune(model: ir.Model, edit: Editor, facts: Facts, options: PruningOptions) -> None:
    """Remove units from every group of the kind, one rewrite for each group.

    Each group is tested first: what the cut model computes must be what the model computes with
    zeros in place of the units. Groups that fail are refused. Groups are cut in the order of the
    graph, and what stays is fitted to what the layer computed in the original model, on what
    enters it now.
    """
    coupling = couple(model, facts.shapes)
    choices = list(_choices(model, coupling, edit, facts, options))
    if not choices:
        return
    choices = _tested(model, choices, edit)
    chosen = [unit for choice in choices for unit in choice.units]
    fitting = None
    if options.compensation != "off" and facts.measure is not None:
        before = _before(choices, plan_surgery(coupling, chosen))
        fitting = _Fitting(model, clone(model), edit, facts.measure, options)
    for choice in choices:
        operands = _operands(model)
        count = f"{len(choice.units)} of {len(choice.group.units)} {options.kind}"
        with edit.rewrite(choice.group.node, because=f"{count} by {options.score}") as change:
            obstacle = plan_surgery(coupling, choice.units).apply(change)
            if obstacle is not None:  # the self-test did the same on a copy: half a cut is no cut
                raise PassError(f"a cut that was tested cannot be made: {obstacle.why}")
        remove_unread(model, edit, operands, because="shapes that nobody asks for any more")
    if fitting is not None:  # after all cuts: what a layer computes may have lost units as well
        for layer, full in before.items():
            fitting.fit(layer, full)


def _before(choices: Iterable[_Choice], surgery: Surgery) -> dict[Contraction, Affine]:
    """Return what layers compute before anything is cut, of those outputs that will stay."""
    found = {}
    for choice in choices:
        for layer in choice.layers:
            whole = _affine(layer)
            kept = surgery.masks(layer.weight).get(layer.output_axis, slice(None))
            found[layer] = Affine(whole.matrix[:, kept], whole.bias[kept])
    return found


def _operands(model: ir.Model) -> list[ir.Value]:
    """Return what operators read beside their data: shapes, sizes and bounds among it."""
    return [value for node in model.graph for value in node.inputs[1:] if value is not None]


def _choices(
    model: ir.Model, coupling: Coupling, edit: Editor, facts: Facts, options: PruningOptions
) -> Iterable[_Choice]:
    """Yield what to remove from each group of the kind; refuse groups that have to stay."""
    kinds = {options.kind, "width"} if options.kind == "neurons" else {options.kind}
    groups = [group for group in find_groups(coupling) if group.kind in kinds]  # to refuse, too
    layers = {group: _layers(group) for group in groups}
    scoring = _Scoring(coupling, options, _moments(model, facts.measure, layers.values(), options))
    for number, group in enumerate(groups):
        free = {unit for unit in group.units if coupling.units.pin(unit) is None}
        kept = _kept_count(len(group.units), options)
        removed = min(len(group.units) - kept, len(free))
        why = _obstacle(group, layers[group], options, removed)
        if why is None and not scoring.can_score(layers[group]):
            why = "not-measured", "what enters its layers was empty or not finite on the samples"
        if why is not None:
            edit.refuse(group.node, *why[:1], why=why[1])
            continue
        scores = scoring.scores(group, layers[group], number)
        order = np.argsort(scores, kind="stable").tolist()
        chosen = [group.units[place] for place in order if group.units[place] in free]
        yield _Choice(group, tuple(sorted(chosen[:removed])), layers[group])


def _obstacle(
    group: Group, layers: Sequence[Contraction], options: PruningOptions, removed: int
) -> tuple[str, str] | None:
    """Return why nothing is removed from a group: a slug, and a sentence."""
    if any(fnmatch.fnmatchcase(group.name, pattern) for pattern in options.exclude):
        return "excluded", f"`{group.name}` matches `exclude`"
    if group.pin is not None:
        return group.pin.slug, f"{group.pin.why} ({group.pin.where})"
    if removed <= 0:
        return "nothing-to-remove", f"all of its {len(group.units)} stay"
    if options.score != "random" and not layers:
        return "no-weights", "no constant weight sums over it"
    return None


def _kept_count(count: int, options: PruningOptions) -> int:
    """Return how many units stay: the nearest multiple to what the ratio leaves, at least one."""
    exact = count * (1.0 - options.ratio)
    step = options.multiple if count >= options.multiple else 1
    return min(count, max(step, round(exact / step) * step))


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
    if options.score not in MEASURED_SCORES or measure is None:
        return {}
    return measure.moments(model, [layer.channels() for some in layers for layer in some])


@dataclass(frozen=True)
class _Scoring:
    """Scores the units of groups."""

    coupling: Coupling
    options: PruningOptions
    moments: Mapping[Any, ChannelMoments]

    def can_score(self, layers: Sequence[Contraction]) -> bool:
        """Tell whether what enters layers was measured, where scores need it."""
        if self.options.score not in MEASURED_SCORES:
            return True
        found = [self.moments.get(layer.channels()) for layer in layers]
        return all(moments is not None and moments.is_finite for moments in found)

    def scores(
        self, group: Group, layers: Sequence[Contraction], number: int
    ) -> npt.NDArray[np.float64]:
        """Return one score for each unit of a group, the ``number``-th one."""
        if self.options.score == "random":
            return np.random.default_rng((self.options.seed, number)).random(len(group.units))
        places = {unit: place for place, unit in enumerate(group.units)}
        members = []
        for layer in layers:
            units = self.coupling.units.of(layer.use.factor).tolist()
            members.append(np.array([places[unit] for unit in units]))
        inputs = [(layer, self.moments.get(layer.channels())) for layer in layers]
        return unit_scores(self.options.score, inputs, members)


def _tested(model: ir.Model, choices: Sequence[_Choice], edit: Editor) -> list[_Choice]:
    """Return the choices whose surgery computes what zeros compute; refuse the others."""
    feeds = generate_feed_sets(model, count=2)
    if surgery_fault(model, [choice.units for choice in choices], feeds) is None:
        return list(choices)
    found = []
    for choice in choices:
        fault = surgery_fault(model, [choice.units], feeds)
        if fault is None:
            found.append(choice)
        else:
            edit.refuse(choice.group.node, "self-test-failed", why=fault)
    if found and (fault := surgery_fault(model, [choice.units for choice in found], feeds)):
        for choice in found:
            edit.refuse(choice.group.node, "self-test-failed", why=fault)
        return []
    return found


# -- making up for what went -------------------------------------------------------------------


def _affine(layer: Contraction) -> Affine:
    matrix = layer.matrix()
    return Affine(matrix, bias_of(layer.node, matrix.shape[1]).values)


@dataclass(frozen=True)
class _Fitting:
    """Fits layers of a model that is cut to what they computed in the original one."""

    model: ir.Model
    original: ir.Model
    edit: Editor
    measure: Measure
    options: PruningOptions

    def fit(self, layer: Contraction, full: Affine) -> None:
        """Give a layer other weights, or say why not."""
        kept = _affine(layer)
        if kept.matrix.shape == full.matrix.shape or kept.matrix.shape[1] != full.matrix.shape[1]:
            return  # not all rewrites were carried out
        if len(layer.weight.uses()) > 1:
            self.edit.refuse(layer.node, "shared-weight", why="others read the weight, too")
            return
        is_full = self.options.compensation == "least-squares"
        asked = layer.entering()
        pairs = [(asked, asked)]
        moments = self.measure.cross(self.model, self.original, pairs, products=is_full)[0]
        if moments is None or not moments.first.is_finite or not moments.second.is_finite:
            self.edit.refuse(layer.node, "not-measured", why="what enters it is not finite")
            return
        found = (
            compensate(kept, full, moments, self.options.ridge)
            if is_full
            else shifted_bias(kept, full, moments)
        )
        if not (np.isfinite(found.matrix).all() and np.isfinite(found.bias).all()):
            self.edit.refuse(layer.node, "not-measured", why="the fit has no finite solution")
            return
        bias = bias_of(layer.node, found.matrix.shape[1])
        unread = [layer.weight, *filter(None, [bias.value])]
        because = f"{self.options.compensation} on what stays"
        with self.edit.rewrite(layer.node, because=because) as change:
            if is_full:
                name = f"{layer.weight.name}_fitted"
                weight = change.initializer(layer.stored(found.matrix), name=name)
                change.set_input(layer.node, layer.use.operand, weight)
            bias.put(change, found.bias, kept.matrix.dtype)
        remove_unread(self.model, self.edit, unread, because="weights before they were fitted")
