"""Time per tool on graphs of 1,000 to 64,000 nodes, and on a model with 3 GB of external data.

Usage:
    python benchmarks/simplify/synthetic.py --peers peers/bin/python --out synthetic.json
        [--sizes 1000,2000,4000] [--tools graphopt:@exact,onnxsim] [--timeout 300]
    python benchmarks/simplify/synthetic.py --peers ... --out large.json --large-gb 3

The series repeats one block as exporters write it: shape arithmetic around a Reshape, constants to
fold, duplicates, a pair of Transposes, Identity, MatMul and Add. The large model repeats it over
weights of 16 MB each; copying its bytes is timed beside the tools, in turns.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from cases import PEERS
from graphs import describe
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from outcomes import EXACT
from run import output_of, run_by_turns

OPSET = 20
NODES_PER_BLOCK = 20
SERIES_WIDTH, LARGE_WIDTH = 16, 2048
SIZES = (1000, 2000, 4000, 8000, 16000, 32000, 64000)


def block(number: int, source: str, weight: str, width: int) -> Iterator[onnx.NodeProto]:
    """Yield the twenty nodes of one block; the last makes `y{number}`, of the shape of `source`."""

    def name(suffix: str) -> str:
        return f"b{number}_{suffix}"

    def constant(suffix: str, value: NDArray[Any]) -> onnx.NodeProto:
        tensor = numpy_helper.from_array(value)
        return helper.make_node("Constant", [], [name(suffix)], value=tensor)

    def node(operator: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
        return helper.make_node(operator, inputs, [output], **attributes)

    yield constant("zero", np.array(0, np.int64))
    yield constant("axes", np.array([0], np.int64))
    yield constant("width", np.array([width], np.int64))
    for copy in ("shape", "again"):  # the same expression twice
        yield node("Shape", [source], name(copy))
        yield node("Gather", [name(copy), name("zero")], name(f"{copy}_batch"))
        yield node("Unsqueeze", [name(f"{copy}_batch"), name("axes")], name(f"{copy}_row"))
    yield node("Concat", [name("shape_row"), name("width")], name("target"), axis=0)
    yield node("Reshape", [source, name("target")], name("reshaped"))
    yield node("Identity", [name("reshaped")], name("same"))
    yield node("MatMul", [name("same"), weight], name("product"))
    yield constant("bias", np.full(width, 1 / (number + 3), np.float32))
    yield node("Add", [name("product"), name("bias")], name("sum"))
    yield node("Transpose", [name("sum")], name("turned"), perm=[1, 0])
    yield node("Transpose", [name("turned")], name("back"), perm=[1, 0])
    yield node("Concat", [name("again_row"), name("width")], name("again_target"), axis=0)
    yield node("Reshape", [name("back"), name("again_target")], name("flat"))
    yield node("Tanh", [name("flat")], f"y{number}")


def assemble(blocks: int, width: int, weights: list[TensorProto]) -> onnx.ModelProto:
    """Return a chain of blocks, float32 (batch, width) in and out."""
    nodes: list[onnx.NodeProto] = []
    for number in range(blocks):
        source = f"y{number - 1}" if number else "x"
        nodes += block(number, source, weights[number].name, width)
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width])
        for name in ("x", f"y{blocks - 1}")
    )
    graph = helper.make_graph(nodes, "synthetic", [x], [y], weights)
    opsets = [helper.make_opsetid("", OPSET)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def write_series(count: int, path: Path) -> None:
    """Write a model of about `count` nodes."""
    blocks, rng = count // NODES_PER_BLOCK, np.random.default_rng(0)
    shape = (SERIES_WIDTH, SERIES_WIDTH)
    weights = [
        numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), f"w{number}")
        for number in range(blocks)
    ]
    onnx.save(assemble(blocks, SERIES_WIDTH, weights), path)


def write_large(gigabytes: float, path: Path) -> None:
    """Write a model whose weights, 16 MB each and all different, lie in one file beside it."""
    rng, size = np.random.default_rng(0), 4 * LARGE_WIDTH**2
    blocks = max(1, round(gigabytes * 1e9 / size))
    weights = []
    with (path.parent / "model.onnx.data").open("wb") as data:
        for number in range(blocks):
            scale = np.float32(LARGE_WIDTH**-0.5)
            (rng.standard_normal(LARGE_WIDTH**2, dtype=np.float32) * scale).tofile(data)
            tensor = TensorProto(name=f"w{number}", data_type=TensorProto.FLOAT)
            tensor.dims.extend([LARGE_WIDTH, LARGE_WIDTH])
            tensor.data_location = TensorProto.EXTERNAL
            entries = {"location": "model.onnx.data", "offset": number * size, "length": size}
            for key, value in entries.items():
                tensor.external_data.add(key=key, value=str(value))
            weights.append(tensor)
    onnx.save(assemble(blocks, LARGE_WIDTH, weights), path)


def measure(tool: str, model: Path, work: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run one tool and return its record with the nodes that are left."""
    out = output_of(tool, work)
    record = run_by_turns([tool], model, work, arguments)[tool]
    if record["status"] == "done":
        found = describe(out)
        record |= {"nodes": found["nodes"], "bytes": found["bytes"]}
    shutil.rmtree(out.parent, ignore_errors=True)
    keys = ("status", "seconds", "cpu_s", "tree_mb", "nodes", "bytes", "error")
    return {key: record[key] for key in keys if key in record}


def slope(points: dict[int, float]) -> float | None:
    """Return the exponent of time over nodes, by the first and the last size: 1 is linear."""
    if len(points) < 2:
        return None
    (small, first), (large, last) = min(points.items()), max(points.items())
    return math.log(last / first) / math.log(large / small)


def run_series(arguments: argparse.Namespace, tools: list[str], work: Path) -> dict[str, Any]:
    """Run every tool on every size; a tool that fails or runs too long gets no larger one."""
    sizes = [int(size) for size in arguments.sizes.split(",")]
    results: dict[str, dict[int, Any]] = {tool: {} for tool in tools}
    for size in sizes:
        model = work / f"n{size}" / "model.onnx"
        model.parent.mkdir()
        write_series(size, model)
        for tool in tools:
            if any(record["status"] != "done" for record in results[tool].values()):
                continue
            record = results[tool][size] = measure(tool, model, work, arguments)
            print(size, tool, record.get("nodes", record["status"]), cost(record), flush=True)
    exponents = {}
    for tool, records in results.items():
        points = {size: item["cpu_s"] for size, item in records.items() if "cpu_s" in item}
        exponents[tool] = slope(points)
        print(f"{tool}: time grows as nodes ^ {exponents[tool]}")
    return {"series": results, "exponents": exponents}


def cost(record: dict[str, Any]) -> str:
    """Return seconds and memory of a record in words."""
    if record["status"] != "done":
        return str(record.get("error", ""))[-200:]
    seconds, cpu_s, memory = (record[key] for key in ("seconds", "cpu_s", "tree_mb"))
    return f"{seconds:.2f} s, {cpu_s:.2f} s of CPU, {memory:.0f} MB"


def copy_seconds(model: Path, work: Path) -> float:
    """Return how long copying the bytes of a model's folder takes."""
    target = work / "copy"
    started = time.perf_counter()
    shutil.copytree(model.parent, target)
    seconds = time.perf_counter() - started
    shutil.rmtree(target)
    return seconds


def run_large(arguments: argparse.Namespace, tools: list[str], work: Path) -> dict[str, Any]:
    """Run every tool on a large model, each time after a copy of its bytes, and keep all runs."""
    model = work / "large" / "model.onnx"
    model.parent.mkdir()
    write_large(arguments.large_gb, model)
    once = argparse.Namespace(**{**vars(arguments), "repeats": 1})
    results: dict[str, list[dict[str, Any]]] = {tool: [] for tool in tools}
    for tool in [tool for _ in range(arguments.repeats) for tool in tools]:
        os.sync()  # or what the last one left to be written slows the next one down
        copied = copy_seconds(model, work)
        os.sync()
        record = {**measure(tool, model, work, once), "copy_s": copied}
        results[tool].append(record)
        print(tool, cost(record), f"(copying: {copied:.2f} s)", flush=True)
    return {"large": results, "gigabytes": arguments.large_gb, "summary": summary(results)}


def summary(results: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return for each tool the median time over copying, turn by turn, and the largest memory."""
    found: dict[str, Any] = {}
    for tool, records in results.items():
        done = [record for record in records if record["status"] == "done"]
        if not done:
            continue
        ratios = [record["seconds"] / record["copy_s"] for record in done]
        found[tool] = {
            "runs": len(done),
            "seconds": statistics.median(record["seconds"] for record in done),
            "copy_s": statistics.median(record["copy_s"] for record in done),
            "over_copying": statistics.median(ratios),
            "tree_mb": max(record["tree_mb"] for record in done),
        }
        print(tool, found[tool])
    return found


def main() -> None:
    """Run the series, or the large model."""
    parser = argparse.ArgumentParser(description="Simplifiers on synthetic graphs.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--peers", default=sys.executable, help="Python with the extra `peers`")
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)))
    parser.add_argument("--tools", default=",".join([EXACT, *PEERS[:6]]))
    parser.add_argument("--large-gb", type=float, default=0.0, help="run the large model instead")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds per tool and graph")
    parser.add_argument("--memory", type=float, default=12_000.0, help="MB per tool")
    parser.add_argument("--work", help="folder for temporary models")
    arguments = parser.parse_args()
    run = run_large if arguments.large_gb else run_series
    with tempfile.TemporaryDirectory(dir=arguments.work) as work:
        results = run(arguments, arguments.tools.split(","), Path(work))
    arguments.out.write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
