"""Quantize three real models with graphopt and its peer, and hold the results to what users notice.

Usage:
    python benchmarks/quantize/real_models.py --models DIR --work work --out results.json \
        [--only NAME,...] [--pipeline TEXT] [--repair off] [--rounds 30] [--threads 1]

`DIR/NAME/model.onnx` with `golden.npz` beside it: a voice activity detector that carries state, a
super-resolution network, an object detector. Calibration samples are written to
`work/NAME/samples`, bundles to `work/NAME/graphopt/bundle`. With `--pipeline`, that pipeline takes
the place of the target's.

Latency: original and candidate in turns in one process, on one thread, in CPU time; the low fifth
of the rounds counts. The ratio is candidate over original, the original as users run it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from real_inputs import Case, Feed, NotHere, Run, cases


def session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """Return a session with default settings but the number of threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def runner(path: Path, threads: int) -> Run:
    """Return a function that runs a model."""
    opened = session(path, threads)
    return lambda feed: opened.run(None, dict(feed))


def latency_ratio(original: Run, candidate: Run, feed: Feed, rounds: int) -> float:
    """Return CPU time of the candidate over that of the original, in turns."""
    times: dict[str, list[float]] = {"original": [], "candidate": []}
    repeats = max(1, int(0.02 / max(timed(original, feed, 1), 1e-6)))
    for number in range(rounds):
        order = [("original", original), ("candidate", candidate)]
        for name, run in order if number % 2 else reversed(order):
            times[name].append(timed(run, feed, repeats))
    low = {name: float(np.quantile(found, 0.2)) for name, found in times.items()}
    return low["candidate"] / low["original"]


def timed(run: Run, feed: Feed, repeats: int) -> float:
    """Return the CPU seconds of some runs."""
    start = time.process_time()
    for _ in range(repeats):
        run(feed)
    return time.process_time() - start


def write_samples(feeds: list[Feed], folder: Path) -> Path:
    """Write each feed to a file; what is there already stays."""
    if not folder.exists():
        folder.mkdir(parents=True)
        for number, feed in enumerate(feeds):
            arrays: dict[str, NDArray[Any]] = dict(feed)
            np.savez(folder / f"{number:03}.npz", **arrays)
    return folder


def ours(
    source: Path, samples: Path, folder: Path, case: Case, arguments: argparse.Namespace
) -> Path:
    """Run graphopt's command; return the model that it wrote."""
    graphopt = [sys.executable, "-m", "graphopt"]
    folder.mkdir(parents=True, exist_ok=True)
    given = ["--calibration", str(samples)]
    if arguments.pipeline:
        path = folder / "model.onnx"
        command = ["run", str(source), "--pipeline", arguments.pipeline, *given, "-o", str(path)]
        command.append("--force")
    else:
        path = folder / "bundle" / "model.onnx"
        target = ["--target", "cpu-int8", "--force", "-o", str(path.parent)]
        gates = [part for gate in case.gates for part in ("--gate", gate)]
        command = ["optimize", str(source), *target, *given, *gates, "--repair", arguments.repair]
    done = subprocess.run(
        [*graphopt, *command], capture_output=True, text=True, check=False, cwd=folder.parent
    )
    print(done.stdout[-3000:] or done.stderr[-3000:], file=sys.stderr)
    if not path.exists():
        raise RuntimeError(done.stderr.strip()[-500:] or f"exit {done.returncode}")
    return path


def peer_dynamic(
    source: Path, _samples: Path, folder: Path, _case: Case, _: argparse.Namespace
) -> Path:
    """Quantize with ONNX Runtime's `quantize_dynamic` at its defaults."""
    from onnxruntime.quantization import quantize_dynamic

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "dynamic.onnx"
    quantize_dynamic(str(source), str(path))
    return path


TOOLS: dict[str, Callable[[Path, Path, Path, Case, argparse.Namespace], Path]] = {
    "graphopt": ours,
    "onnxruntime quantize_dynamic": peer_dynamic,
}


def judged(case: Case, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the results of all tools for one model."""
    source = (arguments.models / case.name / "model.onnx").resolve()
    original = runner(source, arguments.threads)
    work = (arguments.work / case.name).resolve()
    samples = write_samples(case.calibration(original), work / "samples")
    results: dict[str, Any] = {"limit": case.limit}
    for name, tool in TOOLS.items():
        try:
            path = tool(source, samples, work / name.split()[0], case, arguments)
            candidate = runner(path, arguments.threads)
            quality, is_good = case.quality(original, candidate)
        except (
            RuntimeError,
            ValueError,
            onnxruntime.capi.onnxruntime_pybind11_state.Fail,
        ) as error:
            results[name] = {"failure": str(error).splitlines()[-1]}
            continue
        results[name] = {
            "is good enough": is_good,
            **quality,
            "size ratio": path.stat().st_size / source.stat().st_size,
            "latency ratio": latency_ratio(original, candidate, case.timed(), arguments.rounds),
        }
    return results


def main() -> int:
    """Measure, print and write; the exit status is 1 where graphopt's result is not good enough."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="")
    parser.add_argument("--pipeline", default="")
    parser.add_argument("--repair", default="120")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    results: dict[str, Any] = {}
    for case in cases(arguments.models):
        if arguments.only and case.name not in arguments.only.split(","):
            continue
        try:
            results[case.name] = judged(case, arguments)
        except NotHere as error:
            results[case.name] = {"skipped": str(error)}
        print(case.name, json.dumps(results[case.name], indent=2))
    arguments.out.write_text(json.dumps(results, indent=2), encoding="utf-8")
    good = [result.get("graphopt", {}).get("is good enough", True) for result in results.values()]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
