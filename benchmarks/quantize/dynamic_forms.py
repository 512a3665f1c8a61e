"""Models quantized dynamically, in the other form: not a bit of what they compute may change.

Usage:
    python benchmarks/quantize/dynamic_forms.py --zoo zoo [--models minilm.ts,whisper_enc.ts]
        [--work DIR] [--table benchmarks/quantize/results_dynamic_forms.md]

Each model of `zoo/NAME.EXPORTER/model.onnx` is quantized by ONNX Runtime's own `quantize_dynamic`.
graphopt brings its layers together to operators of ONNX Runtime, and writes them out again; and it
writes out what ONNX Runtime itself fuses and saves (`optimized_model_filepath`, extended). Files
before and after run on generated inputs of two sizes, with all of the runtime's optimizations and
with none. The exit status is 1 where a bit differs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from form_tables import Row, converted, tabulate
from onnxruntime.quantization import QuantType, quantize_dynamic

from graphopt.ir import load, operators_of
from graphopt.runtime import generate_feed_sets

MODELS = "minilm.ts,distilbert.ts,whisper_enc.ts,gpt2.dyn,t5s_dec.dyn,mobilenetv2.ts"
OPERATORS = ("MatMulInteger", "ConvInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul")
LEVELS = onnxruntime.GraphOptimizationLevel


def main() -> int:
    """Measure each model in both directions, and print the table."""
    rows = tabulate(
        measured,
        script="dynamic_forms.py",
        models=MODELS,
        about=__doc__ or "",
        title="Models quantized dynamically, in the other form",
        what="Bytes of all outputs, two\ngenerated inputs, with all of the runtime's optimizations "
        "and with none; CPU seconds of the conversion.",
    )
    return int(any("differ" in cell for row in rows for cell in row))


def measured(name: str, path: Path, folder: Path) -> Iterator[Row]:
    """Yield a row for each direction."""
    feeds = list(generate_feed_sets(load(path), seed=0))[:2]
    theirs, fused = folder / "theirs.onnx", folder / "fused.onnx"
    quantize_dynamic(path, theirs, per_channel=True, weight_type=QuantType.QInt8)
    session(theirs, LEVELS.ORT_ENABLE_EXTENDED, saved=fused)
    together, apart = folder / "together.onnx", folder / "apart.onnx"
    yield (f"`{name}`", *compared(theirs, together, "onnxruntime", feeds))
    yield ("and back", *compared(together, apart, "onnx", feeds))
    yield ("as the runtime fuses it", *compared(fused, folder / "unfused.onnx", "onnx", feeds))


def compared(before: Path, after: Path, to: str, feeds: list[dict[str, Any]]) -> Row:
    """Convert a file, and compare both."""
    found = counted(load(before))
    done = converted(before, after, f"convert-dynamic-layers{{to={to}}}")
    levels = [difference(before, after, feeds, level) for level in LEVELS_TOLD.values()]
    return (to, found, counted(done.model), done.refused, *levels, done.seconds)


LEVELS_TOLD = {"all": LEVELS.ORT_ENABLE_ALL, "none": LEVELS.ORT_DISABLE_ALL}


def counted(model: Any) -> str:
    """Return how many layers of each operator a model has."""
    found = {op_type: count for (_, op_type), count in operators_of(model).items()}
    told = [f"{found[name]} {name}" for name in OPERATORS if name in found]
    return ", ".join(told) or "none"


def session(path: Path, level: LEVELS, saved: Path | None = None) -> onnxruntime.InferenceSession:
    """Return a session at a level of optimization, which may write what it made of the model."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 3
    if saved is not None:
        options.optimized_model_filepath = str(saved)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def difference(before: Path, after: Path, feeds: list[dict[str, Any]], level: LEVELS) -> str:
    """Return in how many values two files differ, every output counted."""
    one, other = session(before, level), session(after, level)
    values = apart = 0
    for feed in feeds:
        for left, right in zip(one.run(None, feed), other.run(None, feed), strict=True):
            values += left.size
            apart += int(np.sum(left.view(np.uint8) != right.view(np.uint8)))
    return f"{apart} bytes differ" if apart else f"same, {values} values"


if __name__ == "__main__":
    sys.exit(main())
