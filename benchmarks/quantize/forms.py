"""Quantized models in the other form: what of their outputs changes, deployed and without fusion.

Usage:
    python benchmarks/quantize/forms.py --zoo zoo [--models mobilenetv2.ts,resnet50.ts]
        [--work DIR] [--table benchmarks/quantize/results_forms.md]

Each model of `zoo/NAME.EXPORTER/model.onnx` is quantized by ONNX Runtime's own `quantize_static`
(8 noise images, by channel) as operators of integers, or as layers between Q and DQ. graphopt turns
it into the other form. Both run on other noise, with all of the runtime's optimizations and with
none: how many values of the outputs differ in any bit, and by how much of the largest at most.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from form_tables import Row, converted, tabulate
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from graphopt.analysis.quantized_forms import quantized_forms
from graphopt.ir import load

MODELS = "mobilenetv2.ts,resnet50.ts,efficientnet_b0.ts"
DIRECTIONS = {"qdq": QuantFormat.QOperator, "qoperator": QuantFormat.QDQ}
SHAPE = (1, 3, 224, 224)


class Noise(CalibrationDataReader):
    """Seeded images of noise."""

    def __init__(self, name: str, seed: int, count: int = 8) -> None:
        random = np.random.default_rng(seed)
        self.left = [{name: random.normal(size=SHAPE).astype(np.float32)} for _ in range(count)]

    def get_next(self) -> dict[str, Any] | None:
        """Return the next one; None after the last."""
        return self.left.pop() if self.left else None


def main() -> int:
    """Measure each model in both directions, and print the table."""
    tabulate(
        measured,
        script="forms.py",
        models=MODELS,
        about=__doc__ or "",
        title="Quantized models in the other form",
        what="Values of the outputs that\ndiffer in any bit, and by how much of the largest at "
        "most; CPU seconds.",
    )
    return 0


def measured(name: str, path: Path, folder: Path) -> Iterator[Row]:
    """Yield a row for each direction."""
    feed = load(path).graph.inputs[0].name or ""
    for to, form in DIRECTIONS.items():
        before, after = folder / f"{name}.{to}.before.onnx", folder / f"{name}.{to}.after.onnx"
        quantize_static(
            str(path),
            str(before),
            Noise(feed, 0),
            quant_format=form,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        found = counted(quantized_forms(load(before)))
        done = converted(before, after, f"convert-quantized-layers{{to={to}}}")
        feeds = list(iter(Noise(feed, 1, 4).get_next, None))
        levels = [difference(before, after, feeds, level) for level in ("ALL", "DISABLE")]
        now = counted(quantized_forms(done.model))
        yield (f"`{name}`", to, found, now, done.refused, *levels, done.seconds)


def counted(forms: dict[str, int]) -> str:
    """Return layers by form in words."""
    return ", ".join(f"{count} {form}" for form, count in forms.items()) or "none"


def difference(before: Path, after: Path, feeds: list[dict[str, Any]], level: str) -> str:
    """Return how many values differ, and by how much of the largest."""
    options = onnxruntime.SessionOptions()
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = (
        levels.ORT_ENABLE_ALL if level == "ALL" else levels.ORT_DISABLE_ALL
    )
    options.log_severity_level = 3
    one, other = (
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        for path in (before, after)
    )
    pairs = [(one.run(None, feed)[0], other.run(None, feed)[0]) for feed in feeds]
    apart = np.mean([(left != right).mean() for left, right in pairs])
    worst = max(np.abs(left - right).max() / np.abs(left).max() for left, right in pairs)
    return f"{apart:.2%}, {worst:.4f}" if apart else "none"


if __name__ == "__main__":
    sys.exit(main())
