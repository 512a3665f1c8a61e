"""Run one simplifier on one model, as its users run it, and print what that took as one JSON line.

Usage:
    python benchmarks/simplify/peers.py TOOL MODEL OUT [--options JSON]

Each call is a process of its own. `seconds` and `cpu_s` count from the model's path to the saved
file, without starting Python and importing; imports are listed beside them. Needs the extra
`peers`, or graphopt for the tools named `graphopt:PIPELINE` (`graphopt:@exact`).
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

Run = Callable[[Path, Path], None]
LARGE_BYTES = 1_800_000_000  # protobuf cannot hold 2 GiB: above this, users save weights beside


def run_onnxsim(options: dict[str, Any]) -> Run:
    """`onnxsim MODEL OUT`."""
    import onnx
    import onnxsim

    def run(model: Path, out: Path) -> None:
        if weights_bytes(model) > LARGE_BYTES:
            onnxsim.simplify(str(model), output_path=str(out))
            return
        simplified, is_equal = onnxsim.simplify(str(model), **options)
        if not is_equal:
            raise RuntimeError("onnxsim's own check failed")
        onnx.save(simplified, str(out))

    return run


def run_onnxslim(options: dict[str, Any]) -> Run:
    """`onnxslim MODEL OUT`."""
    import onnxslim

    def run(model: Path, out: Path) -> None:
        is_large = weights_bytes(model) > LARGE_BYTES
        onnxslim.slim(str(model), str(out), save_as_external_data=is_large, **options)

    return run


def run_onnxoptimizer(_options: dict[str, Any]) -> Run:
    """`python -m onnxoptimizer MODEL OUT`."""
    import onnxoptimizer

    def run(model: Path, out: Path) -> None:
        sys.argv = ["onnxoptimizer", str(model), str(out)]
        onnxoptimizer.main()

    return run


def run_onnxscript(_options: dict[str, Any]) -> Run:
    """`onnxscript.optimizer.optimize` on the intermediate representation, as its docs show."""
    import onnx_ir
    from onnxscript import optimizer

    def run(model: Path, out: Path) -> None:
        loaded = onnx_ir.load(model)
        optimizer.optimize(loaded)
        has_external = any(
            isinstance(value.const_value, onnx_ir.ExternalTensor)
            for value in loaded.graph.initializers.values()
        )
        onnx_ir.save(loaded, out, external_data=f"{out.name}.data" if has_external else None)

    return run


def run_ort(level: str) -> Callable[[dict[str, Any]], Run]:
    """ONNX Runtime's offline optimization: a session that saves its graph."""

    def prepare(_options: dict[str, Any]) -> Run:
        import onnxruntime as ort

        def run(model: Path, out: Path) -> None:
            settings = ort.SessionOptions()
            settings.log_severity_level = 3
            settings.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
            settings.optimized_model_filepath = str(out)
            if has_external_data(model):
                name = "session.optimized_model_external_initializers_file_name"
                settings.add_session_config_entry(name, f"{out.name}.data")
            ort.InferenceSession(model, settings, providers=["CPUExecutionProvider"])

        return run

    return prepare


def run_ort_transformers(options: dict[str, Any]) -> Run:
    """`python -m onnxruntime.transformers.optimizer` with the model type of the architecture."""
    from onnxruntime.transformers import optimizer

    def run(model: Path, out: Path) -> None:
        fused = optimizer.optimize_model(str(model), **options)
        is_large = weights_bytes(model) > LARGE_BYTES
        fused.save_model_to_file(str(out), use_external_data_format=is_large)

    return run


def run_graphopt(pipeline: str) -> Callable[[dict[str, Any]], Run]:
    """`graphopt run MODEL --pipeline PIPELINE --verify structure -o OUT`."""

    def prepare(options: dict[str, Any]) -> Run:
        from graphopt import api

        for room in ("ir", "pipeline", "report"):  # imported on first use: not a cost of the model
            importlib.import_module(f"graphopt.{room}")
        importlib.import_module("graphopt.pipeline").Pipeline.parse(pipeline)  # imports its passes
        run_pipeline = api.run_pipeline  # a name that imports what it is made of
        settings = {"verify": "structure", **options}

        def run(model: Path, out: Path) -> None:
            run_pipeline(model, pipeline, out, force=True, **settings)

        return run

    return prepare


TOOLS: dict[str, tuple[str, Callable[[dict[str, Any]], Run]]] = {
    "onnxsim": ("onnxsim", run_onnxsim),
    "onnxslim": ("onnxslim", run_onnxslim),
    "onnxoptimizer": ("onnxoptimizer", run_onnxoptimizer),
    "onnxscript": ("onnxscript", run_onnxscript),
    "ort-basic": ("onnxruntime", run_ort("ORT_ENABLE_BASIC")),
    "ort-extended": ("onnxruntime", run_ort("ORT_ENABLE_EXTENDED")),
    "ort-transformers": ("onnxruntime", run_ort_transformers),
}


def find_tool(name: str) -> tuple[str, Callable[[dict[str, Any]], Run]]:
    """Return the distribution and the preparation of a tool."""
    if name.startswith("graphopt:"):
        return "graphopt", run_graphopt(name.partition(":")[2])
    return TOOLS[name.partition(":")[0]]


def weights_bytes(model: Path) -> int:
    """Return the bytes of a model's folder entries that can hold weights."""
    return sum(path.stat().st_size for path in model.parent.glob(f"{model.name}*"))


def has_external_data(model: Path) -> bool:
    """Return whether files beside a model hold its weights."""
    return len(list(model.parent.glob(f"{model.name}*"))) > 1


def cpu_seconds() -> float:
    """Return the CPU time of this process and of its children, ended or still there (Linux)."""
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    ended = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    return ended + sum(map(_cpu_seconds_of, Path("/proc/self/task").glob("*/children")))


def _cpu_seconds_of(children: Path) -> float:
    ticks = 0
    for pid in children.read_text().split():
        # After the name, which may hold anything but ends in the last bracket: field 3 and on.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def resident_mb() -> float:
    """Return the largest resident memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Run one tool once."""
    parser = argparse.ArgumentParser(description="Run one simplifier once.")
    parser.add_argument("tool")
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--options", type=json.loads, default={})
    arguments = parser.parse_args()
    started = time.perf_counter()
    distribution, prepare = find_tool(arguments.tool)
    run = prepare(arguments.options)
    imported, cpu, resident = time.perf_counter(), cpu_seconds(), resident_mb()
    run(arguments.model, arguments.out)
    record = {
        "seconds": time.perf_counter() - imported,
        "cpu_s": cpu_seconds() - cpu,
        "import_s": imported - started,
        "import_rss_mb": resident,
        "version": version(distribution),
    }
    print(f"\nRESULT {json.dumps(record)}", flush=True)


if __name__ == "__main__":
    main()
