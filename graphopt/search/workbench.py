"""What every candidate is measured against: the original, inputs, a metric, a time budget."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.calibration import (
    Calibrator,
    Samples,
    SampleWarning,
    lint_samples,
    load_samples,
)
from graphopt.errors import (
    MetricError,
    RuntimeFailure,
    SessionLoadError,
    UnsupportedModelError,
)
from graphopt.ir import load
from graphopt.runtime import (
    Session,
    SessionOptions,
    TensorSpec,
    Worker,
    generate_feed_sets,
    input_specs,
    representative_feed,
    shared_worker,
)
from graphopt.search.absence import stand_in, why_absent
from graphopt.search.fixed_sizes import with_fixed_sizes
from graphopt.search.judging import judging_part
from graphopt.search.prepared_samples import check_prepared
from graphopt.search.progress import Reporter
from graphopt.search.remembered import Known, RememberingCalibrator
from graphopt.targets import Target
from graphopt.verification import Metric, evaluate, load_metric

__all__ = [
    "Feeds",
    "MetricSource",
    "SampleSource",
    "Workbench",
    "load_original",
    "prepare",
]

Feeds = Mapping[str, np.ndarray[Any, Any]]
SampleSource = str | Path | Iterable[Feeds] | Callable[[], Iterable[Feeds]]
MetricSource = str | Callable[..., float]

DEFAULT_METRIC = "top1"


@dataclass(frozen=True, kw_only=True)
class Workbench:
    """The fixed side of every measurement.

    Attributes:
        source: File of the original model.
        model: The original, loaded and normalised.
        target: The profile, with every override applied.
        options: Session options of the deployment; those of its stand-in where it is absent.
        absence: Why the target is not on this machine, so that numbers are those of a stand-in and
            nothing is timed; ``None`` where it is here.
        feeds: Inputs on which numbers are compared, real ones where there are samples.
        judging: The samples that `feeds` are; ``None``: they are generated.
        latency_feed: The input that is timed: the middle one by size of the real ones, or one
            generated input of the size that benchmarks use.
        calibration: Samples for calibration.
        calibration_cache: Folder of what was measured on samples before; ``None``: none.
        evaluation: Samples for comparing outputs and, with labels, for the task metric.
        metric: The task metric.
        metric_before: Its value for the original.
        latency_budget_s: Seconds for one latency comparison; ``None``: not measured.
        repair_budget_s: Seconds to find what must stay in float where candidates miss a
            correctness gate; ``None``: nothing is tried.
        sample_warnings: What is doubtful about the samples.
        seed: Seed of everything random.
        known: What calibration has measured so far.
        report: Where progress goes.
    """

    source: Path
    model: ir.Model
    target: Target
    options: SessionOptions
    feeds: tuple[Feeds, ...]
    judging: Samples | None
    latency_feed: Feeds
    calibration: Samples | None
    calibration_cache: Path | None
    evaluation: Samples | None
    metric: Metric | None
    metric_before: float | None
    latency_budget_s: float | None
    sample_warnings: tuple[SampleWarning, ...]
    seed: int
    repair_budget_s: float | None = None
    absence: str | None = None
    known: Known = field(default_factory=Known, repr=False)
    report: Reporter = field(default_factory=Reporter)

    @property
    def feeds_are_real(self) -> bool:
        """Whether `feeds` come from samples."""
        return self.judging is not None

    @property
    def worker(self) -> Worker:
        """The process in which sessions live; another one after a crash."""
        return shared_worker()

    def calibrator(self, progress: Callable[[int, int], None]) -> Calibrator | None:
        """Return what measures ranges on the samples; ``None`` without samples."""
        if self.calibration is None:
            return None
        return RememberingCalibrator(
            samples=self.calibration,
            cache=self.calibration_cache,
            progress=progress,
            known=self.known,
        )

    def sizes(self) -> dict[str, int]:
        """Return the sizes of symbolic dimensions in the inputs on which latency is measured."""
        found: dict[str, int] = {}
        for value in self.model.graph.inputs:
            array = self.latency_feed.get(value.name or "")
            if array is not None and value.shape is not None:
                pairs = zip(value.shape, array.shape, strict=False)
                found |= {
                    dim.value: size
                    for dim, size in pairs
                    if not isinstance(dim, int) and dim.value is not None
                }
        return found

    def metric_of(self, path: Path) -> float | None:
        """Return the task metric of a model file; ``None`` without one."""
        if self.metric is None:
            return None
        with self.worker.load(path, self.options) as session:
            return evaluate(self.metric, session, self.evaluation)


def prepare(
    source: str | Path,
    target: Target,
    *,
    calibration: SampleSource | None,
    calibration_cache: Path | None = None,
    evaluation: SampleSource | None,
    metric: MetricSource | None,
    latency_budget_s: float | None,
    repair_budget_s: float | None = None,
    seed: int,
    report: Reporter,
    home: Path | None = None,
) -> Workbench:
    """Load and check everything that the user gave, before any work is done.

    `home` may hold the tokenizer or the processor of the model; the others are as in `Workbench`.

    Raises:
        InputError: The model, the samples or the metric cannot be used.
    """
    path = Path(source).absolute()
    report("reading the model")
    model = load(path)
    sized = with_fixed_sizes(model, target)
    absence = why_absent(target)
    options = target.session_options() if absence is None else stand_in(target.session_options())
    evaluation, metric = _told_apart(evaluation, metric)
    with load_original(path, options) as session:
        report("checking the samples")
        specs = session.inputs if sized is model else input_specs(sized)
        calibration_samples = _checked(calibration, specs, sized, home)
        evaluation_samples = _checked(evaluation, specs, sized, home)
        judging = judging_part(calibration_samples, evaluation_samples)
        feeds = _feeds(sized, judging, seed, session)
        timed = _timed(sized, calibration_samples or evaluation_samples, seed, session)
    bench = Workbench(
        source=path,
        model=model,
        target=target,
        options=options,
        feeds=feeds,
        judging=judging,
        latency_feed=timed,
        calibration=calibration_samples,
        calibration_cache=calibration_cache,
        evaluation=evaluation_samples,
        metric=_metric(metric, evaluation_samples, target),
        metric_before=None,
        latency_budget_s=latency_budget_s if absence is None else None,
        absence=absence,
        repair_budget_s=repair_budget_s,
        sample_warnings=_doubts(model, calibration_samples, evaluation_samples),
        seed=seed,
        report=report,
    )
    return _judged_before(bench)


def _judged_before(bench: Workbench) -> Workbench:
    """Return the workbench with the task metric of the original, where there is one."""
    if bench.metric is not None:
        bench.report(f"measuring {bench.metric.name} of the original")
    # Before anything is built: a metric that cannot be computed is told at once.
    return dataclasses.replace(bench, metric_before=bench.metric_of(bench.source))


def _told_apart(
    evaluation: SampleSource | None, metric: MetricSource | None
) -> tuple[SampleSource | None, MetricSource | None]:
    """Return samples and metric, where the one name that was given may be of either."""
    if is_metric_function(evaluation) and metric is None:
        return None, str(evaluation)
    return evaluation, metric


def is_metric_function(evaluation: SampleSource | None) -> bool:
    """Tell whether ``--eval`` names a metric, as ``module:function``, and not a file."""
    is_text = isinstance(evaluation, str | Path)
    # Names of files may hold a colon, and on Windows whole paths do.
    return is_text and ":" in str(evaluation) and not Path(str(evaluation)).exists()


def load_original(path: Path, options: SessionOptions) -> Session:
    """Return a session of an original model, which the runtime must be able to load.

    Raises:
        UnsupportedModelError: It cannot.
    """
    try:
        return shared_worker().load(path, options)
    except SessionLoadError as error:
        raise UnsupportedModelError(
            f"ONNX Runtime cannot load `{path.name}`",
            why=error.why or error.message,
            hint="`graphopt doctor` shows the runtime's version and providers; operators of other "
            "domains need a runtime that has them",
        ) from error
    except RuntimeFailure as error:
        raise UnsupportedModelError(
            f"ONNX Runtime fails on `{path.name}`", why=error.message, hint=error.hint
        ) from error


def _checked(
    source: SampleSource | None, specs: Sequence[TensorSpec], model: ir.Model, home: Path | None
) -> Samples | None:
    if source is None:
        return None
    samples = load_samples(source, inputs=specs, home=home)
    check_prepared(model, samples)
    samples.check(specs)
    return samples


def _doubts(
    model: ir.Model, calibration: Samples | None, evaluation: Samples | None
) -> tuple[SampleWarning, ...]:
    return () if calibration is None else lint_samples(model, calibration, evaluation)


def _feeds(
    model: ir.Model, judging: Samples | None, seed: int, session: Session
) -> tuple[Feeds, ...]:
    if judging is None:
        return tuple(generate_feed_sets(model, count=2, seed=seed, session=session))
    # Copied, for whoever fills one array again and again.
    return tuple({name: array.copy() for name, array in feed.items()} for feed in judging)


def _timed(model: ir.Model, samples: Samples | None, seed: int, session: Session) -> Feeds:
    usual = judging_part(samples, None)
    real = None if usual is None else _feeds(model, usual, seed, session)
    return latency_feed(model, real, seed, session)


def latency_feed(
    model: ir.Model, real: Sequence[Feeds] | None, seed: int, session: Session
) -> Feeds:
    """Return the input that is timed: the middle one by size, or a generated one of usual size."""
    if real is None:
        return representative_feed(model, seed=seed, session=session)
    # The middle one: texts differ in length, and the first may be the longest.
    by_size = sorted(real, key=lambda feed: sum(array.size for array in feed.values()))
    return by_size[len(by_size) // 2]


def _metric(
    metric: MetricSource | None, evaluation: Samples | None, target: Target
) -> Metric | None:
    is_asked_for = metric is not None or "max_metric_drop" in target.demanded_gates
    # Without labels, samples for evaluation are those on which outputs are compared.
    if not is_asked_for and (evaluation is None or evaluation.labels is None):
        return None
    chosen = load_metric(metric or DEFAULT_METRIC)
    if evaluation is None and chosen.needs_samples:
        raise MetricError(
            f"metric `{chosen.name}` needs labelled samples",
            why="none were given",
            hint="give them with `--eval FILE.npz`, with the labels under `__labels__`",
        )
    return chosen
