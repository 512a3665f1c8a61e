"""Task metrics: built in or the user's own, evaluated with a session."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np

from graphopt.calibration import calling, import_function
from graphopt.errors import MetricError, UnknownNameError
from graphopt.verification.differences import is_floating
from graphopt.verification.metric_functions import BUILT_IN, BuiltIn

__all__ = [
    "LabelledSamples",
    "Metric",
    "Predict",
    "Predictor",
    "evaluate",
    "load_metric",
    "metric_names",
]

Array: TypeAlias = np.ndarray[Any, Any]
Feeds: TypeAlias = Mapping[str, Any]
Predict: TypeAlias = Callable[[Feeds], dict[str, Any]]
"""Runs the model: input arrays by name to output arrays by name."""


class Predictor(Protocol):
    """Something that runs a model; a `graphopt.runtime.Session` is one."""

    def run(self, feeds: Feeds, /) -> dict[str, Any]:
        """Return the outputs for some inputs."""
        ...


class LabelledSamples(Protocol):
    """Inputs with labels; a `graphopt.calibration.Samples` is one."""

    @property
    def labels(self) -> Array | None:
        """Labels of all samples, joined along the first axis."""
        ...

    def __iter__(self) -> Iterator[Any]:
        """Yield input arrays by name."""
        ...


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A task metric.

    Attributes:
        name: For reports.
        higher_is_better: Which direction is good.
        is_relative: `drop` is a fraction of the value before, not a plain difference.
        built_in: The metric on labels; ``None`` for a function.
        function: The user's `metric(predict) -> float`, which brings its own data.
    """

    name: str
    higher_is_better: bool = True
    is_relative: bool = False
    built_in: BuiltIn | None = None
    function: Callable[[Predict], float] | None = None

    @property
    def needs_samples(self) -> bool:
        """Whether `evaluate` needs labelled samples."""
        return self.built_in is not None

    def drop(self, before: float, after: float) -> float:
        """Return how much worse `after` is; negative where it is better.

        For a relative metric a fraction of `before`, infinite where that is 0 and `after` is worse.
        """
        worse = before - after if self.higher_is_better else after - before
        if not self.is_relative or worse == 0.0:
            return worse
        return worse / abs(before) if before else math.copysign(math.inf, worse)


def metric_names() -> tuple[str, ...]:
    """Return the names of the built-in metrics."""
    return tuple(BUILT_IN)


def load_metric(source: str | Callable[[Predict], float]) -> Metric:
    """Return a metric by name, from ``module:function``, or from a function.

    A function is called as `metric(predict)` and returns one number; higher is better unless the
    function has an attribute `higher_is_better` that is false.

    Raises:
        UnknownNameError: No built-in metric has the name.
        MetricError: The module or the function cannot be had.
    """
    if isinstance(source, str) and ":" not in source:
        if source not in BUILT_IN:
            raise UnknownNameError("metric", source, BUILT_IN)
        chosen = BUILT_IN[source]
        return Metric(
            name=source,
            higher_is_better=chosen.higher_is_better,
            is_relative=chosen.is_relative,
            built_in=chosen,
        )
    function = (
        import_function(source, what="the metric", failure=MetricError)
        if isinstance(source, str)
        else source
    )
    name = source if isinstance(source, str) else getattr(source, "__name__", "metric")
    is_good = bool(getattr(function, "higher_is_better", True))
    return Metric(name=name, higher_is_better=is_good, function=function)


def evaluate(metric: Metric, session: Predictor, samples: LabelledSamples | None = None) -> float:
    """Return the value of a metric for a loaded model.

    Args:
        metric: From `load_metric`.
        session: The model.
        samples: Labelled samples, for a built-in metric; a function brings its own.

    Raises:
        MetricError: Labels are missing or do not fit, the user's function raises something, or the
            value is not a finite number.
        RuntimeFailure: The model fails on a sample.
    """
    if metric.function is not None:
        with calling(metric.name, what="the metric", failure=MetricError):
            value = metric.function(session.run)
        return _finite(metric, value)
    if metric.built_in is None:
        raise MetricError(f"metric `{metric.name}` has no function")
    if samples is None or samples.labels is None:
        raise MetricError(
            f"metric `{metric.name}` needs labelled samples",
            why="there are no labels" if samples is not None else "there are no samples",
            hint="put the labels into the `.npz` under `__labels__`",
        )
    columns = list(_columns(metric.built_in, session, samples, np.asarray(samples.labels)))
    if not columns or not sum(part.shape[1] for part in columns):
        raise MetricError(f"metric `{metric.name}` has nothing to measure", why="no labelled rows")
    return _finite(metric, metric.built_in.combine(np.concatenate(columns, axis=1)))


def _columns(
    chosen: BuiltIn, session: Predictor, samples: Iterable[Feeds], labels: Array
) -> Iterator[Array]:
    """Yield what each sample contributes; samples take as many labels as they have rows."""
    used = 0
    for feeds in samples:
        prediction = _prediction(session.run(feeds))
        rows = prediction.shape[0] if prediction.ndim else 1
        part = labels[used : used + rows]
        if len(part) != rows:
            raise MetricError(
                "there are fewer labels than rows",
                why=f"{len(labels)} labels, and at least {used + rows} rows of output",
            )
        used += rows
        yield chosen.collect(prediction, part)
    # Labels go with rows by their order alone: one too many means that some sample has another's.
    if used != len(labels):
        raise MetricError(
            "there are more labels than rows", why=f"{len(labels)} labels, {used} rows of output"
        )


def _prediction(outputs: Mapping[str, Any]) -> Array:
    """Choose the output that labels are about: `logits`, else the first of floats, else any."""
    arrays = {name: item for name, item in outputs.items() if isinstance(item, np.ndarray)}
    if not arrays:
        raise MetricError("the model has no tensor among its outputs")
    floats = [item for item in arrays.values() if is_floating(item.dtype)]
    # By the name that exporters of transformers use: hidden states or a cache may come before it.
    chosen = arrays.get("logits", floats[0] if floats else next(iter(arrays.values())))
    return chosen.astype(np.float32) if chosen.dtype.kind == "V" else chosen


def _finite(metric: Metric, value: object) -> float:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise MetricError(
            f"metric `{metric.name}` did not return a number",
            why=f"found `{type(value).__name__}`",
        ) from error
    if not math.isfinite(number):
        raise MetricError(f"metric `{metric.name}` is {number}", why="expected a finite number")
    return number
