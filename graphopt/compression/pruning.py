"""Removing units of one kind from a model: choosing, testing, cutting, making up for them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import onnx_ir as ir

from graphopt.analysis import infer_shapes
from graphopt.analysis.coupling import Coupling, Group, couple
from graphopt.compression.contractions import Contraction
from graphopt.compression.layer_fitting import Fitting, plan_lessons
from graphopt.compression.layer_scores import output_error
from graphopt.compression.masking import judge_surgery, surgery_fault
from graphopt.compression.pruning_options import PruningOptions
from graphopt.compression.quantized_weights import remove_unread
from graphopt.compression.score_comparison import other_scores
from graphopt.compression.surgery import plan_surgery
from graphopt.compression.unit_allocation import Loss
from graphopt.compression.unit_budget import share_left, within_budget
from graphopt.compression.unit_ranking import RankedGroup, rank_groups
from graphopt.compression.unit_selection import Ranking, Selection
from graphopt.errors import PassError
from graphopt.ir import clone
from graphopt.rewrite import Editor, Facts, GroupDecision, Held, Journal, LayerFit, describe
from graphopt.runtime import generate_feed_sets

__all__ = ["prune"]

_CURVE = (0.25, 0.5, 0.75)


@dataclass(frozen=True, eq=False)
class _Choice:
    group: Group
    units: tuple[int, ...]
    layers: tuple[Contraction, ...]
    ranking: Ranking
    places: tuple[int, ...]
    where: str


def prune(model: ir.Model, edit: Editor, facts: Facts, options: PruningOptions) -> None:
    """Remove units from every group of the kind, one rewrite for each group.

    Each group is tested first: what the cut model computes must be what the model computes with
    zeros in place of the units. Groups that fail are refused. Groups are cut in the order of the
    graph, and what stays is fitted to what the layer computed in the original model, on what
    enters it now.
    """
    coupling = couple(model, facts.shapes, caches=options.caches)
    ranked = list(rank_groups(model, coupling, edit, facts, options))
    trials = _Trials(model, facts, _known(ranked, options))
    curves = {one.group.name: trials.curve(one, options) for one in ranked}
    options = _with_losses(options, ranked, curves)
    selection = _selection(trials, ranked, edit, options)
    trials.close()
    if selection is None:
        return
    choices = _tested(model, list(_choices(ranked, selection, coupling, edit)), edit, options)
    if not choices:
        return
    others = other_scores(model, coupling, facts, options)
    lessons = None
    if options.compensation != "off" and facts.measure is not None:
        layers = [layer for choice in choices for layer in choice.layers]
        chosen = [unit for choice in choices for unit in choice.units]
        lessons = plan_lessons(model, facts, coupling, plan_surgery(coupling, chosen), layers)
    reason = selection.reason(options.score)
    for choice in choices:
        _cut(model, choice, coupling, edit, f"{options.kind} {reason}")
    fits: Mapping[Contraction, LayerFit] = {}
    if lessons is not None and facts.measure is not None:
        # After all cuts: what a layer computes may have lost units as well.
        fits = Fitting(model, edit, facts.measure, options).fit_all(lessons)
    edit.journal.decisions += [
        replace(
            _decision(choice, edit.pass_name, options, reason, fits),
            curve=curves[choice.group.name],
            others=others.get(choice.group.name, ()),
        )
        for choice in choices
    ]


def _cut(model: ir.Model, choice: _Choice, coupling: Coupling, edit: Editor, because: str) -> None:
    """Remove the units of one group, and what nobody reads then."""
    operands = [value for node in model.graph for value in node.inputs[1:] if value is not None]
    count = f"{len(choice.units)} of {len(choice.group.units)}"
    with edit.rewrite(choice.group.node, because=f"{count} {because}") as change:
        obstacle = plan_surgery(coupling, choice.units).apply(change)
        if obstacle is not None:  # the self-test did the same on a copy: half a cut is no cut
            raise PassError(f"a cut that was tested cannot be made: {obstacle.why}")
    remove_unread(model, edit, operands, because="shapes that nobody asks for any more")


def _decision(
    choice: _Choice,
    pass_name: str,
    options: PruningOptions,
    reason: str,
    fits: Mapping[Contraction, LayerFit],
) -> GroupDecision:
    """Return the record of one group that was cut."""
    scores = choice.ranking.scores
    total = float(scores.sum())
    adds_up = options.score != "random" and total > 0.0
    return GroupDecision(
        pass_name=pass_name,
        group=choice.group.name,
        kind=options.kind,
        where=choice.where,
        score=options.score,
        scores=tuple(scores.tolist()),
        removed=choice.places,
        predicted=float(scores[list(choice.places)].sum()) / total if adds_up else None,
        reason=reason,
        fits=tuple(fits[layer] for layer in choice.layers if layer in fits),
    )


def _known(ranked: Sequence[RankedGroup], options: PruningOptions) -> Mapping[str, Ranking]:
    """Return rankings that serve trials too: not where only those that go were put in order."""
    if any(options.most_removed(size) < size for size in (len(one.group.units) for one in ranked)):
        return {}
    return {one.group.name: one.ranking for one in ranked}


def _selection(
    trials: _Trials, ranked: Sequence[RankedGroup], edit: Editor, options: PruningOptions
) -> Selection | None:
    """Return what is to go; refuse all where the budget cannot be met."""
    budget = options.budget
    if budget is None or not ranked:
        return options.selection
    feed = budget.feed(trials.model, trials.facts.measure)

    known: dict[tuple[tuple[int, ...], ...], float] = {}

    def cost(ratio: float) -> float:
        tried = replace(options.selection, ratio=ratio)
        places = tuple(tried.removals([one.ranking for one in ranked]))
        if places not in known:  # widths are rounded: ratios near each other cut the same
            known[places] = cost_of(tried, places)
        return known[places]

    def cost_of(tried: Selection, places: Sequence[tuple[int, ...]]) -> float:
        if budget.of == "error":
            return trials.error(replace(options, selection=tried, budget=None, curves=False))[0]
        cuts = [_units(one, some) for one, some in zip(ranked, places, strict=True) if some]
        return share_left(trials.model, cuts, budget.of, feed)

    ratio, tried = within_budget(budget, cost)
    if ratio is not None:
        edit.note(f"ratio {ratio:.3g} keeps {budget.of} within {budget.limit:g}{budget.clocked}")
        return replace(options.selection, ratio=ratio)
    nearest = min((found for _, found in tried if not math.isnan(found)), default=math.nan)
    for one in ranked:
        why = f"{budget.of} of {nearest:.3g} at best, and at most {budget.limit:g} is asked for"
        edit.refuse(one.group.node, "out-of-reach", why=why)
    return None


@dataclass
class _Trials:
    """Prunes copies of a model, and compares what they return with what it returns.

    Attributes:
        model: The model, which stays as it is meanwhile.
        facts: What passes are told.
        rankings: Of units, as far as they serve for any number of them.
    """

    model: ir.Model
    facts: Facts
    rankings: Mapping[str, Ranking]

    @cached_property
    def _outputs(self) -> Held | None:
        """What the model returns, computed once."""
        outputs = [value for value in self.model.graph.outputs if value.producer() is not None]
        names = list(dict.fromkeys(value.name or "" for value in outputs))
        assert self.facts.measure is not None
        return self.facts.measure.hold(self.model, names) if names else None

    def error(self, options: PruningOptions, *, is_alone: bool = False) -> tuple[float, bool]:
        """Return what the outputs of a pruned copy are off by, and whether it lost any units.

        Args:
            options: What goes.
            is_alone: Fit what this cuts alone, to the model as it is: what earlier passes cut is
                none of its loss, and is not fitted again in each of many trials.
        """
        measure = self.facts.measure
        assert measure is not None
        copy = clone(self.model)
        editor = Editor(copy, pass_name="trial", journal=Journal())  # noqa: S106 - no secret
        original = None if is_alone else self.facts.original
        facts = replace(self.facts, shapes=infer_shapes(copy), original=original)
        prune(copy, editor, facts, replace(options, rankings=self.rankings, compare=()))
        error = math.sqrt(output_error(measure, copy, self.model, self._outputs))
        return error, bool(editor.journal.decisions)

    def curve(
        self, one: RankedGroup, options: PruningOptions
    ) -> tuple[tuple[float, float | None], ...]:
        """Return what outputs are off by with one group alone cut; empty where nobody asked."""
        selection = options.selection
        is_wanted = selection.allocation == "measured" and not selection.losses
        found: list[tuple[float, float | None]] = []
        for ratio in _CURVE if options.curves or is_wanted else ():
            # By name, not by pattern: brackets are not rare in names.
            alone = replace(selection, ratio=ratio, count=None, units=(), allocation="uniform")
            alone = replace(alone, groups=(one.group.name,), exclude=())
            tried = replace(options, selection=alone, budget=None, curves=False)
            error, is_cut = self.error(tried, is_alone=True)
            # Nothing may be cut because a test failed, which is no error of zero.
            is_told = math.isfinite(error) and (is_cut or not alone.alone(one.ranking, ratio))
            found.append((ratio, error if is_told else None))
        return tuple(found)

    def close(self) -> None:
        """Give back the room that outputs take."""
        held = self.__dict__.pop("_outputs", None)
        if held is not None:
            held.close()


def _with_losses(
    options: PruningOptions,
    ranked: Sequence[RankedGroup],
    curves: Mapping[str, Sequence[tuple[float, float | None]]],
) -> PruningOptions:
    """Return options that know what the outputs lose with each group, where that shares them out.

    What lies on a unit is counted in weights: what a layer has of one input or output.
    """
    if options.selection.allocation != "measured" or options.selection.losses:
        return options
    losses = {}
    for one in ranked:
        points = tuple(
            (options.selection.alone(one.ranking, ratio), math.nan if e is None else e**2)
            for ratio, e in curves[one.group.name]
        )
        losses[one.group.name] = Loss(one.group.weights / len(one.group.units), points)
    return replace(options, selection=replace(options.selection, losses=losses))


def _units(one: RankedGroup, places: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted(one.group.units[place] for place in places))


def _choices(
    ranked: Sequence[RankedGroup], selection: Selection, coupling: Coupling, edit: Editor
) -> Iterable[_Choice]:
    """Yield what to remove from each group; refuse those that lose nothing."""
    removals = selection.removals([one.ranking for one in ranked])
    for one, places in zip(ranked, removals, strict=True):
        group = one.group
        for place in selection.asked(group.name):
            pin = coupling.units.pin(group.units[place])
            if pin is not None:
                edit.refuse(group.node, pin.slug, why=f"unit {place}: {pin.why} ({pin.where})")
        if places:
            yield _Choice(
                group, _units(one, places), one.layers, one.ranking, places, describe(group.node)
            )
        else:
            why = f"all of its {len(group.units)} stay"
            edit.refuse(group.node, "nothing-to-remove", why=why)


def _tested(
    model: ir.Model, choices: Sequence[_Choice], edit: Editor, options: PruningOptions
) -> list[_Choice]:
    """Return the choices whose surgery computes what zeros compute; refuse the others."""
    if not choices:
        return []
    feeds, caches = generate_feed_sets(model, count=2), options.caches
    test = judge_surgery(model, [choice.units for choice in choices], feeds, caches=caches)
    if test.fault is None:
        edit.note(f"the self-test found differences of {test.error:.2g} of the largest element")
        return list(choices)
    found = []
    for choice in choices:
        fault = surgery_fault(model, [choice.units], feeds, caches=caches)
        if fault is None:
            found.append(choice)
        else:
            edit.refuse(choice.group.node, "self-test-failed", why=fault)
    cuts = [choice.units for choice in found]
    if found and (fault := surgery_fault(model, cuts, feeds, caches=caches)):
        for choice in found:
            edit.refuse(choice.group.node, "self-test-failed", why=fault)
        return []
    return found
