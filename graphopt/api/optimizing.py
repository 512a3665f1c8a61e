"""`optimize`: from a model file to a verified bundle."""

from __future__ import annotations

import time
import weakref
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from graphopt.api.exporting import exported_source, home_of_source, name_of_source
from graphopt.deploy import Bundle, BundleParts, check_included, check_output
from graphopt.errors import BudgetExceeded
from graphopt.ir import load, model_digest, scratch_folder
from graphopt.pipeline import Ledger, PassManager, Pipeline
from graphopt.report import OptimizeResult, PlanReport, to_text
from graphopt.search import (
    MetricSource,
    ProgressCallback,
    Reporter,
    SampleSource,
    bundle_parts,
    check_extras,
    explore,
    prepare,
    result_of,
    without_measured_stages,
)
from graphopt.search.workbench import Workbench
from graphopt.targets import Target, load_target

__all__ = ["Optimization", "default_output", "optimize", "plan"]


@dataclass(frozen=True, kw_only=True)
class Optimization:
    """What `optimize` made.

    Attributes:
        report: Everything that was measured, as data.
    """

    report: OptimizeResult
    _bundle: Bundle | None = field(default=None, repr=False)

    @property
    def bundle(self) -> Bundle:
        """The bundle; `save` it to where it is shipped from.

        Where no output was named it lies in a temporary folder, which goes with it.

        Raises:
            BudgetExceeded: No candidate passes the correctness gates, so that there is none.
        """
        if self._bundle is None:
            failed = [gate for gate in self.report.gates if gate.passed is False]
            raise BudgetExceeded(
                "no candidate passes the correctness gates",
                where=", ".join(f"`{gate.name}`" for gate in failed) or None,
                why="; ".join(f"{gate.name} is {gate.value}, limit {gate.limit}" for gate in failed)
                or "; ".join(f"{item.name}: {item.reason}" for item in self.report.candidates),
                hint="loosen a gate with `--gate NAME=VALUE`, or give more calibration samples",
            )
        return self._bundle

    @property
    def gates_met(self) -> bool:
        """Whether a candidate was chosen that meets every gate."""
        return self.report.gates_met

    @property
    def exit_code(self) -> int:
        """Status of ``graphopt optimize``: 0 where every gate is met, 1 where not."""
        return self.report.exit_code

    def __str__(self) -> str:
        return to_text(self.report)


def optimize(
    source: str | Path,
    *,
    target: str | Path | Target = "cpu-int8",
    output: str | Path | None = None,
    calibration: SampleSource | None = None,
    calibration_cache: str | Path | None = None,
    evaluation: SampleSource | None = None,
    metric: MetricSource | None = None,
    gates: Mapping[str, float | None] | None = None,
    stages: Mapping[str, bool] | None = None,
    threads: int | None = None,
    dims: Sequence[str] = (),
    seed: int = 0,
    latency_budget_s: float | None = 10.0,
    repair_budget_s: float | None = 120.0,
    interpreter: str = "",
    trust: bool = False,
    force: bool = False,
    progress: ProgressCallback | None = None,
) -> Optimization:
    """Make the best version of a model for a target, measured to be right and to be faster.

    Args:
        source: ONNX file, or what `export` takes.
        target: Profile by name or file, or a loaded one.
        output: Directory of the bundle, or a file that ends in `.zip` or `.tar.zst`; ``None``
            keeps it in a temporary directory until it is saved.
        calibration: Samples to measure ranges on: `.npz`, `.npy`, a folder of them,
            ``module:function``, or an iterable of feeds (arrays by input name).
        calibration_cache: Folder that keeps what was measured on them, for the next time with the
            same model, samples, settings and versions; ``None``: nothing is kept.
        evaluation: Samples on which outputs are compared, with labels for `metric`; or
            ``module:function`` of a metric.
        metric: ``top1``, ``f1``, ``spearman``, ``mse``, ``perplexity``, ``module:function``, or a
            function ``metric(predict) -> float`` with ``predict(feeds) -> outputs``.
        gates: Limits by name, which replace those of the target; ``None`` takes one away.
        stages: Stages and candidates of the target to switch on or off.
        threads: Threads inside one operator; ``None`` for the target's choice, 0 for the runtime's.
        dims: Sizes to fix, ``SYMBOL=SIZE`` or ``INPUT:AXIS=SIZE``; samples must have them.
        seed: Seed of everything random.
        latency_budget_s: Seconds to time each candidate; ``None``: latency is not measured.
        repair_budget_s: Seconds to find which operators must stay in float where no quantized
            candidate passes the correctness gates; ``None``: nothing is tried.
        interpreter: Python that has the framework of what is exported; default: this one.
        trust: Whether pickles of what is exported may be loaded, which can run any code.
        force: Replace an older bundle at ``output``.
        progress: Called with each step.

    Returns:
        What was made. Where no candidate meets every gate, it is the best that passes the
        correctness gates, marked ``gates_met = False``; without one there is no bundle.

    Raises:
        UsageError: The target, a gate or a stage is unknown, or the output exists.
        InputError: The model, the samples or the metric cannot be used.
    """
    start = time.monotonic()
    if output is not None:
        check_output(output, force=force)
    profile = resolve_target(target, gates=gates, stages=stages, threads=threads, dims=dims)
    if output is not None:
        check_included(profile)
    report = Reporter(progress, "prepare")
    with (
        exported_source(
            source, target=profile, interpreter=interpreter, trust=trust, progress=progress
        ) as path,
        scratch_folder() as work,
    ):
        workbench = prepare(
            path,
            profile,
            calibration=calibration,
            calibration_cache=Path(calibration_cache) if calibration_cache is not None else None,
            evaluation=evaluation,
            metric=metric,
            latency_budget_s=latency_budget_s,
            repair_budget_s=repair_budget_s,
            seed=seed,
            report=report,
            home=home_of_source(source),
        )
        return _explored(workbench, work, start, report, output, force=force)


def _explored(
    workbench: Workbench,
    work: Path,
    start: float,
    report: Reporter,
    output: str | Path | None,
    *,
    force: bool,
) -> Optimization:
    """Build and measure candidates, choose one, and write it."""
    # Before the stages that all candidates share change the model in place.
    digest = model_digest(workbench.model)
    outcome = explore(workbench, work)
    seconds = time.monotonic() - start
    result = result_of(outcome, seconds=seconds, source_sha256=digest)
    if outcome.chosen is None:
        return Optimization(report=result)
    report.at("bundle")("writing")
    result = replace(result, output=str(output) if output is not None else None)
    parts = bundle_parts(outcome, outcome.chosen, result)
    if output is not None:
        return Optimization(report=result, _bundle=Bundle.build(parts, output, force=force))
    return _kept_temporarily(result, parts)


def _kept_temporarily(result: OptimizeResult, parts: BundleParts) -> Optimization:
    """Build the bundle in a folder that lives as long as the bundle."""
    with ExitStack() as stack:
        folder = stack.enter_context(scratch_folder())
        bundle = Bundle.build(parts, folder / "bundle")
        made = Optimization(report=result, _bundle=bundle)
        # By the bundle, which a caller may keep alone: `optimize(...).bundle.save(...)` lets go of
        # the rest before the files are read.
        weakref.finalize(bundle, stack.pop_all().close)
    return made


def resolve_target(
    target: str | Path | Target,
    *,
    gates: Mapping[str, float | None] | None = None,
    stages: Mapping[str, bool] | None = None,
    threads: int | None = None,
    dims: Sequence[str] = (),
) -> Target:
    """Return a target profile with overrides applied.

    Raises:
        UsageError: The target, a gate or a stage is unknown, or a value is out of range.
    """
    profile = target if isinstance(target, Target) else load_target(target)
    profile = profile.with_gates(gates or {}).with_stages(stages or {}).with_dims(dims)
    return profile if threads is None else profile.with_threads(threads)


def plan(
    source: str | Path,
    *,
    target: str | Path | Target = "cpu-int8",
    output: str | Path | None = None,
    calibration: SampleSource | None = None,
    gates: Mapping[str, float | None] | None = None,
    stages: Mapping[str, bool] | None = None,
    threads: int | None = None,
    dims: Sequence[str] = (),
    interpreter: str = "",
    trust: bool = False,
    arguments: Sequence[str] = (),
) -> PlanReport:
    """Return what `optimize` would do, without measuring or writing anything.

    Args:
        source: ONNX file, or what `export` takes: that is exported, to be looked at.
        target: Profile by name or file, or a loaded one.
        output: Directory of the bundle.
        calibration: Samples, of which only the presence is looked at.
        gates: Limits by name.
        stages: Stages and candidates to switch on or off.
        threads: Threads inside one operator.
        dims: Sizes to fix.
        interpreter: Python that has the framework of what is exported; default: this one.
        trust: Whether pickles of what is exported may be loaded.
        arguments: The command that does it, word by word.

    Raises:
        UsageError: The target, a gate, a stage, or a pass or an option in the target is unknown.
        MissingExtraError: What a pass of the target needs is not installed.
        InputError: The model cannot be used.
    """
    profile = resolve_target(target, gates=gates, stages=stages, threads=threads, dims=dims)
    # As `optimize` does before it builds anything: a plan that it would refuse is none.
    check_extras(profile)
    check_included(profile)
    with exported_source(source, target=profile, interpreter=interpreter, trust=trust) as path:
        shared = _ledger_of_stages(path, profile)
    skipped = {
        candidate.name: "not built: it needs calibration samples (`--calibration PATH`)"
        for candidate in profile.enabled_candidates()
        if candidate.needs_calibration and calibration is None
    }
    return PlanReport(
        source=str(source),
        output=str(output or default_output(source, profile)),
        target=profile,
        shared=shared,
        skipped=skipped,
        arguments=tuple(arguments),
    )


def _ledger_of_stages(path: Path, profile: Target) -> Ledger:
    """Run the stages that every candidate goes through, but for those that measure samples."""
    model = load(path)
    told, unrun = without_measured_stages(profile, model)
    stages_only = Pipeline.parse(told.stage_text()) if told.stage_text() else Pipeline()
    # A plan tells how many edits there would be: nothing is run for it.
    manager = PassManager(verify="off", target=profile.to_facts())
    ledger = manager.run(model, stages_only).ledger
    ledger.notes += [f"stage `{name}` is not tried here: it measures samples" for name in unrun]
    return ledger


def default_output(source: str | Path, target: Target) -> Path:
    """Return where the command line puts a bundle unasked: ``MODEL.TARGET`` in this folder."""
    return Path(f"{name_of_source(source)}.{target.name}")
