"""Choosing where a classification model may stop, how sure it must be, and proving it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from graphopt.analysis import mask_inputs
from graphopt.analysis.blocks import Block, find_blocks
from graphopt.analysis.macs import count_macs
from graphopt.analysis.sub_layers import LAYER_OPERATORS
from graphopt.analysis.symbolic_table import SymbolicTable
from graphopt.compression.exit_features import Pooling
from graphopt.compression.exit_head import (
    certainty_of,
    choose_exit,
    fit_head,
    lower_bound,
)
from graphopt.compression.exit_proof import exit_fault, exit_times
from graphopt.compression.exit_surgery import ExitPlan, emit_exit, exit_obstacle
from graphopt.compression.layer_removal import channel_axis
from graphopt.errors import OptionError
from graphopt.ir import clone
from graphopt.rewrite import (
    Editor,
    ExitDecision,
    ExitPlace,
    Facts,
    Measure,
    ShapeTable,
    describe,
)

__all__ = ["ExitOptions", "exit_early"]

Array = npt.NDArray[Any]

_FEWEST_CLASSES = 2
_RANKS = (2, 3, 4)
_LEAST_SAVED = 0.02
"""Share of the arithmetic: the condition and the branch cost about as much."""
_PARTS = 3


@dataclass(frozen=True)
class ExitOptions:
    """What a pass that adds an exit is told.

    Attributes:
        after: Name of the block behind which it is; empty: where it saves most.
        agreement: Share of all inputs that must get the same class, in [0, 1].
        certainty: One of `graphopt.compression.exit_head.CERTAINTIES`.
        pool: One of `graphopt.compression.exit_features.POOLS`.
        seed: Of the split of the samples.
        timed: The mean time of a row is measured.
    """

    after: str
    agreement: float
    certainty: str
    pool: str
    seed: int
    timed: bool = False


@dataclass(frozen=True, eq=False)
class _Place:
    """A place where an exit could be."""

    block: Block
    pooling: Pooling
    is_single: bool
    share: float  # of the arithmetic that comes behind


@dataclass(frozen=True, eq=False)
class _Rows:
    """Features at one place and scores of the model, split in three."""

    features: tuple[Array, Array, Array]
    scores: tuple[Array, Array, Array]


def exit_early(model: ir.Model, edit: Editor, facts: Facts, options: ExitOptions) -> None:
    """Add one exit to a classification model, or refuse it.

    Raises:
        OptionError: `ExitOptions.after` names no block of the model.
    """
    why = _unfit(model, facts.shapes)
    if why is not None:
        edit.refuse(model.graph, why[0], why=why[1])
        return
    assert facts.measure is not None
    shapes = SymbolicTable(model, facts.shapes)
    scores = model.graph.outputs[0]
    places = _places(model, edit, shapes, options)
    if not places:
        return
    gathered = _gather(model, facts.measure, places, scores)
    split = _split(gathered[scores.name or ""], options)
    if isinstance(split, str):
        edit.refuse(model.graph, "too-few-samples", why=split)
        return
    best, chosen = -1.0, None
    tried: list[ExitPlace] = []
    for place in places:
        rows = _cut(gathered[place.pooling.stream.name or ""], gathered[scores.name or ""], split)
        if rows is None:
            text = f"{place.block.name}: not finite on the samples"
            edit.refuse(place.block.layers[-1].node, "not-measured", why=text)
            continue
        plan = _plan(place, scores, rows, options)
        saved = plan.rule.leaving * place.share
        tried.append(ExitPlace(place.block.name, plan.rule.leaving, place.share))
        if saved > best:
            best, chosen = saved, (place, plan, rows)
    if chosen is None:
        return
    tested = _finish(model, edit, chosen, options, facts.measure)
    if tested is not None:
        place, plan, _ = chosen
        decision = _decision(edit.pass_name, place, plan, tested)
        edit.journal.exits.append(replace(decision, places=tuple(tried)))


def _unfit(model: ir.Model, shapes: ShapeTable) -> tuple[str, str] | None:
    """Return why a model is none that classifies: a slug, and a sentence."""
    if len(model.graph.outputs) != 1:
        return "several-outputs", f"it returns {len(model.graph.outputs)} values, not scores alone"
    scores = model.graph.outputs[0]
    producer = scores.producer()
    if producer is None:
        return "no-scores", "it returns an input or a constant"
    if producer.op_type == "If":
        return "already-exits", "what it returns is decided by a condition already"
    known = shapes.of(scores)
    dims = known.dims if known is not None else None
    is_float = known is not None and known.dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16)
    if dims is None or len(dims) != 2 or not is_float:  # noqa: PLR2004 - (batch, classes)
        return "no-scores", f"`{scores.name}` is no (batch, classes) of floats: {dims}"
    if not isinstance(dims[1], int) or dims[1] < _FEWEST_CLASSES:
        return "no-scores", f"`{scores.name}` has {dims[1]} classes"
    return None


def _places(
    model: ir.Model, edit: Editor, shapes: SymbolicTable, options: ExitOptions
) -> list[_Place]:
    """Return where exits could be; refuse the blocks behind which there can be none."""
    blocks = find_blocks(model.graph)
    if options.after and options.after not in {block.name for block in blocks}:
        raise OptionError(
            f"the model has no block `{options.after}`",
            why=f"it has {len(blocks)}",
            hint="list them with `graphopt inspect MODEL --structure`",
        )
    if not blocks:
        edit.refuse(model.graph, "no-layers", why="nothing is added to a stream in the main graph")
    whole = count_macs(model)
    found = []
    for block in blocks:
        if options.after and block.name != options.after:
            continue
        node = block.layers[-1].node
        place, why = _place(model, block, shapes, options, whole)
        if place is None:
            edit.refuse(node, why[0], why=f"{block.name}: {why[1]}")
        else:
            found.append(place)
    return found


def _place(
    model: ir.Model, block: Block, shapes: SymbolicTable, options: ExitOptions, whole: int | None
) -> tuple[_Place | None, tuple[str, str]]:
    scores, stream = model.graph.outputs[0], block.leave
    known, returned = shapes.of(stream), shapes.of(scores)
    dims = known.dims if known is not None else None
    assert returned is not None
    assert returned.dims is not None
    axis = channel_axis(block.layers[0])
    if dims is None or len(dims) not in _RANKS or dims[0] != returned.dims[0] or None in dims:
        return None, ("not-by-row", f"its stream {dims} does not begin with the batch")
    if not isinstance(dims[axis], int) or known is None or known.dtype != returned.dtype:
        return None, ("not-by-row", f"the channels of its stream {dims} are not known")
    is_tokens = len(dims) == 3 and axis == -1  # noqa: PLR2004
    mask = _mask(model, shapes, dims[:2]) if is_tokens else None
    pooling = Pooling(stream, len(dims), axis, mask, options.pool)
    obstacle = exit_obstacle(model.graph, stream, scores)
    if obstacle is not None:
        return None, obstacle
    share = _share_behind(model, stream, whole)
    if share < _LEAST_SAVED:
        return None, ("not-worthwhile", f"{share:.1%} of the arithmetic is behind it")
    return _Place(block, pooling, known.dtype == ir.DataType.FLOAT, share), ("", "")


def _mask(model: ir.Model, shapes: SymbolicTable, dims: tuple[Any, ...]) -> ir.Value | None:
    """Return the input that marks the positions of a stream, where there is one."""
    names = mask_inputs(model)
    found = [value for value in model.graph.inputs if value.name in names]
    fitting = [v for v in found if (known := shapes.of(v)) is not None and known.dims == dims]
    return fitting[0] if len(fitting) == 1 else None


def _share_behind(model: ir.Model, stream: ir.Value, whole: int | None) -> float:
    """Return the share of the arithmetic that is spared by whoever leaves at a stream."""
    copy = clone(model)
    values = (value for node in copy.graph for value in node.outputs)
    copy.graph.outputs[:] = [next(value for value in values if value.name == stream.name)]
    RemoveUnusedNodesPass()(copy)
    before = count_macs(copy)
    if not whole or before is None:  # layers stand for what cannot be counted

        def layers(graph: ir.Graph) -> int:
            return sum(node.op_type in LAYER_OPERATORS for node in graph)

        return 1.0 - layers(copy.graph) / max(layers(model.graph), 1)
    return 1.0 - before / whole


# -- what the samples say ------------------------------------------------------------------------


def _gather(
    model: ir.Model, measure: Measure, places: Sequence[_Place], scores: ir.Value
) -> dict[str, list[Array]]:
    """Return features by name of the stream, and scores by theirs, sample by sample."""
    wanted = [place.pooling.stream.name or "" for place in places]
    masks = {m.name or "" for place in places if (m := place.pooling.mask) is not None}
    names = list(dict.fromkeys([*wanted, scores.name or "", *sorted(masks)]))
    found: dict[str, list[Array]] = {name: [] for name in [*wanted, scores.name or ""]}
    has_softmax = _has_softmax(scores)
    for values in measure.outputs(model, names):
        for place in places:
            pooling = place.pooling
            mask = values[pooling.mask.name or ""] if pooling.mask is not None else None
            name = pooling.stream.name or ""
            found[name].append(pooling.of(values[name], mask))
        rows = values[scores.name or ""].astype(np.float64)
        # A softmax forgets a constant alone, so that the logarithm of its result is as good.
        found[scores.name or ""].append(np.log(np.maximum(rows, 1e-30)) if has_softmax else rows)
    if len(found[scores.name or ""]) >= _PARTS:
        return found
    # Too few samples to keep whole: their rows are split.
    return {name: list(np.concatenate(arrays)[:, None]) for name, arrays in found.items()}


def _has_softmax(scores: ir.Value) -> bool:
    producer = scores.producer()
    return producer is not None and producer.op_type == "Softmax" and not producer.domain


def _split(scores: Sequence[Array], options: ExitOptions) -> tuple[list[int], ...] | str:
    """Return which samples fit the head, choose the threshold, and test both; or why not.

    Whole samples are kept together: rows of one may be of one source.
    """
    order = np.random.default_rng(options.seed).permutation(len(scores)).tolist()
    half = max(len(order) // 2, 1)
    three = half + max((len(order) - half) // 2, 1)
    parts = order[:half], order[half:three], order[three:]
    rows = [sum(len(scores[place]) for place in part) for part in parts]
    least = math.ceil(1.0 / (1.0 - options.agreement)) if options.agreement < 1.0 else 100
    if min(rows[1:]) < least or rows[0] < least:
        text = " + ".join(map(str, rows))
        return f"{text} rows to fit, to choose and to test by; each needs {least}"
    return parts


def _cut(
    features: Sequence[Array], scores: Sequence[Array], split: tuple[list[int], ...]
) -> _Rows | None:
    def joined(parts: Sequence[Array]) -> tuple[Array, Array, Array]:
        first, second, third = (np.concatenate([parts[i] for i in part]) for part in split)
        return first, second, third

    found = _Rows(joined(features), joined(scores))
    is_finite = all(np.isfinite(array).all() for array in (*found.features, *found.scores))
    return found if is_finite else None


def _plan(place: _Place, scores: ir.Value, rows: _Rows, options: ExitOptions) -> ExitPlan:
    (fit, choose, _), (fit_scores, choose_scores, _) = rows.features, rows.scores
    head = fit_head(fit, fit_scores, choose, choose_scores)
    rule = choose_exit(
        head, choose, choose_scores, certainty=options.certainty, agreement=options.agreement
    )
    is_single = place.is_single
    return ExitPlan(place.pooling, rule, options.certainty, scores, _has_softmax(scores), is_single)


# -- proving it ----------------------------------------------------------------------------------


def _finish(
    model: ir.Model,
    edit: Editor,
    chosen: tuple[_Place, ExitPlan, _Rows],
    options: ExitOptions,
    measure: Measure,
) -> _Tested | None:
    """Test the exit on rows that it was not made from, and put it into the model.

    Returns:
        What the rows say; ``None`` where the exit was refused.
    """
    place, plan, rows = chosen
    node = place.block.layers[-1].node
    tested = _tested(plan, rows)
    what = (
        f"behind {place.block.name} {tested.leaving:.1%} leave, {tested.agreeing} of {tested.rows} "
        f"inputs held out get the same class (at least {tested.bound:.2%} of all, at 95 % "
        f"confidence); {place.share:.1%} of the arithmetic is spared where all rows of a batch do"
    )
    if plan.rule.leaving * place.share < _LEAST_SAVED:
        edit.refuse(node, "not-worthwhile", why=f"{what}: little is spared")
        return None
    if tested.agreeing < options.agreement * tested.rows:
        edit.refuse(node, "agreement-missed", why=f"{what}; {options.agreement:.2%} were asked for")
        return None
    fault = exit_fault(model, plan, measure)
    if fault is not None:
        edit.refuse(node, "self-test-failed", why=fault)
        return None
    if options.timed:
        times = exit_times(model, plan)
        mean = times.mean(tested.leaving)
        tested = replace(tested, mean_time=mean)
        what += f"; a row alone takes {mean:.2f} of the time on average: {times.leaving:.2f} where "
        what += f"it leaves, {times.staying:.2f} where it stays"
    because = f"exit at {options.certainty} above {plan.rule.threshold:.4g}: {what}"
    with edit.rewrite(model.graph, because=because) as change:
        emit_exit(change, model, plan)
    edit.note(what)
    return tested


def _decision(pass_name: str, place: _Place, plan: ExitPlan, tested: _Tested) -> ExitDecision:
    """Return the record of an exit, without the places that were tried."""
    spared = f"{tested.leaving * place.share:.1%} of the arithmetic on average"
    return ExitDecision(
        pass_name=pass_name,
        where=describe(place.block.layers[-1].node),
        block=place.block.name,
        certainty=plan.certainty,
        threshold=plan.rule.threshold,
        rows=tested.rows,
        leaving=tested.leaving,
        agreeing=tested.agreeing,
        bound=tested.bound,
        mean_work=1.0 - tested.leaving * place.share,
        mean_time=tested.mean_time,
        reason=f"of all places the one that was to spare the most: {spared} on rows held out",
    )


@dataclass(frozen=True)
class _Tested:
    rows: int
    agreeing: int
    leaving: float
    bound: float
    mean_time: float | None = None


def _tested(plan: ExitPlan, rows: _Rows) -> _Tested:
    features, scores = rows.features[2], rows.scores[2]
    head = plan.rule.head
    own = features @ head.matrix + head.bias
    leaves = certainty_of(own, plan.certainty) > plan.rule.threshold
    same = ~leaves | (own.argmax(-1) == scores.argmax(-1))
    agreeing = int(same.sum())
    bound = lower_bound(agreeing, len(same))
    return _Tested(len(same), agreeing, float(leaves.mean()), bound)
