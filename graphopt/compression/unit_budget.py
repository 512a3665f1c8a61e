"""How much to remove so that a model costs no more than it may."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import onnx_ir as ir

from graphopt.analysis import infer_shapes, summarise
from graphopt.analysis.coupling import couple
from graphopt.compression.latency_share import latency_share, timed_feed
from graphopt.compression.surgery import Surgery, plan_surgery
from graphopt.errors import PassError
from graphopt.ir import clone
from graphopt.rewrite import Editor, Journal, Measure
from graphopt.runtime import Feeds

__all__ = ["BUDGETS", "MAX_RATIO", "Budget", "share_left", "share_of", "within_budget"]

BUDGETS = ("parameters", "macs", "bytes", "latency", "error")
"""Shares that may stay of the ``parameters``, of the ``macs`` of one run (dimensions that only a
run tells count as 1), of the ``bytes`` of weights, or of the ``latency``: the CPU time of a run on
one thread, measured; ``error``: what outputs may be off by."""

MAX_RATIO = 0.95
_HALVINGS = 7


@dataclass(frozen=True)
class Budget:
    """What a model may cost at most.

    Attributes:
        limit: For ``error`` ``sqrt(E|y - y0|^2 / E|y0|^2)`` of the outputs on the calibration
            samples, in (0, 1); for all else a share of what it costs now, in (0, 1).
        of: One of `BUDGETS`.
    """

    limit: float
    of: str

    @property
    def clocked(self) -> str:
        """What to add to a note where a clock decides; empty where none does."""
        return "; a clock told: the same command may give another file" * (self.of == "latency")

    def feed(self, model: ir.Model, measure: Measure | None) -> Feeds | None:
        """Return what `share_of` runs of a model; ``None`` where it runs nothing."""
        return timed_feed(model, measure) if self.of == "latency" else None


def within_budget(
    budget: Budget, cost: Callable[[float], float]
) -> tuple[float | None, tuple[tuple[float, float], ...]]:
    """Find the ratio that keeps the most within a budget, by bisection.

    Args:
        budget: The budget. An error grows with the ratio, a share shrinks with it.
        cost: What the model costs with a ratio; NaN where that cannot be told.

    Returns:
        The ratio, and every ratio tried with its cost. For shares the least ratio that is found to
        hold, for errors the largest; ``None`` where none does.
    """
    is_error = budget.of == "error"
    low, high = 0.0, MAX_RATIO
    tried: list[tuple[float, float]] = []

    def holds(ratio: float) -> bool:
        tried.append((ratio, cost(ratio)))
        return tried[-1][1] <= budget.limit  # NaN holds nothing

    if holds(high):
        if is_error:
            return high, tuple(tried)
    elif not is_error:
        return None, tuple(tried)
    found = None if is_error else high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        is_met = holds(middle)
        found = middle if is_met else found
        if is_met is is_error:
            low = middle
        else:
            high = middle
    return found, tuple(tried)


def share_left(
    model: ir.Model, cuts: Sequence[Sequence[int]], of: str, feed: Feeds | None = None
) -> float:
    """Return what share of what it costs a model keeps; NaN where unknown.

    Args:
        model: The model as it is, which stays so.
        cuts: The units that go, as `couple` numbers them; a cut that cannot be made is left out.
        of: Which of `BUDGETS`, ``error`` apart.
        feed: What is run for ``latency``.
    """
    copy = clone(model)
    coupling = couple(copy, infer_shapes(copy))
    editor = Editor(copy, pass_name="trial", journal=Journal())  # noqa: S106 - no secret
    for units in cuts:
        with suppress(PassError):
            _cut(plan_surgery(coupling, units), editor)
    return share_of(model, copy, of, feed)


def share_of(model: ir.Model, cut: ir.Model, of: str, feed: Feeds | None = None) -> float:
    """Return what share of what a model costs another one does; NaN: unknown.

    Args:
        model: The model.
        cut: What is left of it.
        of: Which of `BUDGETS`, ``error`` apart.
        feed: What is run for ``latency``.
    """
    if of == "latency":
        assert feed is not None
        return latency_share(model, cut, feed)
    before, after = (_figure(one, of) for one in (model, cut))
    return float("nan") if before is None or after is None or not before else after / before


def _cut(surgery: Surgery, editor: Editor) -> None:
    with editor.rewrite(editor.model.graph, because="trial") as change:
        obstacle = surgery.apply(change)
        if obstacle is not None:  # leaves the block without half a cut
            raise PassError(obstacle.why)


def _figure(model: ir.Model, of: str) -> int | None:
    found = summarise(model)
    return {"parameters": found.parameters, "macs": found.macs, "bytes": found.weight_bytes}[of]
