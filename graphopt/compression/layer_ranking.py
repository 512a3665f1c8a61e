"""Which blocks or sub-layers of a model are missed least, and the record of those that went."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from graphopt.compression.layer_removal import Candidate, without
from graphopt.compression.layer_scores import MEASURED_LAYER_SCORES, output_error, stream_scores
from graphopt.compression.unit_budget import Budget
from graphopt.rewrite import Editor, GroupDecision, Measure

__all__ = [
    "Chosen",
    "LayerOptions",
    "LayerRanking",
    "decision_of",
    "needs_layer_samples",
    "rank_layers",
    "wanted_layers",
]

Chosen = tuple[Candidate, str]
"""What goes, and why."""


@dataclass(frozen=True)
class LayerRanking:
    """What may go, what is missed least first; and the scores by name, in the order of the graph.

    Without scores it was named by the user.
    """

    order: list[Chosen]
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class LayerOptions:
    """What a pass that removes layers is told.

    Attributes:
        unit: ``blocks``, or ``sub-layers``.
        count: How many go, where `layers` names none and `ratio` is 0.
        ratio: Share of all that goes, rounded to the nearest number, at least one.
        layers: Names of those that go; the others stay.
        exclude: Patterns of names that stay.
        score: One of `graphopt.compression.layer_scores.LAYER_SCORES`.
        replacement: One of `graphopt.compression.stream_fit.REPLACEMENTS`.
        is_normalized: Normalizations behind sums stay.
        ridge: Of the fit.
        seed: Of random scores.
        budget: What the model may cost at most, or its outputs may be off by: that says how many
            go. ``None``: the others do.
    """

    unit: str
    count: int
    ratio: float
    layers: tuple[str, ...]
    exclude: tuple[str, ...]
    score: str
    replacement: str
    is_normalized: bool
    ridge: float
    seed: int
    budget: Budget | None = None


def needs_layer_samples(options: LayerOptions) -> bool:
    """Tell whether calibration samples are needed."""
    is_ranked = not options.layers and options.score in MEASURED_LAYER_SCORES
    is_bound = options.budget is not None and options.budget.of == "error"
    return is_ranked or is_bound or options.replacement != "off"


def wanted_layers(total: int, options: LayerOptions) -> int:
    """Return how many of so many shall go; see `LayerOptions`."""
    return max(1, round(total * options.ratio)) if options.ratio else options.count


def rank_layers(
    model: ir.Model,
    edit: Editor,
    measure: Measure | None,
    free: Sequence[Candidate],
    options: LayerOptions,
    *,
    wanted: int,
) -> LayerRanking:
    """Return what may go with why, what is missed least first; refuse what cannot be ranked.

    Args:
        model: The model with all of them.
        edit: Where refusals go.
        measure: Runs models on the samples; needed where `needs_layer_samples`.
        free: What may go.
        options: How they are ranked.
        wanted: How many shall go.
    """
    if options.layers:
        return LayerRanking([(one, "by name") for one in free])
    if options.score == "trial":
        assert measure is not None
        return _by_trial(model, edit, measure, free, options, wanted=wanted)
    if options.score == "random":
        scores = np.random.default_rng(options.seed).random(len(free)).tolist()
    else:
        assert measure is not None
        scores = stream_scores(model, measure, free, options.score)
    found = []
    for one, score in zip(free, scores, strict=True):
        if math.isfinite(score):
            found.append((score, one))
        else:
            why = f"{one.name}: the stream was empty, zero or not finite on the samples"
            edit.refuse(one.layers[0].node, "not-measured", why=why)
    known = {one.name: score for score, one in found}
    found.sort(key=lambda item: item[0])
    order = [
        (one, f"{options.score} {score:.3g}, rank {rank} of {len(found)}")
        for rank, (score, one) in enumerate(found, start=1)
    ]
    return LayerRanking(order, known)


def _by_trial(
    model: ir.Model,
    edit: Editor,
    measure: Measure,
    free: Sequence[Candidate],
    options: LayerOptions,
    *,
    wanted: int,
) -> LayerRanking:
    """Choose one after the other by what the outputs lose with those before it gone.

    The scores told are those of the first round, with each layer gone alone.
    """
    chosen: list[Chosen] = []
    alone: dict[str, float] = {}
    left = list(free)
    while left and len(chosen) < wanted:
        gone = [one for one, _ in chosen]
        errors = [
            output_error(
                measure,
                without(model, [*gone, one], is_normalized=options.is_normalized),
                model,
            )
            for one in left
        ]
        if not any(map(math.isfinite, errors)):
            for one in left:
                why = f"{one.name}: without it outputs are not finite on the samples, or not floats"
                edit.refuse(one.layers[0].node, "not-measured", why=why)
            break
        pairs = zip(left, errors, strict=True)
        alone = alone or {one.name: error for one, error in pairs if math.isfinite(error)}
        place = int(np.nanargmin(errors))
        chosen.append((left.pop(place), f"trial: outputs off by {errors[place]:.3g}"))
    return LayerRanking(chosen, alone)


def decision_of(
    pass_name: str, ranking: LayerRanking, gone: Sequence[Candidate], options: LayerOptions
) -> GroupDecision:
    """Return the record of what went; the caller knows where, and how well it was made up for."""
    names = list(ranking.scores) or [one.name for one in gone]
    removed = sorted(names.index(one.name) for one in gone)
    scores = tuple(ranking.scores.values())
    total = sum(scores)
    # Errors of outputs without one layer each do not add up; nor does chance.
    adds_up = total > 0.0 and options.score not in ("random", "trial")
    score = "by name" if options.layers else f"by {options.score}"
    return GroupDecision(
        pass_name=pass_name,
        group="the stream",
        kind="sub-layers" if any(one.name != one.block.name for one in gone) else "blocks",
        where="",
        score="" if options.layers else options.score,
        scores=scores,
        removed=tuple(removed),
        predicted=sum(scores[place] for place in removed) / total if adds_up else None,
        reason=score,
        names=tuple(names),
    )
