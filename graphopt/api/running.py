"""One pipeline over one model, and what a pass would do to it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir

from graphopt.analysis import KeptShapes, summarise
from graphopt.calibration import (
    Calibrator,
    SampleSource,
    SampleWarning,
    lint_samples,
    load_samples,
)
from graphopt.errors import OutputError
from graphopt.ir import load, patient_collection, remembered_graphs, save
from graphopt.pipeline import PassEvent, PassManager, Pipeline, PrintAfter
from graphopt.pipeline.manager import Verify
from graphopt.report import RunReport
from graphopt.rewrite import Approximate, Journal, TargetFacts
from graphopt.runtime import input_specs, shared_worker
from graphopt.search import ProgressCallback, Reporter
from graphopt.targets import load_target

__all__ = ["explain", "run_pipeline"]


@patient_collection()
def run_pipeline(
    source: str | Path,
    pipeline: str | Pipeline,
    output: str | Path | None = None,
    *,
    target: str | Path | None = None,
    calibration: SampleSource | None = None,
    calibration_cache: str | Path | None = None,
    seed: int = 0,
    verify: Verify = "numerics",
    print_after: PrintAfter | None = None,
    progress: ProgressCallback | None = None,
    force: bool = False,
) -> RunReport:
    """Run one pipeline over a model file; the result is written when all of it went well.

    Args:
        source: ONNX file.
        pipeline: Pipeline text or value, for example ``@exact``.
        output: Where to write the model; ``None``: nowhere.
        target: Target whose facts passes are told, by name or file.
        calibration: Samples for passes that need ranges.
        calibration_cache: Folder that keeps what was measured on them; ``None``: nothing is kept.
        seed: Seed of generated inputs.
        verify: What is checked after each group: ``numerics``, ``structure`` or ``off``.
        print_after: Receives the model as text after chosen passes.
        progress: Called with each step.
        force: Overwrite ``output``.

    Raises:
        UsageError: The pipeline or the target cannot be understood, or the output exists.
        InputError: The model or the samples cannot be used.
        PassError: A pass failed or broke its contract; nothing is written.
    """
    path = Path(source).absolute()
    steps = _runnable(pipeline)
    facts = load_target(target).to_facts() if target is not None else None
    if output is not None:
        refuse_existing(Path(output), force=force)
    model = load(path)
    shapes = KeptShapes(model)
    report = Reporter(progress, "run")
    calibrator = _calibrator(model, calibration, calibration_cache, report)
    warnings = _doubts(model, calibrator)
    manager = PassManager(
        verify=verify,
        seed=seed,
        target=facts,
        statistics_provider=calibrator,
        progress=_pass_progress(report) if progress is not None else None,
        report=report,
        print_after=print_after,
    )
    with remembered_graphs(model):
        before = summarise(model, shapes=shapes.renewed(model))
        # Loaded anew where a run fails: a copy of the structure would cost every run.
        result = manager.run(model, steps, source=path, shapes=shapes, origin=lambda: load(path))
        result.ledger.notes += calibrator.notes if calibrator is not None else []
        files = _saved(result.model, output, report)
        is_known = _keeps_shapes(steps) and shapes.is_complete()
        after = summarise(model, shapes=shapes if is_known else shapes.renewed(model))
    return RunReport(
        source=path,
        files=files,
        before=before,
        after=after,
        ledger=result.ledger,
        sample_warnings=warnings,
    )


def _runnable(pipeline: str | Pipeline) -> Pipeline:
    """Return a pipeline whose passes have the libraries that they need."""
    steps = Pipeline.parse(pipeline) if isinstance(pipeline, str) else pipeline
    for step in steps.passes():
        step.check_extras()
    return steps


def _keeps_shapes(steps: Pipeline) -> bool:
    return not any(isinstance(step.contract.numerics, Approximate) for step in steps.passes())


def refuse_existing(output: Path, *, force: bool, is_folder: bool = False) -> None:
    """Refuse to overwrite before any work is done.

    Args:
        output: What is to be written.
        force: It may replace one of its kind.
        is_folder: That is a folder, and not a file.

    Raises:
        OutputError: ``output`` exists and ``force`` is not set, or it is of another kind.
    """
    # A link that leads nowhere is there, too.
    if os.path.lexists(output) and not force:
        raise OutputError(
            f"`{output}` exists", why="it is not overwritten unasked", hint="add `--force`"
        )
    if output.exists() and not (output.is_dir() if is_folder else output.is_file()):
        raise OutputError(
            f"`{output}` is not replaced",
            why=f"it is no {'folder' if is_folder else 'file'}",
            hint="choose another place",
        )


def _calibrator(
    model: ir.Model, calibration: SampleSource | None, cache: str | Path | None, report: Reporter
) -> Calibrator | None:
    if calibration is None:
        return None
    return Calibrator(
        samples=load_samples(calibration, inputs=input_specs(model)),
        cache=Path(cache) if cache is not None else None,
        progress=lambda done, total: report("calibrating", done, total),
    )


def _doubts(model: ir.Model, calibrator: Calibrator | None) -> tuple[SampleWarning, ...]:
    if calibrator is None:
        return ()
    shared_worker()  # it starts while samples are read
    # Before any pass: what the model does to its inputs is plainest then.
    return lint_samples(model, calibrator.samples, specs=input_specs(model))


def _saved(model: ir.Model, output: str | Path | None, report: Reporter) -> tuple[Path, ...]:
    return () if output is None else save(model, output, progress=_byte_progress(report))


def _byte_progress(report: Reporter) -> Callable[[int, int], None]:
    return lambda done, total: report("writing MB", done // 10**6, total // 10**6)


def _pass_progress(report: Reporter) -> Callable[[PassEvent], None]:
    return lambda event: report(f"{event.name}: {event.edits} edits, {event.seconds:.2f} s")


def explain(
    path: str | Path, pass_text: str, *, calibration: SampleSource | None = None
) -> Journal:
    """Return where a pass would act on a model file, and where it matches and does not, and why.

    Args:
        path: ONNX file.
        pass_text: Name of a pass, or its pipeline text with options.
        calibration: Samples, where the pass measures something; without any, a pass that can do
            so acts on what is to be had without (`Pass.without_samples`).

    Raises:
        UnknownNameError: There is no such pass.
        PipelineSyntaxError, OptionError: The text cannot be understood.
        InputError: The file is not a usable model, or the samples do not fit it.
        PreconditionError: The pass can do nothing without calibration samples, and none were given.
    """
    steps = Pipeline.parse(pass_text)
    if calibration is None and len(alone := tuple(steps.passes())) == 1:
        steps = Pipeline.of(alone[0].without_samples())
    model = load(path)
    calibrator = _calibrator(model, calibration, None, Reporter(None, "explain"))
    if calibrator is not None:
        calibrator.samples.check(input_specs(model))
    # Nothing is written and nothing verified: a pass is asked where it would act, not whether it is
    # right.
    manager = PassManager(verify="off", target=TargetFacts(), statistics_provider=calibrator)
    return manager.run(model, steps).ledger.journal
