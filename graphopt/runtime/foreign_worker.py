"""Run another optimizer on one model file, as its users run it.

Usage:
    python foreign_worker.py TOOL MODEL OUT OPTIONS

A script of its own that needs nothing of graphopt, so that the interpreter of another environment
can run it. OPTIONS is a JSON object; `memory_bytes` limits what the process may allocate. The exit
status is 3 where the tool is not installed, 0 where all went well, else 1 with a traceback. What it
took, imports aside, goes to OUT with `.json` added.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

NOT_INSTALLED = 3


def run_onnxsim(model: str, out: str, _options: dict[str, Any]) -> None:
    """Run `onnxsim MODEL OUT`."""
    import onnx
    import onnxsim

    simplified, is_equal = onnxsim.simplify(model)
    if not is_equal:
        raise RuntimeError("onnxsim's own check failed")
    onnx.save(simplified, out)


def run_onnxslim(model: str, out: str, _options: dict[str, Any]) -> None:
    """Run `onnxslim MODEL OUT`."""
    import onnxslim

    onnxslim.slim(model, out)


def run_onnxscript(model: str, out: str, _options: dict[str, Any]) -> None:
    """Run `onnxscript.optimizer.optimize`, as its documentation shows."""
    import onnx_ir
    from onnxscript import optimizer

    loaded = onnx_ir.load(model)
    optimizer.optimize(loaded)
    onnx_ir.save(loaded, out)


def run_onnxruntime(model: str, out: str, options: dict[str, Any]) -> None:
    """Load a session that saves its graph."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    level = f"ORT_ENABLE_{options['level'].upper()}"
    settings.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    settings.optimized_model_filepath = out
    onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])


def run_ort_transformers(model: str, out: str, options: dict[str, Any]) -> None:
    """Run `python -m onnxruntime.transformers.optimizer`."""
    from onnxruntime.transformers import optimizer

    fused = optimizer.optimize_model(
        model,
        model_type=options["model_type"],
        num_heads=options["num_heads"],
        hidden_size=options["hidden_size"],
    )
    fused.save_model_to_file(out)


def run_graphopt(model: str, out: str, options: dict[str, Any]) -> None:
    """Run `graphopt run MODEL --pipeline P --verify structure -o OUT`."""
    api = importlib.import_module("graphopt.api")
    api.run_pipeline(model, options["pipeline"], out, verify="structure")


TOOLS = {
    "graphopt": (("graphopt.api",), run_graphopt),
    "onnxsim": (("onnxsim",), run_onnxsim),
    "onnxslim": (("onnxslim",), run_onnxslim),
    "onnxscript": (("onnxscript",), run_onnxscript),
    "onnxruntime": (("onnxruntime",), run_onnxruntime),
    "ort-transformers": (("torch", "onnxruntime.transformers.optimizer"), run_ort_transformers),
}


def limit_memory(count: int) -> None:
    """Let allocations fail beyond ``count`` bytes, where the system can."""
    try:
        import resource
    except ImportError:  # Windows
        return
    # Not the address space: libraries reserve far more of it than they use.
    resource.setrlimit(resource.RLIMIT_DATA, (count, count))


def peak_bytes() -> int:
    """Return the largest resident memory so far; 0 where the system does not tell."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    found = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
    return int(found[0].split()[1]) * 1024


def main() -> int:
    """Run one tool; return the exit status."""
    tool, model, out = sys.argv[1:4]
    options = json.loads(sys.argv[4])
    limit_memory(options["memory_bytes"])
    modules, run = TOOLS[tool]
    try:
        for module in modules:
            importlib.import_module(module)
    except ModuleNotFoundError as error:
        sys.stderr.write(str(error))
        return NOT_INSTALLED
    started, cpu = time.perf_counter(), time.process_time()
    run(model, out, options)
    took = {
        "seconds": time.perf_counter() - started,
        "cpu_s": time.process_time() - cpu,
        "peak_rss_bytes": peak_bytes(),
    }
    Path(f"{out}.json").write_text(json.dumps(took), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
