"""Peak memory for a model with more than 2 GB of external weights.

Usage:
    python benchmarks/large_model.py [--gigabytes 2.2] [--tensors 3] [--limit-mb 400]

Makes a model whose weights are holes in a sparse file, and in a process of its own loads it, takes
a checkpoint, runs `@exact` without verification and saves it with a copy of the weights. Prints
seconds and peak resident memory after each step, and exits 1 above the limit. Needs as much room in
the temporary folder as the weights take.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SCALE = 2**10 if sys.platform == "linux" else 1  # of `ru_maxrss`, in bytes
MEGABYTE = 10**6


def write_model(folder: Path, size_bytes: int, tensors: int) -> Path:
    """Write a chain of MatMuls whose weights are one sparse file; return the model's path."""
    import onnx
    from onnx import TensorProto, helper

    width = 4096
    rows = [size_bytes // tensors // 4 // width + index for index in range(tensors)]
    nodes, weights, offset = [], [], 0
    for index, count in enumerate(rows):
        weight = TensorProto(name=f"w{index}", data_type=TensorProto.FLOAT, dims=[count, width])
        weight.data_location = TensorProto.EXTERNAL
        entries = {"location": "weights.bin", "offset": offset, "length": count * width * 4}
        for key, value in entries.items():
            weight.external_data.add(key=key, value=str(value))
        offset += count * width * 4
        weights.append(weight)
        nodes.append(helper.make_node("Identity", [f"w{index}"], [f"i{index}"]))
        nodes.append(helper.make_node("Gather", [f"i{index}", "ids"], [f"g{index}"]))
    nodes.append(helper.make_node("Sum", [f"g{index}" for index in range(tensors)], ["y"]))
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["N"])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", width])
    graph = helper.make_graph(nodes, "large", [ids], [output], initializer=weights)
    opsets = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), folder / "model.onnx")
    with (folder / "weights.bin").open("wb") as stream:
        stream.truncate(offset)
    return folder / "model.onnx"


def run(model_path: Path) -> None:
    """Take each step and say what it took."""
    from graphopt.ir import Checkpoint, load, save
    from graphopt.pipeline import Pipeline

    def say(step: str, start: float) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * SCALE / MEGABYTE
        print(f"{step:12} {time.perf_counter() - start:7.2f} s   peak {peak:7.0f} MB", flush=True)

    start = time.perf_counter()
    model = load(model_path)
    say("load", start)
    start = time.perf_counter()
    Checkpoint.take(model)
    say("checkpoint", start)
    start = time.perf_counter()
    Pipeline.parse("@exact").run(model, verify="off", reproducer_dir=None)
    say("@exact", start)
    start = time.perf_counter()
    files = save(model, model_path.with_name("result.onnx"), external_data=True)
    say("save", start)
    assert files[1].stat().st_size >= model_path.with_name("weights.bin").stat().st_size


def main() -> int:
    """Measure and judge."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--gigabytes", type=float, default=2.2)
    parser.add_argument("--tensors", type=int, default=3)
    parser.add_argument("--limit-mb", type=float, default=400.0)
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run is not None:
        run(options.run)
        return 0
    with tempfile.TemporaryDirectory(prefix="graphopt-large-") as folder:
        path = write_model(Path(folder), int(options.gigabytes * 10**9), options.tensors)
        command = [sys.executable, __file__, "--run", str(path)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    print(output, end="")
    peak = float(output.split()[-2])
    print(f"limit {options.limit_mb:.0f} MB: {'kept' if peak < options.limit_mb else 'exceeded'}")
    return int(peak >= options.limit_mb)


if __name__ == "__main__":
    sys.exit(main())
