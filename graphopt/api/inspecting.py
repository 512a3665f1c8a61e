"""What a model file is made of, and what samples for it are like."""

from __future__ import annotations

import itertools
from pathlib import Path

from graphopt.analysis import ModelSummary, infer_shapes, summarise
from graphopt.analysis.blocks import find_blocks
from graphopt.analysis.coupling import (
    couple,
    find_attentions,
    find_groups,
    find_loose_layers,
)
from graphopt.calibration import SampleSource, load_samples
from graphopt.calibration.lint import lint_survey
from graphopt.calibration.survey import Survey
from graphopt.compression.shared_weights import needlessly_shared, shared_weights
from graphopt.ir import load
from graphopt.report import LayersReport, SamplesReport, StructureReport
from graphopt.runtime import input_specs, shared_worker
from graphopt.search import LayerSaturation, predict_saturation

__all__ = [
    "inspect",
    "inspect_layers",
    "inspect_samples",
    "inspect_saturation",
    "inspect_structure",
]


def inspect(path: str | Path) -> ModelSummary:
    """Return what a model file is made of; no large weight is read.

    Raises:
        InputError: The file is not a usable model.
    """
    return summarise(load(path))


def inspect_structure(path: str | Path) -> StructureReport:
    """Return what of a model file stands or falls together: heads, neurons, channels, widths.

    Attentions and layers that are in no group are told with the reason.

    Raises:
        InputError: The file is not a usable model.
    """
    model = load(path)
    coupling = couple(model, infer_shapes(model))
    groups = find_groups(coupling)
    tied = needlessly_shared(model, list(shared_weights(model)))
    return StructureReport(
        groups=groups,
        attentions=find_attentions(model, coupling, groups),
        layers=find_loose_layers(model, coupling, groups),
        shared=[one.value.name or "" for one in tied],
    )


def inspect_layers(path: str | Path) -> LayersReport:
    """Return the blocks of a model file, and the sub-layers that they consist of.

    Raises:
        InputError: The file is not a usable model.
    """
    return LayersReport(blocks=find_blocks(load(path).graph))


def inspect_samples(
    path: str | Path, samples: SampleSource, *, evaluation: SampleSource | None = None
) -> SamplesReport:
    """Return what samples for a model file are like, and what is doubtful about them.

    Args:
        path: ONNX file.
        samples: Samples for calibration.
        evaluation: Samples on which results are judged, for comparison.

    Raises:
        InputError: The file is not a usable model, or samples do not fit it.
    """
    model = load(path)
    specs = input_specs(model)
    loaded = load_samples(samples, inputs=specs)
    survey = Survey.of(loaded, specs)
    judged = load_samples(evaluation, inputs=specs) if evaluation is not None else None
    if judged is not None:
        judged.check(specs)
    warnings = lint_survey(model, survey, judged)
    return SamplesReport(source=loaded.source, survey=survey, warnings=warnings)


def inspect_saturation(
    path: str | Path, samples: SampleSource, *, count: int = 2
) -> list[LayerSaturation]:
    """Return what a quantized model loses on x86 processors without VNNI, layer by layer.

    Args:
        path: ONNX file; without layers of 8-bit integers the list is empty.
        samples: Real inputs.
        count: How many of them are replayed.

    Raises:
        InputError: The file is not a usable model, or samples do not fit it.
        RuntimeFailure: The runtime refuses the model or a sample.
    """
    model = load(path)
    specs = input_specs(model)
    loaded = load_samples(samples, inputs=specs)
    loaded.check(specs)
    feeds = itertools.islice(loaded, count)
    return predict_saturation(model, feeds, worker=shared_worker())
