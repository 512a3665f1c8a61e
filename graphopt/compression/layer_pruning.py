"""Removing whole blocks or sub-layers from a model: choosing, testing, cutting, standing in."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx_ir as ir

from graphopt.analysis import infer_shapes
from graphopt.analysis.blocks import Block, find_blocks
from graphopt.analysis.symbolic_table import SymbolicTable
from graphopt.compression.layer_budget import layers_within, nearest_cost
from graphopt.compression.layer_ranking import (
    Chosen,
    LayerOptions,
    decision_of,
    rank_layers,
    wanted_layers,
)
from graphopt.compression.layer_removal import (
    Candidate,
    candidates,
    channel_axis,
    cut,
    ends_of,
    obstacle,
    removal_fault,
)
from graphopt.compression.layer_scores import output_error
from graphopt.compression.quantized_weights import remove_unread
from graphopt.compression.stream_fit import (
    emit_affine,
    fit_stream,
    is_full,
    stream_errors,
)
from graphopt.compression.unit_budget import share_of
from graphopt.errors import OptionError
from graphopt.ir import clone
from graphopt.rewrite import (
    Channels,
    Editor,
    Facts,
    Journal,
    LayerFit,
    Measure,
    ShapeTable,
    describe,
)
from graphopt.runtime import generate_feed_sets, generate_feeds

__all__ = ["prune_layers"]

_FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16})


def prune_layers(model: ir.Model, edit: Editor, facts: Facts, options: LayerOptions) -> None:
    """Remove what is missed least, or what was named; refuse the rest that cannot go.

    Before anything is changed, a copy without is compared with a copy in which zeros are added.

    Raises:
        OptionError: A name in `LayerOptions.layers` is no block or sub-layer of the model.
    """
    blocks = find_blocks(model.graph)
    if not blocks:
        edit.refuse(model.graph, "no-layers", why="nothing is added to a stream in the main graph")
        return
    shapes = SymbolicTable(model, facts.shapes)
    free, total = _removable(blocks, edit, shapes, options)
    if not free:  # each was refused
        return
    asked = len(free) if options.layers else wanted_layers(total, options)
    wanted = min(len(free) if options.budget else asked, total - 1)
    if wanted < asked:
        why = f"{asked} shall go, and one of the {total} has to stay: name them in `layers` instead"
        edit.refuse(blocks[0].layers[0].node, "last-layer", why=why)
    ranking = rank_layers(model, edit, facts.measure, free, options, wanted=wanted)
    chosen = ranking.order[:wanted]
    if options.budget is not None:
        chosen = _affordable(model, edit, facts, options, chosen)
    chosen = _tested(model, chosen, edit, options)
    if not chosen:
        return
    where = describe(chosen[0][0].layers[0].node)
    fits = _Removal(model, edit, shapes, options, facts.measure).run(blocks, chosen)
    decision = decision_of(edit.pass_name, ranking, [one for one, _ in chosen], options)
    edit.journal.decisions.append(replace(decision, where=where, fits=tuple(fits)))


def _affordable(
    model: ir.Model,
    edit: Editor,
    facts: Facts,
    options: LayerOptions,
    order: list[Chosen],
) -> list[Chosen]:
    """Return what goes first of an order, as much as the budget says; refuse all where none may."""
    budget = options.budget
    assert budget is not None
    feed = budget.feed(model, facts.measure)

    def cost(count: int) -> float:
        copy = clone(model)
        editor = Editor(copy, pass_name="trial", journal=Journal())  # noqa: S106 - no secret
        names = tuple(one.name for one, _ in order[:count])
        tried = replace(options, budget=None, layers=names)
        prune_layers(copy, editor, replace(facts, shapes=infer_shapes(copy)), tried)
        if budget.of != "error":
            return share_of(model, copy, budget.of, feed)
        assert facts.measure is not None
        return math.sqrt(output_error(facts.measure, copy, model))

    found = layers_within(budget, len(order), cost)
    if found.gone:
        edit.note(f"{found.gone} gone keep {budget.of} within {budget.limit:g}{budget.clocked}")
    elif order:
        node, nearest = order[0][0].layers[0].node, nearest_cost(found)
        why = f"{budget.of} of {nearest:.3g} at best, and at most {budget.limit:g} is asked for"
        edit.refuse(node, "out-of-reach", why=why)
    return order[: found.gone]


def _removable(
    blocks: Sequence[Block], edit: Editor, shapes: ShapeTable, options: LayerOptions
) -> tuple[list[Candidate], int]:
    """Return what may go, and how many there are in all; refuse what has to stay."""
    if options.layers:
        offered = _named(blocks, options.layers)
        total = sum(len(block.layers) for block in blocks) + 1  # whoever names all means all
    else:
        offered = candidates(blocks, is_by_part=options.unit == "sub-layers")
        total = len(offered)
    found = []
    for one in offered:
        if any(fnmatch.fnmatchcase(one.name, pattern) for pattern in options.exclude):
            edit.refuse(one.layers[0].node, "excluded", why=f"`{one.name}` matches `exclude`")
            continue
        why = obstacle(one, shapes)
        if why is not None:
            edit.refuse(one.layers[0].node, why[0], why=f"{one.name}: {why[1]}")
            continue
        found.append(one)
    return found, total


def _named(blocks: Sequence[Block], names: Sequence[str]) -> list[Candidate]:
    known = {
        one.name: one
        for is_by_part in (False, True)
        for one in candidates(blocks, is_by_part=is_by_part)
    }
    unknown = [name for name in names if name not in known]
    if unknown:
        raise OptionError(
            f"the model has no layer `{unknown[0]}`",
            why=f"it has `{blocks[0].name}` to `{blocks[-1].name}`, with parts such as "
            f"`{next(blocks[-1].parts())[0]}`",
            hint="list them with `graphopt inspect MODEL --structure`",
        )
    order = list(known)
    found = [known[name] for name in sorted(dict.fromkeys(names), key=order.index)]
    whole = {one.block for one in found if one.name == one.block.name}
    return [one for one in found if one.name == one.block.name or one.block not in whole]


def _tested(
    model: ir.Model,
    chosen: Sequence[tuple[Candidate, str]],
    edit: Editor,
    options: LayerOptions,
) -> list[tuple[Candidate, str]]:
    """Return what removes to the same as zeros; refuse the others."""
    if not chosen:
        return []
    feeds = [*generate_feed_sets(model, count=2), _smallest_feed(model)]

    def fault(some: Sequence[tuple[Candidate, str]]) -> str | None:
        gone = [one for one, _ in some]
        return removal_fault(model, gone, feeds, is_normalized=options.is_normalized)

    if fault(chosen) is None:
        return list(chosen)
    found = []
    for item in chosen:
        why = fault([item])
        if why is None:
            found.append(item)
        else:
            edit.refuse(item[0].layers[0].node, "self-test-failed", why=why)
    if found and (why := fault(found)):
        for item in found:
            edit.refuse(item[0].layers[0].node, "self-test-failed", why=why)
        return []
    return found


def _smallest_feed(model: ir.Model) -> dict[str, Any]:
    """Return a feed in which all open sizes are 1: where a sum spreads one side, it does there."""
    dims = [dim for value in model.graph.inputs for dim in value.shape or ()]
    names = {dim.value for dim in dims if not isinstance(dim, int)}
    # Sums such as `past + present` follow from the others.
    return generate_feeds(model, dims={name: 1 for name in names if name and name.isidentifier()})


@dataclass(frozen=True)
class _Removal:
    """Cuts, and fits what stands in, in the order of the graph."""

    model: ir.Model
    edit: Editor
    shapes: ShapeTable
    options: LayerOptions
    measure: Measure | None

    def run(self, blocks: Sequence[Block], chosen: Sequence[Chosen]) -> list[LayerFit]:
        """Remove what was chosen; return how well each replacement does."""
        original, fits = clone(self.model), list[LayerFit]()
        for run in _adjoining(blocks, chosen):
            last, _ = run[-1]
            name = last.leave.name or ""
            for one, why in run:
                held = self._cut(one, why, is_last=one is last)
            if self.options.replacement != "off":
                fit = self._stand_in(last, held, original, name)
                fits += [] if fit is None else [fit]
        return fits

    def _cut(self, one: Candidate, why: str, *, is_last: bool) -> ir.Value:
        """Remove one candidate, and return what stands for the stream behind it."""
        because = f"{one.name} ({one.kinds}), {why}"
        if output := _returned(one):
            because += f"; `{output}` is still computed from it"
        is_normalized = self.options.is_normalized
        unread = ends_of(one, is_normalized=is_normalized)
        is_held = is_last and self.options.replacement != "off" and not self._is_behind(one)
        with self.edit.rewrite(one.layers[-1].node, because=because) as change:
            held = cut(change, one, is_normalized=is_normalized, is_held=is_held)
        remove_unread(self.model, self.edit, unread, because=f"what computed {one.name}")
        return one.leave if self._is_behind(one) else held

    def _is_behind(self, one: Candidate) -> bool:
        """Tell whether a normalization stays behind a candidate.

        What stands in comes behind it, too: sums have a few channels of hundreds of times the
        strength of the others, which would rule any fit, and which the normalization divides by.
        """
        return self.options.is_normalized and one.leave is not one.layers[-1].exit

    def _stand_in(
        self, last: Candidate, held: ir.Value, original: ir.Model, name: str
    ) -> LayerFit | None:
        """Let an affine map stand where layers went, fitted to the stream that was there.

        Args:
            last: The last of the layers that went there.
            held: What stands there now.
            original: The model with all layers.
            name: Of the stream behind the last of them, there.

        Returns:
            How well it does; ``None`` where nothing could be fitted.
        """
        layer = last.layers[-1]
        known = self.shapes.of(layer.node.outputs[0])
        assert known is not None
        if known.dims is None or known.dtype not in _FLOATS:
            self.edit.refuse(layer.node, "not-measured", why=f"{last.name}: of type {known.dtype}")
            return None
        assert self.measure is not None
        axis, full = channel_axis(layer), is_full(self.options.replacement)
        pair = (Channels(held.name or "", axis), Channels(name, axis))
        (moments,) = self.measure.cross(self.model, original, [pair], products=full)
        found = None
        if moments is not None:
            found = fit_stream(moments, self.options.replacement, self.options.ridge)
        if found is None or moments is None:
            why = f"{last.name}: the stream is empty or not finite on the samples"
            self.edit.refuse(layer.node, "not-measured", why=why)
            return None
        before, after = stream_errors(moments, found)
        because = (
            f"{self.options.replacement} behind {last.name}: error {before:.3g} to {after:.3g}"
        )
        with self.edit.rewrite(held, because=because) as change:
            dtype, rank = known.dtype.numpy(), len(known.dims)
            place = None if self._is_behind(last) else held.producer()
            stream = held if place is None else place.inputs[0]
            assert stream is not None
            new = emit_affine(change, stream, found, axis=axis, rank=rank, dtype=dtype)
            change.replace(held, new)
            if place is not None:
                change.remove(place)
        return LayerFit(
            layer=last.name,
            compensation=self.options.replacement,
            before=before,
            after=after,
            rows=moments.first.count,
        )


def _adjoining(blocks: Sequence[Block], chosen: Iterable[Chosen]) -> list[list[Chosen]]:
    """Return what was chosen in order, in runs with nothing of the stream between."""
    layers = [(block, place) for block in blocks for place in range(len(block.layers))]
    places = {pair: place for place, pair in enumerate(layers)}

    def first(item: Chosen) -> int:
        return places[item[0].block, item[0].places[0]]

    runs: list[list[Chosen]] = []
    end, stream = -1, -1
    for item in sorted(chosen, key=first):
        one = item[0]
        if not (first(item) == end and one.block.stream == stream):
            runs.append([])
        runs[-1].append(item)
        end, stream = first(item) + len(one.places), one.block.stream
    return runs


def _returned(one: Candidate) -> str:
    """Return an output of the model that is computed within a branch, such as keys of a cache."""
    for layer in one.layers:
        for node in layer.nodes:
            for value in node.outputs:
                if value.is_graph_output() and value is not layer.branch:
                    return value.name or ""
    return ""
