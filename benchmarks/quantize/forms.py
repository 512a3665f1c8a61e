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

import argparse
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from graphopt.analysis.quantized_forms import quantized_forms
from graphopt.ir import load, save
from graphopt.pipeline import PassManager, Pipeline

MODELS = "mobilenetv2.ts,resnet50.ts,efficientnet_b0.ts"
DIRECTIONS = {"qdq": QuantFormat.QOperator, "qoperator": QuantFormat.QDQ}
SHAPE = (1, 3, 224, 224)
Row = tuple[str, ...]


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
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        epilog=(__doc__ or "").partition("\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--zoo", type=Path, required=True)
    parser.add_argument("--models", default=MODELS, help="default: %(default)s")
    parser.add_argument("--work", type=Path, help="where files are written; default: temporary")
    parser.add_argument("--table", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.work) as folder:
        rows = [
            row
            for name in given.models.split(",")
            for row in measured(name, given.zoo / name / "model.onnx", Path(folder))
        ]
    text = table(rows)
    sys.stdout.write(text)
    if given.table is not None:
        given.table.write_text(text, encoding="utf-8")
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
        model = load(before)
        found = quantized_forms(model)
        start = time.process_time()
        manager = PassManager(verify="structure")
        result = manager.run(model, Pipeline.parse(f"convert-quantized-layers{{to={to}}}"))
        took = time.process_time() - start
        save(result.model, after)
        journal = result.ledger.journal
        refused = sorted({refusal.slug for refusal in journal.refusals})
        feeds = list(iter(Noise(feed, 1, 4).get_next, None))
        levels = [difference(before, after, feeds, level) for level in ("ALL", "DISABLE")]
        yield (
            f"`{name}`",
            to,
            counted(found),
            counted(quantized_forms(result.model)),
            f"{len(journal.refusals)} ({', '.join(refused)})" if refused else "0",
            *levels,
            f"{took:.1f}",
        )


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


def table(rows: list[Row]) -> str:
    """Return the rows as Markdown."""
    command = "`python benchmarks/quantize/forms.py --zoo zoo --table FILE`"
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("onnxruntime", "onnx"))
    lines = [
        "# Quantized models in the other form",
        "",
        command,
        "",
        f"{versions}; {platform.machine()}, Python {platform.python_version()}. Values of the",
        "outputs that differ in any bit, and by how much of the largest at most; CPU seconds.",
        "",
        "| model | to | layers before | after | refused | all optimizations | none | seconds |",
        "|---|---|---|---|---|---|---|---|",
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
