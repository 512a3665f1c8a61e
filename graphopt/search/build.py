"""Building candidates: one version of the model each, written to a file of its own."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir

from graphopt._version import __version__
from graphopt.calibration import Calibrator
from graphopt.deploy import contract_faults
from graphopt.errors import GraphoptError, PassError, RuntimeFailure, VerificationError
from graphopt.ir import (
    Checkpoint,
    drop_traces,
    external_files,
    is_text_file,
    load,
    model_digest,
    nodes,
    save,
    weight_bytes,
)
from graphopt.pipeline import Ledger, PassEvent, PassManager, Pipeline
from graphopt.rewrite import Approximate, Rounding
from graphopt.search.measured_stages import check_samples
from graphopt.search.narrow_sums import with_narrow_layers
from graphopt.search.progress import Reporter
from graphopt.search.workbench import Feeds, Workbench
from graphopt.targets import Candidate

__all__ = [
    "Built",
    "Rejected",
    "Shared",
    "build",
    "keep_original",
    "plan_candidates",
    "run_stages",
]

DRIFT_SAMPLES = 2
"""Inputs on which the drift of each approximate pass is measured for the ledger."""
_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class Shared:
    """The state from which every candidate starts.

    Attributes:
        state: The model after the stages that all candidates share.
        ledger: What those stages did.
    """

    state: Checkpoint
    ledger: Ledger


@dataclass(frozen=True, kw_only=True)
class Built:
    """A candidate on disk.

    Attributes:
        candidate: What it is, in the target.
        path: Its ``.onnx`` file.
        files: All its files, the ``.onnx`` file first.
        ledger: What its own pipeline did, after the stages that all candidates share.
        nodes: Nodes of all graphs.
        size_bytes: Bytes of its files.
        digest: Of its structure and weights; candidates with equal ones are the same model.
        is_original: No pass edited anything, or what they edited is not shipped: it is the
            original, and needs no timing.
        is_for_speed: All that was edited, by stages that every candidate goes through, is there for
            the runtime's speed alone: nobody asked for it, and the model is no simpler for it.
    """

    candidate: Candidate
    path: Path
    files: tuple[Path, ...]
    ledger: Ledger
    nodes: int
    size_bytes: int
    digest: str = ""
    is_original: bool = False
    is_for_speed: bool = False


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """A candidate that was not built, or did not run.

    Attributes:
        candidate: What it would have been.
        reason: Why not, for a person.
        error: The error behind it, where there was one.
    """

    candidate: Candidate
    reason: str
    error: GraphoptError | None = None


def plan_candidates(bench: Workbench) -> tuple[list[Candidate], list[Rejected]]:
    """Return what can be built for the target, and what cannot for want of samples."""
    possible: list[Candidate] = []
    impossible: list[Rejected] = []
    for candidate in bench.target.enabled_candidates():
        if candidate.needs_calibration and bench.calibration is None:
            reason = "not built: it needs calibration samples (`--calibration PATH`)"
            impossible.append(Rejected(candidate=candidate, reason=reason))
        else:
            possible.append(candidate)
    return possible, impossible


def manager_for(
    bench: Workbench,
    report: Reporter,
    *,
    feeds: Sequence[Feeds] | None = None,
    calibrator: Calibrator | None = None,
) -> PassManager:
    """Return a pass manager that knows the target and the samples, and drops failing passes.

    Args:
        bench: What it may know.
        report: Where progress goes.
        feeds: Inputs on which numbers are compared; generated at two or more sizes by default.
        calibrator: Measures ranges; passes that need some fail without it.
    """

    def progress(event: PassEvent) -> None:
        report(f"{event.name}: {event.edits} edits, {event.seconds:.2f} s")

    return PassManager(
        on_error="drop",
        seed=bench.seed,
        feeds=feeds,
        target=bench.target.to_facts(),
        statistics_provider=calibrator,
        progress=progress,
        report=report,
    )


def run_stages(bench: Workbench) -> Shared:
    """Run the stages that all candidates share on the workbench's model, in place.

    Raises:
        PreconditionError: A stage needs samples, and there are none.
    """
    pipeline = _parsed(bench.target.stage_text())
    report = bench.report.at("shared stages")
    report("running")
    calibrator, feeds = None, None
    if check_samples(bench.target, bench.model, has_samples=bench.calibration is not None):
        calibrator = bench.calibrator(lambda done, total: report("calibrating", done, total))
        feeds = bench.feeds[:DRIFT_SAMPLES]
    manager = manager_for(bench, report, feeds=feeds, calibrator=calibrator)
    ledger = manager.run(bench.model, pipeline, source=bench.source).ledger
    ledger.notes += calibrator.notes if calibrator is not None else []
    ledger.notes += [
        f"left out of every candidate, though recipes name it: {entry.failure()}"
        for entry in ledger.rolled_back()
    ]
    return Shared(state=Checkpoint.take(bench.model), ledger=ledger)


def build(bench: Workbench, candidate: Candidate, shared: Shared, folder: Path) -> Built | Rejected:
    """Build one candidate from the state that all share; a failure rejects only this one.

    Where the device adds 8-bit products in 16 bits, layers that this would harm get 7-bit weights.
    """
    found = _build(bench, candidate, shared, folder)
    if isinstance(found, Rejected):
        return found
    try:
        narrowed, names = with_narrow_layers(bench, candidate, load(found.path))
    except RuntimeFailure as error:
        return Rejected(candidate=candidate, reason=error.message, error=error)
    if not names:
        return found
    rebuilt = _build(bench, narrowed, shared, folder)
    if isinstance(rebuilt, Built):
        rebuilt.ledger.notes.append(
            f"7-bit weights in {len(names)} layers: without VNNI, sums of 16 bits would cost them "
            f"more than the lost bit ({', '.join(names[:_NAMED])}{', ...' * (len(names) > _NAMED)})"
        )
    return rebuilt


def _build(
    bench: Workbench, candidate: Candidate, shared: Shared, folder: Path
) -> Built | Rejected:
    report = bench.report.at(f"candidate {candidate.name}")
    report("building")
    model = shared.state.new_model()
    calibrator = bench.calibrator(lambda done, total: report("calibrating", done, total))
    own, last = _parsed(candidate.pipeline), _parsed(bench.target.last_text())
    try:
        result = manager_for(
            bench, report, feeds=bench.feeds[:DRIFT_SAMPLES], calibrator=calibrator
        ).run(model, own + last)
    except (PassError, RuntimeFailure, VerificationError) as error:
        return Rejected(candidate=candidate, reason=error.message, error=error)
    ledger = result.ledger
    ledger.notes += calibrator.notes if calibrator is not None else []
    if dropped := ledger.rolled_back():
        reasons = "; ".join(entry.failure() for entry in dropped)
        return Rejected(candidate=candidate, reason=f"a pass failed: {reasons}")
    if not _has_effect(own, ledger):
        return Rejected(candidate=candidate, reason="its passes found nothing to change")
    if faults := contract_faults(model, bench.target.device):
        return Rejected(
            candidate=candidate, reason=f"the device cannot run it: {'; '.join(faults)}"
        )
    is_changed = bool(shared.ledger.edits or ledger.edits)
    digest = model_digest(model)  # before the recipe, which differs, is written into it
    files = _write(bench, candidate, model, folder, is_changed=is_changed)
    return Built(
        candidate=candidate,
        path=files[0],
        files=files,
        ledger=ledger,
        nodes=sum(1 for _ in nodes(model)),
        size_bytes=sum(file.stat().st_size for file in files),
        digest=digest,
        is_original=not is_changed,
        is_for_speed=is_changed and not ledger.edits and _editing(shared.ledger) <= _FOR_SPEED,
    )


def keep_original(bench: Workbench, built: Built, why: str) -> Built:
    """Return the original in the place of a candidate, whose file it replaces.

    Args:
        bench: Where the original is.
        built: The candidate; what its passes edited is not shipped.
        why: For a reader of the result.

    Raises:
        OutputError: The file cannot be written.
    """
    # The original may have fewer files, or others: none of these may stay beside it.
    for file in built.files:
        file.unlink(missing_ok=True)
    # The workbench's model is what the shared stages have made of it.
    model = load(bench.source)
    files = _write(bench, built.candidate, model, built.path.parent, is_changed=False)
    built.ledger.notes.append(f"`{built.candidate.name}` is the original as it was: {why}")
    return replace(
        built,
        path=files[0],
        files=files,
        nodes=sum(1 for _ in nodes(model)),
        size_bytes=sum(file.stat().st_size for file in files),
        is_original=True,
        is_for_speed=False,
    )


def _parsed(text: str) -> Pipeline:
    return Pipeline.parse(text) if text else Pipeline()


# What is left out or left open for the runtime to place its memory by; a file is no better for it.
_FOR_SPEED = frozenset({"clear-value-info", "open-reshapes"})


def _editing(ledger: Ledger) -> frozenset[str]:
    """Return the names of the passes that edited anything."""
    return frozenset(edit.pass_name for edit in ledger.journal.edits)


def _has_effect(pipeline: Pipeline, ledger: Ledger) -> bool:
    """Tell whether the passes that make the candidate what it is changed anything.

    Of a quantized candidate those are the approximate ones: an exact pass beside them that found
    something to do does not make it quantized. Of a fused one they are those that round and that
    no candidate goes through anyway; of one that is both, some of either.
    """
    usual = {step.name for step in Pipeline.parse("@exact").passes()}
    steps = tuple(pipeline.passes())
    approximate = {
        step.name
        for step in steps
        if isinstance(step.contract.numerics, Approximate) and not step.is_preparation
    }
    rounding = {
        step.name
        for step in steps
        if isinstance(step.contract.numerics, Rounding) and not step.is_preparation
    } - usual
    decisive = [kind for kind in (approximate, rounding) if kind] or [{step.name for step in steps}]
    edited = _editing(ledger)
    return not steps or all(not edited.isdisjoint(kind) for kind in decisive)


def _write(
    bench: Workbench, candidate: Candidate, model: ir.Model, folder: Path, *, is_changed: bool
) -> tuple[Path, ...]:
    """Write a candidate; where nothing was edited it is the original, byte for byte."""
    path = folder / f"{candidate.name}.onnx"
    is_whole = not has_external_data(model) and not is_text_file(bench.source)
    if not is_changed and is_whole:
        shutil.copyfile(bench.source, path)
        return (path,)
    if is_changed:
        recipe = bench.target.pipeline_text(candidate)
        provenance = {"graphopt.version": __version__, "graphopt.recipe": recipe}
        model.metadata_props.update(provenance)
        drop_traces(model)
    return save(model, path, external_data=_is_external(bench, model))


def has_external_data(model: ir.Model) -> bool:
    """Tell whether any weight lies outside the model's file."""
    return bool(external_files(model))


def _is_external(bench: Workbench, model: ir.Model) -> bool | None:
    threshold = bench.target.package.external_data_threshold_bytes
    return None if threshold is None else weight_bytes(model) > threshold
