"""Proving an exit: nobody leaves, and nothing changes; all leave, and the head speaks.

The same two models tell what an exit saves: what a row takes that leaves, and one that stays.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from graphopt.compression.exit_head import softmax
from graphopt.compression.exit_surgery import ExitPlan, emit_exit
from graphopt.compression.latency_share import latency_share, timed_feed
from graphopt.errors import RunError, SessionLoadError
from graphopt.ir import clone, save, scratch_folder
from graphopt.rewrite import Editor, Journal, Measure
from graphopt.runtime import generate_feed_sets, shared_worker
from graphopt.verification import compare_models

__all__ = ["ExitTimes", "exit_fault", "exit_times"]

_HEAD_ERROR = 1e-3
"""Of the scores that the graph computes, relative to the largest: summed in another order."""
_HALF_ERROR = 1e-2


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
    if not found.outputs:
        return "there is nothing to compare: the scores depend on chance"
    for name, difference in found.outputs.items():
        # Of half precision the runtime rounds less where it sees more of a graph at once.
        is_same = difference.is_identical if plan.is_single else difference.max_rel <= _HALF_ERROR
        if not is_same:
            return f"where nobody leaves, output `{name}` is not the same"
    return _head_fault(model, leaves, plan, measure)


class ExitTimes(NamedTuple):
    """CPU time of a row alone in its batch, over that of the model without the exit.

    Attributes:
        leaving: Where it leaves.
        staying: Where it stays: more than 1 by what the exit costs.
    """

    leaving: float
    staying: float

    def mean(self, share: float) -> float:
        """Return the mean over rows of which a share leaves."""
        return share * self.leaving + (1.0 - share) * self.staying


def exit_times(model: ir.Model, plan: ExitPlan) -> ExitTimes:
    """Measure what a row takes that leaves, and one that stays, on generated inputs.

    Args:
        model: The model without the exit, which stays so.
        plan: The exit.

    Raises:
        UnsupportedModelError: The model runs at no size that was tried.
        WorkerCrash, WorkerTimeout, WorkerOutOfMemory: The worker ended.
    """
    feed = timed_feed(model, None)
    leaves, stays = (_with_exit(model, plan, level) for level in (-math.inf, math.inf))
    return ExitTimes(latency_share(model, leaves, feed), latency_share(model, stays, feed))


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
