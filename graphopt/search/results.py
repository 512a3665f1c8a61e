"""What came of a search, as the result that is reported."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Literal

from graphopt._version import __version__
from graphopt.analysis import summarise
from graphopt.analysis.quantized_forms import QUANTIZED_FORMS, quantized_forms
from graphopt.ir import load
from graphopt.report import (
    BeforeAfter,
    CandidateResult,
    CandidateStatus,
    LatencyResult,
    MetricResult,
    OptimizeResult,
    PassResult,
)
from graphopt.rewrite import Journal
from graphopt.runtime import runtime_version
from graphopt.search.build import Built, Rejected
from graphopt.search.campaign import Outcome
from graphopt.search.give_back import is_quantized
from graphopt.search.judging import is_seen
from graphopt.search.measure import Measured
from graphopt.targets import Candidate, GateResult

__all__ = ["result_of", "tool_versions"]

LIBRARIES = ("numpy", "onnx", "onnx-ir")


def result_of(outcome: Outcome, *, seconds: float, source_sha256: str) -> OptimizeResult:
    """Return the result of a search in the form that reports and scripts read.

    Args:
        outcome: What came of it.
        seconds: Wall time of the whole job.
        source_sha256: Digest of the original.
    """
    bench, chosen = outcome.bench, outcome.chosen
    after = summarise(load(chosen.built.path), bench.sizes()) if chosen else None
    return OptimizeResult(
        source=str(bench.source),
        source_sha256=source_sha256,
        target=bench.target.name,
        chosen=chosen.built.candidate.name if chosen else None,
        verdict=_verdict(chosen),
        gates_met=chosen is not None and chosen.meets_gates,
        gates=_gates(outcome),
        size_bytes=BeforeAfter(outcome.original_bytes, chosen.built.size_bytes if chosen else None),
        nodes=BeforeAfter(outcome.original.nodes, after.nodes if after else None),
        latency=LatencyResult.of(chosen.latency if chosen else None),
        error=chosen.comparison.errors.to_dict() if chosen else {},
        metric=_metric(outcome),
        candidates=_candidates(outcome),
        passes=_passes(outcome),
        pipeline=_recipe(outcome, chosen.built) if chosen else None,
        operators=BeforeAfter(outcome.original.operators, after.operators if after else {}),
        macs=BeforeAfter(outcome.original.macs, after.macs if after else None),
        samples=chosen.comparison.samples if chosen else 0,
        samples_are_real=bench.feeds_are_real,
        seed=bench.seed,
        seconds=seconds,
        versions=tool_versions(),
        sample_warnings=bench.sample_warnings,
        notes=_notes(outcome),
        not_verified=bench.absence,
        decisions=tuple(one for journal in _shipped(outcome) for one in journal.decisions),
        exits=tuple(one for journal in _shipped(outcome) for one in journal.exits),
    )


def tool_versions() -> dict[str, str]:
    """Return the versions of graphopt, Python and the libraries that take part."""
    found = {"graphopt": __version__, "python": platform.python_version()}
    found |= {name: importlib.metadata.version(name) for name in LIBRARIES}
    # Builds with other providers are packages of other names: only the module itself knows.
    return found | {"onnxruntime": runtime_version()}


def _verdict(chosen: Measured | None) -> Literal["equal", "within-budget", "broken"]:
    if chosen is None:
        return "broken"
    is_equal = all(item.is_identical for item in chosen.comparison.outputs.values())
    return "equal" if is_equal else "within-budget"


def _gates(outcome: Outcome) -> tuple[GateResult, ...]:
    """Return the gates of what was chosen, else of the candidate that came closest."""
    shown = _shown(outcome)
    return shown.gates if shown is not None else ()


def _shown(outcome: Outcome) -> Measured | None:
    """Return what was chosen, else the candidate that came closest."""
    return outcome.chosen or min(outcome.measured, key=_failures, default=None)


def _failures(measured: Measured) -> int:
    failed = sum(gate.passed is False for gate in measured.gates)
    return failed + (measured.mismatch is not None)


def _metric(outcome: Outcome) -> MetricResult | None:
    bench, chosen = outcome.bench, outcome.chosen
    if bench.metric is None or bench.metric_before is None:
        return None
    after = chosen.metric if chosen else None
    drop = bench.metric.drop(bench.metric_before, after) if after is not None else None
    return MetricResult(name=bench.metric.name, before=bench.metric_before, after=after, drop=drop)


def _candidates(outcome: Outcome) -> tuple[CandidateResult, ...]:
    target = outcome.bench.target
    by_name: dict[str, Measured | Rejected] = {}
    by_name |= {item.built.candidate.name: item for item in outcome.measured}
    by_name |= {item.candidate.name: item for item in outcome.rejected}
    planned = {candidate.name: candidate for candidate in target.enabled_candidates()}
    repaired = {
        item.built.candidate.name: item.built.candidate
        for item in outcome.measured
        if item.built.candidate.name not in planned
    }
    return tuple(
        _candidate(outcome, candidate, by_name[name])
        for name, candidate in (planned | repaired).items()
    )


def _candidate(
    outcome: Outcome, candidate: Candidate, item: Measured | Rejected
) -> CandidateResult:
    if isinstance(item, Rejected):
        recipe = outcome.bench.target.pipeline_text(candidate)
        return CandidateResult(
            name=candidate.name, pipeline=recipe, status="rejected", reason=item.reason
        )
    return CandidateResult(
        name=candidate.name,
        pipeline=_recipe(outcome, item.built),
        status=_status(outcome, item),
        reason=_reason(item),
        size_bytes=item.built.size_bytes,
        nodes=item.built.nodes,
        latency=LatencyResult.of(item.latency),
        metric=item.metric,
        error=item.comparison.errors.to_dict(),
        gates=item.gates,
        loaded=item.loaded,
        placement=item.placement,
    )


def _recipe(outcome: Outcome, built: Built) -> str:
    """Return what makes a candidate again: nothing where no edit of the stages is shipped."""
    if built.is_original and outcome.shared.edits:
        return ""
    return outcome.bench.target.pipeline_text(built.candidate)


def _status(outcome: Outcome, item: Measured) -> CandidateStatus:
    if item is outcome.chosen:
        return "chosen"
    if not item.is_correct:
        return "broken"
    return "passed" if item.meets_gates else "missed-goals"


def _reason(item: Measured) -> str | None:
    failed = [gate for gate in item.gates if gate.passed is False]
    texts = [item.mismatch] if item.mismatch else []
    texts += [
        gate.reason or f"{gate.name} is {gate.value}, limit {gate.limit:g}" for gate in failed
    ]
    return "; ".join(texts) or None


def _passes(outcome: Outcome) -> tuple[PassResult, ...]:
    entries = list(outcome.shared.entries)
    if outcome.chosen is not None:
        entries += outcome.chosen.built.ledger.entries
    return tuple(PassResult.of(entry) for entry in entries)


def _shipped(outcome: Outcome) -> tuple[Journal, ...]:
    """Return the journals of what is shipped: none where the original is."""
    chosen = outcome.chosen
    if chosen is None or chosen.built.is_original:
        return ()
    return outcome.shared.journal, chosen.built.ledger.journal


def _notes(outcome: Outcome) -> tuple[str, ...]:
    notes = list(outcome.shared.notes)
    if outcome.bench.absence is not None:
        notes.append(
            f"not verified here: {outcome.bench.absence}; numbers are those of ONNX Runtime's CPU "
            "provider without optimizations, and nothing was timed"
        )
    # Of the file: the model of the workbench is what the shared stages made of it.
    if forms := quantized_forms(load(outcome.bench.source)):
        counted = ", ".join(f"{count} {QUANTIZED_FORMS[form]}" for form, count in forms.items())
        notes.append(f"the model came quantized: {counted}; these are left as they are")
    if not outcome.bench.feeds_are_real:
        notes.append(
            "outputs were compared on generated inputs; real samples (`--calibration`) say more"
        )
    if (fallen_back := _fall_back(outcome)) is not None:
        notes.insert(0, fallen_back)
    elif is_seen(outcome.bench.calibration, outcome.bench.evaluation):
        notes.append(
            "outputs were compared on samples that calibration saw; others (`--eval`) say more"
        )
    notes += [f"candidate `{item.candidate.name}`: {item.reason}" for item in outcome.rejected]
    if (shown := _shown(outcome)) is not None:
        notes += shown.comparison.notes()
    if outcome.chosen is not None and outcome.chosen.placement is not None:
        notes.append(f"placement {outcome.chosen.placement.summary()}")
    if outcome.chosen is not None:
        notes += outcome.chosen.built.ledger.notes
    return tuple(dict.fromkeys(notes))


def _fall_back(outcome: Outcome) -> str | None:
    """Say that what is shipped is not quantized because nothing quantized holds the gates."""
    chosen = outcome.chosen
    quantized = [item for item in outcome.measured if is_quantized(item.built.candidate)]
    if chosen is None or not quantized or any(item.is_correct for item in quantized):
        return None
    missed = {
        f"{gate.name} {gate.limit:g}"
        for item in quantized
        for gate in item.gates
        if gate.kind == "correctness" and gate.passed is False and gate.limit is not None
    }
    limits = f" ({', '.join(sorted(missed))})" if missed else ""
    name = chosen.built.candidate.name
    return f"no quantized candidate holds the gates{limits}: `{name}` is shipped, not quantized"
