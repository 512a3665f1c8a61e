"""Ranges of a model's values over samples, collected in one streaming pass."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.calibration.samples import Samples
from graphopt.ir import clone, save
from graphopt.rewrite import ValueRange
from graphopt.runtime import SessionOptions, Worker

__all__ = ["collect_ranges"]

# The sum is not wanted: it alone is sure to show a NaN, which minimum and maximum may skip.
_OBSERVERS = ("ReduceMin", "ReduceMax", "ReduceSum")
_Extremes = tuple[float, float]


def collect_ranges(
    model: ir.Model,
    samples: Samples,
    names: Sequence[str],
    *,
    worker: Worker,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, ValueRange]:
    """Run ``model`` on every sample and return what values span over all of them.

    The model is observed by reductions added to a temporary copy, so that values are reduced where
    they are computed and freed at once: memory is that of a plain run.

    Args:
        model: The model; it is left as it was.
        samples: Feeds.
        names: Inputs of the model, and float values of its main graph; other names are ignored.
        worker: Where the model runs.
        progress: Told after each sample how many are done, and how many there are.

    Returns:
        The range of each value that was seen; NaN on both sides where a value was ever NaN or
        infinite. A value that was always empty is left out.

    Raises:
        SessionLoadError: The runtime refuses the model.
        RunError: The runtime fails on a sample.
    """
    ranges: dict[str, ValueRange] = {}
    wanted = dict.fromkeys(names)
    observed = [name for name in _computed(model) if name in wanted]
    fed = [value.name for value in model.graph.inputs if value.name in wanted]
    total = len(samples)
    with tempfile.TemporaryDirectory(prefix="graphopt-ranges-") as folder:
        path = _save_observed(model, observed, Path(folder))
        # The runtime may optimize: a range does not hang on the last bit. Threads that spin while
        # they wait steal time from the reductions, which run on one.
        options = SessionOptions(
            optimization="all", threads=0, config={"session.intra_op.allow_spinning": "0"}
        )
        with worker.load(path, options) as session:
            outputs = [_output(name, reduction) for name in observed for reduction in _OBSERVERS]
            for done, feed in enumerate(samples, start=1):
                _widen(ranges, ((name or "", _extremes(feed[name or ""])) for name in fed))
                if observed:
                    found = session.run(feed, outputs)
                    _widen(ranges, ((name, _reduced(found, name)) for name in observed))
                if progress is not None:
                    progress(done, total)
    return ranges


def _computed(model: ir.Model) -> list[str]:
    return [output.name for node in model.graph for output in node.outputs if output.name]


def _output(name: str, reduction: str) -> str:
    return f"{name}//{reduction}"


def _save_observed(model: ir.Model, names: Iterable[str], folder: Path) -> Path:
    """Write a copy of ``model`` that also returns the reductions of the named values."""
    copy = clone(model)
    values = {output.name: output for node in copy.graph for output in node.outputs}
    for name in names:
        for reduction in _OBSERVERS:
            # All axes is what every opset does when none are given.
            attributes = [ir.AttrInt64("keepdims", 0)]
            node = ir.node(reduction, [values[name]], name=_output(name, reduction))
            node.attributes.update({attribute.name: attribute for attribute in attributes})
            node.outputs[0].name = _output(name, reduction)
            copy.graph.append(node)
            copy.graph.outputs.append(node.outputs[0])
    return save(copy, folder / "observed.onnx")[0]


def _extremes(array: npt.NDArray[Any]) -> _Extremes | None:
    if not array.size:
        return None
    return float(array.min()), float(array.max())


def _reduced(found: dict[str, Any], name: str) -> _Extremes | None:
    low, high, total = (float(found[_output(name, reduction)]) for reduction in _OBSERVERS)
    if not math.isfinite(total):
        return math.nan, math.nan
    return (low, high) if low <= high else None


def _widen(ranges: dict[str, ValueRange], found: Iterable[tuple[str, _Extremes | None]]) -> None:
    for name, extremes in found:
        if extremes is None:
            continue
        known = ranges.get(name, ValueRange(*extremes))
        # Unlike `min` and `max`, these keep a NaN wherever it stands.
        ranges[name] = ValueRange(
            float(np.minimum(known.minimum, extremes[0])),
            float(np.maximum(known.maximum, extremes[1])),
        )
