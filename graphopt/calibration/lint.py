"""Doubts about samples: what a person would want to know before numbers rest on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.analysis import index_ranges, mask_inputs
from graphopt.calibration.samples import Samples
from graphopt.calibration.survey import (
    InputSurvey,
    Survey,
    distance,
    distance_from_normal,
    distance_from_uniform,
)
from graphopt.ir import constant_array
from graphopt.runtime import TensorSpec

__all__ = ["SampleWarning", "lint_samples", "lint_survey"]

_FEW_ROWS = 32
# Nobody serves such a batch; an array of all rows that somebody had is what it is.
_LARGE_BATCH = 512
_MANY_DUPLICATES = 0.05
# Evenly drawn or normal values come within this; measured ones have never come near it.
_RANDOM_DISTANCE = 0.05
_RANDOM_CORRELATION = 0.1
_LEAST_ELEMENTS = 2048
_LEAST_TABLE = 100
_PEAK = 0.02
_FAR = 0.2
_MANY_OUTSIDE = 0.01
_BRIGHTEST = 255.0
_LARGEST_UNIT = 1.01

_CONVOLVING = frozenset({"Conv", "ConvInteger", "QLinearConv", "MaxPool", "AveragePool"})
_ARITHMETIC = frozenset({"Add", "Sub", "Mul", "Div"})
_PASSING = frozenset(
    {"Cast", "Identity", "Transpose", "Pad", "Unsqueeze", "Squeeze", "BatchNormalization", "Clip"}
)


@dataclass(frozen=True, kw_only=True)
class SampleWarning:
    """A doubt about samples.

    Attributes:
        slug: ``too-few``, ``large-batch``, ``duplicates``, ``constant-input``, ``looks-random``,
            ``wrong-range``, ``wrong-layout`` or ``differs-from-evaluation``.
        input: Name of the input it is about; ``None``: all of them.
        message: What was found, with the numbers, and what to do.
        evidence: The numbers alone.
    """

    slug: str
    input: str | None = None
    message: str
    evidence: Mapping[str, float | int | str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.slug}: {self.message}"

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)


def lint_samples(
    model: ir.Model,
    samples: Samples,
    evaluation: Samples | None = None,
    *,
    specs: Sequence[TensorSpec] | None = None,
) -> tuple[SampleWarning, ...]:
    """Return what is doubtful about calibration samples; they are read once.

    Args:
        model: The model that they are for.
        samples: Samples for calibration.
        evaluation: Samples on which the result is judged, which should be of the same kind.
        specs: Inputs of the model, where samples were not checked against them before.

    Raises:
        CalibrationDataError: A sample does not fit ``specs``; see `Samples.checked`.
    """
    return lint_survey(model, Survey.of(samples, specs), evaluation)


def lint_survey(
    model: ir.Model, survey: Survey, evaluation: Samples | None = None
) -> tuple[SampleWarning, ...]:
    """Return what is doubtful about calibration samples that were looked at before."""
    found = [*_amount(survey), *_batch(model, survey)]
    linter = _Linter(model)
    for item in survey.inputs.values():
        found += linter.lint(item)
    if evaluation is not None:
        found += _differences(survey, Survey.of(evaluation), mask_inputs(model))
    return tuple(found)


def _amount(survey: Survey) -> Iterator[SampleWarning]:
    if survey.rows < _FEW_ROWS:
        yield SampleWarning(
            slug="too-few",
            message=f"{survey.rows} rows in {survey.samples} samples show little of what a model "
            "meets; 100 to 500 are usual",
            evidence={"rows": survey.rows, "samples": survey.samples},
        )
    if survey.duplicates > _MANY_DUPLICATES * survey.samples:
        yield SampleWarning(
            slug="duplicates",
            message=f"{survey.duplicates} of {survey.samples} samples equal an earlier one",
            evidence={"duplicates": survey.duplicates, "samples": survey.samples},
        )


def _batch(model: ir.Model, survey: Survey) -> Iterator[SampleWarning]:
    inputs = [value for value in model.graph.inputs if value.name in survey.inputs]
    is_batch = all(
        value.shape is not None and len(value.shape) > 1 and not isinstance(value.shape[0], int)
        for value in inputs
    )
    if survey.largest > _LARGE_BATCH and inputs and is_batch:
        yield SampleWarning(
            slug="large-batch",
            message=f"a sample has {survey.largest} rows, which run and are timed as one batch; "
            "give one row per file, or `__labels__` beside them, by which they are cut into rows",
            evidence={"rows": survey.largest, "limit": _LARGE_BATCH},
        )


class _Linter:
    """Holds what a model tells of its inputs."""

    def __init__(self, model: ir.Model) -> None:
        self._indices = index_ranges(model)
        self._masks = mask_inputs(model)
        self._convolved = {
            value.name or "": divisor
            for value in model.graph.inputs
            if (divisor := _divisor_before_convolution(value)) is not None
        }

    def lint(self, item: InputSurvey) -> Iterator[SampleWarning]:
        # A mask of ones is constant in every sample of full length, and nothing is wrong with it.
        if not item.histogram.elements or item.name in self._masks:
            return
        table = self._indices.get(item.name)
        if table is not None:
            yield from _constant(item, is_usual=table < _LEAST_TABLE)
            yield from _random_indices(item, table)
            return
        yield from _constant(item, is_usual=item.histogram.elements == item.shapes.total())
        if item.name in self._convolved:
            yield from _random_image(item)
            yield from _pixels(item, self._convolved[item.name])
            yield from _layout(item)


def _constant(item: InputSurvey, *, is_usual: bool) -> Iterator[SampleWarning]:
    samples = item.shapes.total()
    if item.histogram.minimum == item.histogram.maximum and not is_usual:
        value = item.histogram.minimum
        yield SampleWarning(
            slug="constant-input",
            input=item.name,
            message=f"`{item.name}` is {value:g} everywhere in all {samples} samples",
            evidence={"value": value, "samples": samples},
        )
    elif item.constant_samples and not is_usual:
        yield SampleWarning(
            slug="constant-input",
            input=item.name,
            message=f"`{item.name}` holds one and the same value everywhere in "
            f"{item.constant_samples} of {samples} samples",
            evidence={"constant_samples": item.constant_samples, "samples": samples},
        )


def _random_indices(item: InputSurvey, table: int) -> Iterator[SampleWarning]:
    if table < _LEAST_TABLE or item.histogram.elements < _LEAST_ELEMENTS:
        return
    far = distance_from_uniform(item.histogram, 0.0, float(table))
    if far < _RANDOM_DISTANCE:
        yield SampleWarning(
            slug="looks-random",
            input=item.name,
            message=f"`{item.name}` is spread evenly over all {table} indices (distance {far:.3f} "
            "from the even distribution), as no text is",
            evidence={"distance_from_uniform": far, "indices": table},
        )


def _random_image(item: InputSurvey) -> Iterator[SampleWarning]:
    correlations, histogram = item.correlations, item.histogram
    if correlations is None or histogram.elements < _LEAST_ELEMENTS:
        return
    low, high = histogram.minimum, histogram.maximum
    far = {"normal": distance_from_normal(histogram)}
    far["uniform"] = distance_from_uniform(histogram, low, high) if low < high else 1.0
    kind = min(far, key=lambda name: far[name])
    if max(map(abs, correlations)) < _RANDOM_CORRELATION and far[kind] < _RANDOM_DISTANCE:
        yield SampleWarning(
            slug="looks-random",
            input=item.name,
            message=f"`{item.name}` looks like {kind} noise: neighbours correlate by "
            f"{correlations[0]:.3f}, where images have above 0.8",
            evidence={"correlation": correlations[0], f"distance_from_{kind}": far[kind]},
        )


def _pixels(item: InputSurvey, divisor: float) -> Iterator[SampleWarning]:
    low, high = item.histogram.minimum, item.histogram.maximum
    evidence = {"minimum": low, "maximum": high, "divisor": divisor}
    is_raw = item.is_whole and low >= 0.0 and 1.0 < high <= _BRIGHTEST
    if is_raw and divisor == 1.0 and item.histogram.elements >= _LEAST_ELEMENTS:
        yield SampleWarning(
            slug="wrong-range",
            input=item.name,
            message=f"`{item.name}` holds whole numbers in {low:g}..{high:g}, like pixels as they "
            "are stored, and the model does not scale them; most models want 0..1 or standardised",
            evidence=evidence,
        )
    if low >= 0.0 and high <= _LARGEST_UNIT and divisor > 1.0:
        yield SampleWarning(
            slug="wrong-range",
            input=item.name,
            message=f"`{item.name}` lies in {low:g}..{high:g}, and the model itself divides it by "
            f"{divisor:g}; it wants pixels as they are stored, 0..255",
            evidence=evidence,
        )


def _layout(item: InputSurvey) -> Iterator[SampleWarning]:
    """Interleaved colours read as planes: values three steps apart are the nearest ones."""
    correlations = item.correlations
    if correlations is None:
        return
    near = correlations[2]
    if near > max(correlations[0], correlations[1], correlations[3]) + _PEAK:
        yield SampleWarning(
            slug="wrong-layout",
            input=item.name,
            message=f"in `{item.name}` values three steps apart correlate most ({near:.3f}, "
            f"neighbours {correlations[0]:.3f}): colours seem to come last (NHWC) and were "
            "reshaped where they should be transposed",
            evidence={f"correlation_{lag}": value for lag, value in enumerate(correlations, 1)},
        )


def _differences(survey: Survey, other: Survey, masks: frozenset[str]) -> Iterator[SampleWarning]:
    for name, item in survey.inputs.items():
        judged = other.inputs.get(name)
        if judged is None or not judged.histogram.elements or name in masks:
            continue
        far = distance(item.histogram, judged.histogram)
        outside = _outside(item, judged)
        if far > _FAR or outside > _MANY_OUTSIDE:
            mine, theirs = item.histogram, judged.histogram
            yield SampleWarning(
                slug="differs-from-evaluation",
                input=name,
                message=f"`{name}` spans {mine.minimum:g}..{mine.maximum:g} in calibration and "
                f"{theirs.minimum:g}..{theirs.maximum:g} in evaluation samples: their "
                f"distributions are {far:.2f} apart, and {outside:.1%} of the values lie outside",
                evidence={"distance": far, "outside": outside},
            )
        mine_long, theirs_long = item.usual_length, judged.usual_length
        if mine_long and theirs_long and not 0.5 <= mine_long / theirs_long <= 2.0:  # noqa: PLR2004 - half and double
            yield SampleWarning(
                slug="differs-from-evaluation",
                input=name,
                message=f"axis 1 of `{name}` is usually {mine_long} long in calibration and "
                f"{theirs_long} in evaluation samples",
                evidence={"length": mine_long, "evaluation_length": theirs_long},
            )


def _outside(item: InputSurvey, judged: InputSurvey) -> float:
    """Return the share of evaluated values in cells beyond what calibration saw."""
    edges, counts = judged.histogram.edges, judged.histogram.counts
    low, high = item.histogram.minimum, item.histogram.maximum
    beyond = (edges[1:] <= low) | (edges[:-1] > high)
    return float(counts[beyond].sum() / max(int(counts.sum()), 1))


def _divisor_before_convolution(value: ir.Value) -> float | None:
    """Return by what an input is divided before a convolution; ``None`` if none follows."""
    divisor = 1.0
    seen: set[ir.Value] = set()
    while value not in seen:
        seen.add(value)
        users = list(value.uses())
        if any(user.op_type in _CONVOLVING and index == 0 for user, index in users):
            return divisor
        followed = next((use for use in users if _is_followed(*use)), None)
        if followed is None:
            return None
        node, index = followed
        if node.op_type in ("Mul", "Div"):
            divisor *= _factor(node, index)
        value = node.outputs[0]
    return None


def _is_followed(node: ir.Node, index: int) -> bool:
    if node.domain or (node.op_type not in _PASSING and node.op_type not in _ARITHMETIC):
        return False
    return node.op_type in _PASSING or constant_array(node.inputs[1 - index], 1024) is not None


def _factor(node: ir.Node, index: int) -> float:
    """Return by what a ``Mul`` or ``Div`` divides, on the whole."""
    array = constant_array(node.inputs[1 - index], 1024)
    size = float(np.abs(array).mean()) if array is not None and array.size else 1.0
    if not size or (node.op_type == "Div" and index == 1):
        return 1.0
    return size if node.op_type == "Div" else 1.0 / size
