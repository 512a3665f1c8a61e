"""What options of the session cost where ranges are taken: time of a run, and memory.

Usage:
    python benchmarks/calibration/session_options.py MODEL SAMPLES [--runs 16]

The model returns extremes of what its layers and activations compute, as it does where
`quantize-static` is calibrated. Each set of options runs in a process of its own on the same
samples, in turns with the others (three rounds); the lowest CPU time of a run counts. Prints a
table: milliseconds, and MB that the process wrote itself, beyond what it had before the model.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROUNDS = 3
# Name, level of optimization, packed weights, arena of memory.
KINDS = {
    "as calibrated": ("extended", "1", "exact"),
    "arena that doubles": ("extended", "1", "default"),
    "weights packed": ("extended", "0", "exact"),
    "layouts of the processor": ("all", "0", "exact"),
    "no arena": ("extended", "1", "none"),
}
OPERATORS = {"Conv", "Gemm", "MatMul", "Add", "Mul", "Relu", "Clip", "Sigmoid"}


def write_reduced(model: Path, folder: Path) -> Path:
    """Write the model that also returns reductions, with its weights beside it."""
    from graphopt.calibration.reductions import with_reductions
    from graphopt.ir import load, save

    loaded = load(model)
    values = [
        output.name or ""
        for node in loaded.graph
        if node.op_type in OPERATORS
        for output in node.outputs
    ]
    copy, _ = with_reductions(loaded, values)
    path = folder / "model.onnx"
    save(copy, path, external_data="model.onnx.data", alignment=4096)
    return path


def own_bytes() -> int:
    """Return what this process wrote (Linux)."""
    for line in Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines():
        if line.startswith("Anonymous:"):
            return 1024 * int(line.split()[1])
    raise OSError("the system does not say what a process wrote")


def run_one(kind: str, model: Path, samples: list[Path]) -> dict[str, float]:
    """Load and run with one set of options."""
    import onnxruntime as ort

    from graphopt.runtime.hosted_session import renew_exact_arena

    level, unpacked, arena = KINDS[kind]
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = getattr(
        ort.GraphOptimizationLevel, f"ORT_ENABLE_{level.upper()}"
    )
    options.intra_op_num_threads = 1
    options.enable_mem_pattern = False
    options.enable_cpu_mem_arena = arena != "none"
    if arena == "exact":
        renew_exact_arena()
        options.add_session_config_entry("session.use_env_allocators", "1")
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    options.add_session_config_entry("session.disable_prepacking", unpacked)
    before = own_bytes()
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    least, most = float("inf"), 0
    for path in samples:
        feed = dict(np.load(path))
        start = time.process_time()
        session.run(None, feed)
        least = min(least, time.process_time() - start)
        most = max(most, own_bytes())
    return {"ms": 1e3 * least, "mb": (most - before) / 1e6}


def main() -> None:
    """Run every set of options in turns."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("samples", type=Path)
    parser.add_argument("--runs", type=int, default=16)
    parser.add_argument("--kind", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    samples = sorted(arguments.samples.glob("*.npz"))[: arguments.runs]
    if arguments.kind:
        print(json.dumps(run_one(arguments.kind, arguments.model, samples)))
        return
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as name:
        path = write_reduced(arguments.model, Path(name))
        for _ in range(ROUNDS):
            for kind, rows in found.items():
                command = [sys.executable, __file__, str(path), str(arguments.samples)]
                command += ["--runs", str(arguments.runs), "--kind", kind]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                rows.append(json.loads(done.stdout))
    print("| options | ms | MB |\n|---|---:|---:|")
    for kind, rows in found.items():
        ms, mb = min(row["ms"] for row in rows), max(row["mb"] for row in rows)
        print(f"| {kind} | {ms:.1f} | {mb:.0f} |")


if __name__ == "__main__":
    main()
