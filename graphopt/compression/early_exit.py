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
    softmax,
)
from graphopt.compression.exit_surgery import ExitPlan, emit_exit, exit_obstacle
from graphopt.compression.layer_removal import channel_axis
from graphopt.errors import OptionError, RunError, SessionLoadError
from graphopt.ir import clone, save, scratch_folder
from graphopt.rewrite import Editor, Facts, Journal, Measure, ShapeTable
from graphopt.runtime import generate_feed_sets, shared_worker
from graphopt.verification import compare_models

__all__ = ["ExitOptions", "exit_early"]

Array = npt.NDArray[Any]

_FEWEST_CLASSES = 2
_RANKS = (2, 3, 4)
_LEAST_SAVED = 0.02
"""Share of the arithmetic: the condition and the branch cost about as much."""
_HEAD_ERROR = 1e-3
"""Of the scores that the graph computes, relative to the largest: summed in another order."""
_HALF_ERROR = 1e-2
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
    """

    after: str
    agreement: float
    certainty: str
    pool: str
    seed: int


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
    for place in places:
        rows = _cut(gathered[place.pooling.stream.name or ""], gathered[scores.name or ""], split)
        if rows is None:
            text = f"{place.block.name}: not finite on the samples"
            edit.refuse(place.block.layers[-1].node, "not-measured", why=text)
            continue
        plan = _plan(place, scores, rows, options)
        saved = plan.rule.leaving * place.share
        if saved > best:
            best, chosen = saved, (place, plan, rows)
    if chosen is not None:
        _finish(model, edit, chosen, options, facts.measure)


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
) -> None:
    """Test the exit on rows that it was not made from, and put it into the model."""
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
        return
    if tested.agreeing < options.agreement * tested.rows:
        edit.refuse(node, "agreement-missed", why=f"{what}; {options.agreement:.2%} were asked for")
        return
    fault = exit_fault(model, plan, measure)
    if fault is not None:
        edit.refuse(node, "self-test-failed", why=fault)
        return
    because = f"exit at {options.certainty} above {plan.rule.threshold:.4g}: {what}"
    with edit.rewrite(model.graph, because=because) as change:
        emit_exit(change, model, plan)
    edit.note(what)


@dataclass(frozen=True)
class _Tested:
    rows: int
    agreeing: int
    leaving: float
    bound: float


def _tested(plan: ExitPlan, rows: _Rows) -> _Tested:
    features, scores = rows.features[2], rows.scores[2]
    head = plan.rule.head
    own = features @ head.matrix + head.bias
    leaves = certainty_of(own, plan.certainty) > plan.rule.threshold
    same = ~leaves | (own.argmax(-1) == scores.argmax(-1))
    agreeing = int(same.sum())
    bound = lower_bound(agreeing, len(same))
    return _Tested(len(same), agreeing, float(leaves.mean()), bound)


def exit_fault(model: ir.Model, plan: ExitPlan, measure: Measure) -> str | None:
    """Compare a model whose exit nobody takes with itself, and one that all take with the head.

    Args:
        model: The model without the exit, which stays so.
        plan: The exit.
        measure: Gives the features of the samples.

    Returns:
        What is wrong, for a person; ``None`` where outputs of the first are the same (bit for
        bit in single precision), and those of the second are what the head says.

    Raises:
        WorkerCrash, WorkerTimeout, WorkerOutOfMemory: The worker ended.
    """
    stays, leaves = (_with_exit(model, plan, level) for level in (math.inf, -math.inf))
    with scratch_folder() as folder:
        paths = save(model, folder / "before.onnx")[0], save(stays, folder / "after.onnx")[0]
        try:
            feeds = generate_feed_sets(model, count=2)
            found = compare_models(*paths, feeds, worker=shared_worker())
        except (SessionLoadError, RunError) as error:
            return f"the model with an exit does not run: {error.message}"
    for name, difference in found.outputs.items():
        # Of half precision the runtime rounds less where it sees more of a graph at once.
        is_same = difference.is_identical if plan.is_single else difference.max_rel <= _HALF_ERROR
        if not is_same:
            return f"where nobody leaves, output `{name}` is not the same"
    return _head_fault(model, leaves, plan, measure)


def _with_exit(model: ir.Model, plan: ExitPlan, threshold: float) -> ir.Model:
    copy = clone(model)
    values = {value.name: value for node in copy.graph for value in node.outputs}
    values |= {value.name: value for value in copy.graph.inputs}
    old = plan.pooling
    mask = values[old.mask.name] if old.mask is not None else None
    pooling = replace(old, stream=values[old.stream.name], mask=mask)
    same = replace(plan, pooling=pooling, scores=copy.graph.outputs[0])
    editor = Editor(copy, pass_name="self-test", journal=Journal())  # noqa: S106 - no secret
    with editor.rewrite(copy.graph, because="self-test") as change:
        emit_exit(change, copy, same, threshold)
    return copy


def _head_fault(model: ir.Model, leaves: ir.Model, plan: ExitPlan, measure: Measure) -> str | None:
    pooling, head = plan.pooling, plan.rule.head
    names = [pooling.stream.name or ""]
    if pooling.mask is not None:
        names.append(pooling.mask.name or "")
    scores = plan.scores.name or ""
    runs = zip(measure.outputs(model, names), measure.outputs(leaves, [scores]), strict=True)
    for values, given in runs:
        mask = values[names[1]] if pooling.mask is not None else None
        wanted = pooling.of(values[names[0]], mask) @ head.matrix + head.bias
        if plan.has_softmax:
            wanted = softmax(wanted)
        error = float(np.abs(given[scores].astype(np.float64) - wanted).max(initial=0.0))
        limit = _HEAD_ERROR if plan.is_single else _HALF_ERROR
        if not error <= limit * max(float(np.abs(wanted).max(initial=0.0)), 1e-6):
            return f"where all leave, the scores are off by {error:.2g}"
    return None
