"""Whether `cuda-fp16` keeps its promises: numbers, speed, no floats of 32 bits, no host copies.

Usage:
    python benchmarks/cuda/verify.py --model zoo/bert_base.ts/model.onnx --samples samples
        [--work work] [--out results.json] [--latency 10]

On a machine with a GPU and `onnxruntime-gpu`: the bundle is built, timed against the original on
the same provider, and placed. It must hold the gates of the target, take at most 0.55 of the time
of 32-bit floats, multiply nothing in 32 bits, and copy nothing between devices but inputs and
outputs. Elsewhere it is built and checked without running (`verified` is false): the products that
stay in 32 bits, and the estimate of what the provider runs.

The exit status is 1 where a promise is broken, 0 where all that could be checked here holds.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

MOST_OF_THE_TIME = 0.55
PRODUCTS = frozenset({"Attention", "Conv", "Gemm", "MatMul", "MultiHeadAttention", "FusedMatMul"})


def islands(path: Path) -> list[str]:
    """Return the products that a model computes in 32-bit floats."""
    import onnx_ir as ir

    from graphopt.analysis import infer_shapes
    from graphopt.ir import load, nodes

    model = load(path)
    shapes = infer_shapes(model)
    found = []
    for node in nodes(model):
        known = shapes.of(node.outputs[0])
        is_wide = known is not None and known.dtype == ir.DataType.FLOAT
        if node.op_type in PRODUCTS and is_wide:
            found.append(node.name or node.op_type)
    return found


def verify(arguments: argparse.Namespace) -> dict[str, Any]:
    """Build, measure what can be measured here, and judge."""
    import graphopt

    bundle = arguments.work / f"{arguments.model.parent.name}.cuda-fp16"
    result = graphopt.optimize(
        arguments.model,
        target="cuda-fp16",
        calibration=str(arguments.samples),
        output=bundle,
        latency_budget_s=arguments.latency,
        force=True,
    )
    report = result.report
    chosen = next(one for one in report.candidates if one.name == report.chosen)
    placement, wide = chosen.placement, islands(result.bundle.model_path)
    is_here = report.not_verified is None
    broken = [f"{gate.name} is {gate.value}" for gate in report.gates if gate.passed is False]
    broken += [f"{len(wide)} products in 32 bits: {', '.join(wide[:5])}"] if wide else []
    if is_here and (report.latency.ratio or 1.0) > MOST_OF_THE_TIME:
        broken.append(f"it takes {report.latency.ratio} of the time, limit {MOST_OF_THE_TIME}")
    if is_here and placement is not None and placement.copies > 0:
        broken.append(f"{placement.copies} copies between devices")
    return {
        "model": str(arguments.model),
        "verified": is_here,
        "not_verified": report.not_verified,
        "chosen": report.chosen,
        "size_ratio": report.size_bytes.after / report.size_bytes.before,
        "latency_ratio": report.latency.ratio,
        "placement": None if placement is None else placement.to_dict(),
        "broken": broken,
        "versions": dict(report.versions),
    }


def main() -> int:
    """Verify one model, and write what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--samples", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path())
    parser.add_argument("--latency", type=float, default=10.0, help="seconds for each candidate")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    found = verify(arguments)
    text = json.dumps(found, indent=2)
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n", encoding="utf-8")
    return int(bool(found["broken"]))


if __name__ == "__main__":
    sys.exit(main())
