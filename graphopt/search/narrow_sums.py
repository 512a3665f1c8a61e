"""Candidates for devices that add 8-bit products in 16 bits: 7-bit weights where they help."""

from __future__ import annotations

import glob
from collections.abc import Iterable
from dataclasses import replace

import onnx_ir as ir

from graphopt.pipeline import Pipeline
from graphopt.pipeline.pipeline import Element
from graphopt.rewrite import Pass
from graphopt.runtime import cpu_features
from graphopt.search.saturation import lacks_wide_sums, predict_saturation
from graphopt.search.workbench import Workbench
from graphopt.targets import Candidate

__all__ = ["with_narrow_layers"]

_SAMPLES = 2
_OPTION = "reduce_range_layers"


def with_narrow_layers(
    bench: Workbench, candidate: Candidate, model: ir.Model
) -> tuple[Candidate, tuple[str, ...]]:
    """Return a candidate whose layers that would saturate on the device have 7-bit weights.

    Only layers whose saturation costs more than the lost bit are named; the pipeline names them,
    so that the recipe can be run again.

    Args:
        bench: What is known of the device, and samples.
        candidate: What was built.
        model: What came of it.

    Returns:
        The candidate and the layers; the same candidate, and none, where nothing is to be done.

    Raises:
        RuntimeFailure: The runtime refuses the model or a sample.
    """
    # A target that says nothing of its device is meant for machines like this one.
    features = bench.target.device.features or cpu_features()
    if not candidate.pipeline or not lacks_wide_sums(features):
        return candidate, ()
    feeds = bench.feeds[:_SAMPLES]
    names = tuple(
        dict.fromkeys(
            layer.name
            for layer in predict_saturation(model, feeds, worker=bench.worker)
            if layer.saturation is not None and layer.saturation.is_worse_than_seven_bits
        )
    )
    pipeline = Pipeline.parse(candidate.pipeline)
    # Some recipes have all weights in 7 bits already, or none in integers.
    if not names or not any(_takes_names(step) for step in pipeline.passes()):
        return candidate, ()
    narrowed = Pipeline.of(*(_narrowed(step, names) for step in pipeline.elements))
    return replace(candidate, pipeline=str(narrowed)), names


def _takes_names(step: Pass) -> bool:
    return hasattr(step, _OPTION) and not getattr(step, "reduce_range", False)


def _narrowed(step: Element, names: Iterable[str]) -> Element:
    """Name the layers to a step that can quantize them, and leave other steps as they are."""
    if not isinstance(step, Pass) or not _takes_names(step):
        return step
    held: tuple[str, ...] = getattr(step, _OPTION)
    # Names of nodes may hold what would be a wildcard in a pattern.
    patterns = (glob.escape(name) for name in names)
    added = (pattern for pattern in patterns if pattern not in held)
    return replace(step, **{_OPTION: (*held, *added)})
