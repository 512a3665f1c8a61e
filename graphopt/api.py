"""The functions behind the public names and the commands."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path

import onnx_ir as ir

from graphopt.analysis import ModelSummary, summarise
from graphopt.calibration import collect_ranges, load_samples
from graphopt.errors import OptionError, OutputError
from graphopt.ir import load, save
from graphopt.pipeline import PassEvent, PassManager, Pipeline, PrintAfter, find_pass
from graphopt.pipeline.manager import Verify
from graphopt.report import ComparisonReport, LatencyReport, RunReport
from graphopt.rewrite import Journal, TargetFacts, ValueRange
from graphopt.runtime import (
    SessionOptions,
    generate_feed_sets,
    input_specs,
    measure_latency,
    shared_worker,
)
from graphopt.search import Feeds, ProgressCallback, Reporter, SampleSource
from graphopt.search.workbench import VERIFICATION_SAMPLES
from graphopt.targets import load_target
from graphopt.verification import compare_models

__all__ = ["bench", "explain", "inspect", "run_pipeline", "verify"]


def run_pipeline(
    source: str | Path,
    pipeline: str | Pipeline,
    output: str | Path | None = None,
    *,
    target: str | Path | None = None,
    calibration: SampleSource | None = None,
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
    steps = Pipeline.parse(pipeline) if isinstance(pipeline, str) else pipeline
    facts = load_target(target).to_facts() if target is not None else None
    if output is not None:
        refuse_existing(Path(output), force=force)
    model = load(path)
    before = summarise(model)
    report = Reporter(progress, "run")
    manager = PassManager(
        verify=verify,
        seed=seed,
        target=facts,
        statistics_provider=_statistics(model, calibration, report),
        progress=_pass_progress(report),
        print_after=print_after,
        worker=shared_worker(),
    )
    result = manager.run(model, steps, source=path)
    files = save(result.model, output) if output is not None else ()
    return RunReport(
        source=path, files=files, before=before, after=summarise(model), ledger=result.ledger
    )


def refuse_existing(output: Path, *, force: bool) -> None:
    """Refuse to overwrite before any work is done.

    Raises:
        OutputError: ``output`` exists and ``force`` is not set.
    """
    if output.exists() and not force:
        raise OutputError(
            f"`{output}` exists", why="it is not overwritten unasked", hint="add `--force`"
        )


def _statistics(
    model: ir.Model, calibration: SampleSource | None, report: Reporter
) -> Callable[[ir.Model, tuple[str, ...]], Mapping[str, ValueRange]] | None:
    if calibration is None:
        return None
    specs = input_specs(model)
    samples = load_samples(calibration, inputs=specs)
    samples.check(specs)

    def statistics(current: ir.Model, names: tuple[str, ...]) -> Mapping[str, ValueRange]:
        return collect_ranges(
            current,
            samples,
            names,
            worker=shared_worker(),
            progress=lambda done, total: report("calibrating", done, total),
        )

    return statistics


def _pass_progress(report: Reporter) -> Callable[[PassEvent], None]:
    return lambda event: report(f"{event.name}: {event.edits} edits, {event.seconds:.2f} s")


def verify(
    reference: str | Path,
    candidate: str | Path,
    *,
    samples: SampleSource | None = None,
    max_abs: float | None = None,
    max_rel: float | None = None,
    min_cosine: float | None = None,
    min_sqnr_db: float | None = None,
    threads: int = 1,
    seed: int = 0,
    progress: ProgressCallback | None = None,
) -> ComparisonReport:
    """Compare the outputs of two model files.

    The reference runs without the runtime's optimizations, the candidate with them, as deployed;
    without any limit both run without, and must agree bit for bit.

    Args:
        reference: The model that is right by definition.
        candidate: The model that is judged.
        samples: Real inputs; generated at two or more shapes where ``None``.
        max_abs: Largest absolute difference of an output.
        max_rel: Largest difference of an output, as a fraction of its largest value.
        min_cosine: Smallest cosine between the outputs, in [-1, 1].
        min_sqnr_db: Smallest signal-to-noise ratio, in dB.
        threads: Threads inside one operator.
        seed: Seed of generated inputs.
        progress: Called with each step.

    Raises:
        InputError: A model or the samples cannot be used.
        RuntimeFailure: The candidate does not load or run.
    """
    given = {
        "max_abs": max_abs,
        "max_rel": max_rel,
        "min_cosine": min_cosine,
        "min_sqnr_db": min_sqnr_db,
    }
    limits = {name: limit for name, limit in given.items() if limit is not None}
    report = Reporter(progress, "verify")
    report("comparing outputs")
    plain = SessionOptions(optimization="disabled", threads=threads)
    comparison = compare_models(
        reference,
        candidate,
        _feeds(Path(reference), samples, seed),
        worker=shared_worker(),
        reference_options=plain,
        candidate_options=SessionOptions(threads=threads) if limits else plain,
    )
    return ComparisonReport(
        reference=Path(reference), candidate=Path(candidate), comparison=comparison, limits=limits
    )


def _feeds(path: Path, samples: SampleSource | None, seed: int) -> list[Feeds]:
    model = load(path)
    if samples is None:
        return list(generate_feed_sets(model, seed=seed))
    specs = input_specs(model)
    loaded = load_samples(samples, inputs=specs)
    loaded.check(specs)
    return list(itertools.islice(loaded, VERIFICATION_SAMPLES))


def bench(
    baseline: str | Path,
    candidate: str | Path,
    *,
    samples: SampleSource | None = None,
    budget_s: float = 10.0,
    threads: int = 1,
    seed: int = 0,
    progress: ProgressCallback | None = None,
) -> LatencyReport:
    """Compare the latency of two model files, interleaved in one process.

    Args:
        baseline: What the candidate is compared with.
        candidate: The model in question.
        samples: Real inputs, of which the first is used; generated where ``None``.
        budget_s: Most seconds to measure.
        threads: Threads inside one operator; 0 lets the runtime choose.
        seed: Seed of generated inputs.
        progress: Called with each step.

    Raises:
        InputError: A model or the samples cannot be used.
        RuntimeFailure: A model does not load or run.
    """
    if threads < 0:
        raise OptionError(f"`{threads}` threads cannot be used", why="expected 0 or more")
    load(candidate)  # a file that is no model is the user's error, not a failed candidate
    feeds = _feeds(Path(baseline), samples, seed)[0]
    Reporter(progress, "bench")("timing")
    latency = measure_latency(
        baseline,
        candidate,
        feeds,
        options=SessionOptions(threads=threads),
        budget_s=budget_s,
        seed=seed,
    )
    return LatencyReport(
        baseline=Path(baseline), candidate=Path(candidate), threads=threads, latency=latency
    )


def inspect(path: str | Path) -> ModelSummary:
    """Return what a model file is made of; no large weight is read.

    Raises:
        InputError: The file is not a usable model.
    """
    return summarise(load(path))


def explain(path: str | Path, pass_name: str) -> Journal:
    """Return where a pass would act on a model file, and where it matches and does not, and why.

    Raises:
        UnknownNameError: There is no such pass.
        InputError: The file is not a usable model.
        PreconditionError: The pass needs calibration samples.
    """
    steps = Pipeline.of(find_pass(pass_name)())
    manager = PassManager(verify="off", target=TargetFacts(), worker=shared_worker())
    return manager.run(load(path), steps).ledger.journal
