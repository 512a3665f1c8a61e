"""Measuring a candidate against the original: numbers first, and speed only of what is right."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from graphopt.errors import (
    GraphoptError,
    InputError,
    MetricError,
    RuntimeFailure,
    VerificationError,
)
from graphopt.pipeline import find_pass
from graphopt.rewrite import Approximate
from graphopt.runtime import (
    ColdStart,
    LatencyComparison,
    LoadedGraph,
    Placement,
    SessionOptions,
    inspect_loaded,
    measure_cold_start,
    measure_latency,
)
from graphopt.search.build import Built, Rejected
from graphopt.search.placing import placement_of
from graphopt.search.workbench import Workbench
from graphopt.targets import GateResult, gates_met, is_correct, judge
from graphopt.targets import Measured as GateMeasurement
from graphopt.verification import Comparison, compare_models

__all__ = ["Measured", "compare", "measure"]

REFERENCE = SessionOptions(optimization="disabled")
NEGLIGIBLE_BYTES = 1024
NEGLIGIBLE_GROWTH = 0.001
"""A file that is larger by no more than either counts as one of the same size."""
NEGLIGIBLE_DROP = 1e-6
"""Less than one wrong answer in a million rows: what rounding alone does to a loss."""
UNTOUCHED_DB = 100.0
"""Above it nothing that is approximated reaches an output: 8 bits leave 30 to 60 dB, and of a value
that 16 bits span whole they leave 98."""
NOT_REQUESTED = GateMeasurement(None, "not-requested")
# The original was measured before by the same metric: where that fails now, it is the candidate's
# outputs that it cannot take, and the others are measured all the same.
_ITS_OWN_FAILURES = (RuntimeFailure, VerificationError, MetricError)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A candidate with its numbers and the judgement of the gates.

    Attributes:
        built: The candidate.
        comparison: Its outputs against the original's.
        metric: Its task metric; ``None`` without one.
        size_ratio: Bytes of its files relative to the original's.
        latency: Against the original; ``None`` where it was not measured.
        cold_starts: Of the original and of the candidate, where they were measured.
        gates: Every gate of the target with its value.
        loaded: What the runtime made of it; ``None`` where latency was not measured.
        placement: Which provider runs what; ``None`` where the CPU provider runs all.
    """

    built: Built
    comparison: Comparison
    metric: float | None
    size_ratio: float
    latency: LatencyComparison | None = None
    cold_starts: tuple[ColdStart, ColdStart] | None = None
    gates: tuple[GateResult, ...] = ()
    loaded: LoadedGraph | None = None
    placement: Placement | None = None

    @property
    def is_correct(self) -> bool:
        """Whether no correctness gate fails and no output differs in kind: it may be written."""
        return self.mismatch is None and is_correct(self.gates)

    @property
    def meets_gates(self) -> bool:
        """Whether no gate fails, and no output differs in kind."""
        return self.mismatch is None and gates_met(self.gates)

    @property
    def mismatch(self) -> str | None:
        """How an output differs in kind: in type, shape, or where it is NaN or infinite.

        No gate has to ask for it, and none can be switched off to allow it.
        """
        faults = (
            f"output `{name}`: {difference.mismatch}"
            for name, difference in self.comparison.outputs.items()
            if difference.mismatch
        )
        return next(faults, None)


def measure(bench: Workbench, built: Built, *, original_bytes: int) -> Measured | Rejected:
    """Measure a candidate; one that fails to run, or differs in kind, is rejected."""
    report = bench.report.at(f"measure {built.candidate.name}")
    try:
        report("comparing outputs")
        measured = _numbers(bench, built, original_bytes)
        # How fast a wrong answer is, nobody needs to know; and the original beside itself shows
        # noise.
        if not measured.is_correct or bench.latency_budget_s is None or built.is_original:
            return measured
        report("timing against the original")
        return _judged(bench, _timed(bench, measured))
    except _ITS_OWN_FAILURES as error:
        return Rejected(candidate=built.candidate, reason=_told(error), error=error)


def compare(bench: Workbench, built: Built, original_bytes: int) -> Measured | Rejected:
    """Measure the numbers of a candidate alone, not its speed; see `measure`."""
    try:
        return _numbers(bench, built, original_bytes)
    except _ITS_OWN_FAILURES as error:
        return Rejected(candidate=built.candidate, reason=_told(error), error=error)


def _told(error: GraphoptError) -> str:
    return f"{error.message}: {error.why}" if error.why else error.message


def _numbers(bench: Workbench, built: Built, original_bytes: int) -> Measured:
    comparison = compare_models(
        bench.source,
        built.path,
        bench.feeds,
        worker=bench.worker,
        reference_options=REFERENCE,
        candidate_options=bench.options,
    )
    measured = Measured(
        built=built,
        comparison=comparison,
        metric=bench.metric_of(built.path),
        size_ratio=built.size_bytes / original_bytes,
        placement=placement_of(bench, built.path),
    )
    return _judged(bench, measured)


def _timed(bench: Workbench, measured: Measured) -> Measured:
    assert bench.latency_budget_s is not None
    latency = measure_latency(
        bench.source,
        measured.built.path,
        bench.latency_feed,
        options=bench.options,
        budget_s=bench.latency_budget_s,
        seed=bench.seed,
    )
    starts = (
        measure_cold_start(bench.source, bench.latency_feed, bench.options),
        measure_cold_start(measured.built.path, bench.latency_feed, bench.options),
    )
    return replace(
        measured, latency=latency, cold_starts=starts, loaded=_loaded(bench, measured.built)
    )


def _loaded(bench: Workbench, built: Built) -> LoadedGraph | None:
    """Look at what the runtime made of a candidate; that it cannot be read rejects none."""
    try:
        return inspect_loaded(built.path, bench.options, bench.latency_feed, worker=bench.worker)
    # It is told in the report, and decides nothing.
    except (RuntimeFailure, InputError) as error:
        why = f"{error.message}: {error.why}" if error.why else error.message
        built.ledger.notes.append(f"the runtime's own graph was not inspected: {why}")
        return None


def _judged(bench: Workbench, measured: Measured) -> Measured:
    values = _error_values(bench, measured) | {
        "max_metric_drop": _metric_drop(bench, measured),
        "max_size_ratio": _size_ratio(measured),
        "max_latency_ratio": _latency_ratio(bench, measured),
        "max_peak_memory_ratio": _memory_ratio(bench, measured),
        **_placement_values(bench, measured.placement),
    }
    results = judge(bench.target.gates, values, demanded=bench.target.demanded_gates)
    return replace(measured, gates=tuple(results))


def _error_values(
    bench: Workbench, measured: Measured
) -> dict[str, GateMeasurement | float | None]:
    comparison = measured.comparison
    # Two empty outputs are equal: where there are no others, that says nothing of a candidate.
    is_empty = comparison.outputs.keys() == set(comparison.empty_outputs)
    blind = _is_blind(bench, measured)
    if not is_empty and not blind and (comparison.outputs or not comparison.random_outputs):
        summary = comparison.errors
        return {
            "max_rel_error": summary.worst_max_rel(),
            "min_cosine": summary.worst_cosine(),
            "min_sqnr_db": summary.worst_sqnr_db(),
        }
    if measured.built.is_original:
        reason = "nothing was changed: it is the original"
        perfect = {"max_rel_error": 0.0, "min_cosine": 1.0, "min_sqnr_db": math.inf}
        return {name: GateMeasurement(value, reason=reason) for name, value in perfect.items()}
    reason = "every output depends on random numbers: there is nothing to compare"
    if comparison.empty_outputs:
        reason = "no output held any finite element on these inputs: give others (`--calibration`)"
    if blind:
        reason = (
            "generated inputs show nothing of what was approximated: no output hangs on it; give "
            "real samples (`--calibration`)"
        )
    unknown = GateMeasurement(None, "failed", reason=reason)
    return dict.fromkeys(("max_rel_error", "min_cosine", "min_sqnr_db"), unknown)


def _is_blind(bench: Workbench, measured: Measured) -> bool:
    """Tell whether made-up inputs miss what was approximated: a branch, or steps never reached."""
    decibels = measured.comparison.errors.worst_sqnr_db()
    if bench.feeds_are_real or bench.metric is not None or decibels is None:
        return False
    return decibels > UNTOUCHED_DB and any(
        entry.edits and isinstance(find_pass(entry.pass_name).contract.numerics, Approximate)
        for entry in measured.built.ledger.entries
        if entry.status != "rolled-back"
    )


def _metric_drop(bench: Workbench, measured: Measured) -> GateMeasurement | float:
    if bench.metric is None or bench.metric_before is None or measured.metric is None:
        return NOT_REQUESTED
    drop = bench.metric.drop(bench.metric_before, measured.metric)
    if 0 < drop <= NEGLIGIBLE_DROP:  # floats added in another order: a budget of 0 allows that
        reason = f"a drop of {drop:.1g} is as good as none"
        return GateMeasurement(drop, judged_as=0.0, reason=reason)
    return drop


def _size_ratio(measured: Measured) -> GateMeasurement:
    """Return the size; names of nodes and the recipe, which are added, do not make it larger."""
    ratio, size = measured.size_ratio, measured.built.size_bytes
    growth = size - round(size / ratio)
    if 0 < growth <= max(NEGLIGIBLE_BYTES, NEGLIGIBLE_GROWTH * size):
        reason = f"{growth} bytes more are as good as none"
        return GateMeasurement(ratio, judged_as=1.0, reason=reason)
    return GateMeasurement(ratio)


def _placement_values(
    bench: Workbench, placement: Placement | None
) -> dict[str, GateMeasurement | float]:
    """Return what the gates on placement measure; an estimate is told, and judges nothing."""
    names = ("max_partitions", "max_share_off_accelerator")
    if placement is None:
        if bench.absence is None:  # all of it is one piece on the CPU
            return {"max_partitions": 1.0, "max_share_off_accelerator": 0.0}
        return dict.fromkeys(names, _untimed(bench))
    values = (float(placement.partitions), placement.share_off_accelerator)
    if not placement.is_estimate:
        return dict(zip(names, values, strict=True))
    return {
        name: GateMeasurement(
            None, "not-requested", reason=f"estimated {value:.3g}; {bench.absence}"
        )
        for name, value in zip(names, values, strict=True)
    }


def _untimed(bench: Workbench) -> GateMeasurement:
    return GateMeasurement(None, "not-requested", reason=bench.absence)


def _latency_ratio(bench: Workbench, measured: Measured) -> GateMeasurement:
    if measured.built.is_original:
        return GateMeasurement(1.0, reason="nothing was changed: it is the original")
    if measured.latency is None:
        return _untimed(bench)
    return GateMeasurement.latency(measured.latency.bound, measured.latency.verdict)


def _memory_ratio(bench: Workbench, measured: Measured) -> GateMeasurement | float:
    if measured.built.is_original:
        return 1.0
    if measured.cold_starts is None:
        return _untimed(bench)
    before, after = measured.cold_starts
    return after.peak_rss_bytes / before.peak_rss_bytes
