"""The acceptance benchmark: `graphopt.optimize` beside ONNX Runtime's own quantizers.

Usage:
    python benchmarks/optimize/prepare.py --tokenizer FOLDER --out zoo
    python benchmarks/optimize/run.py --zoo zoo --out results.json [--only minilm] [--rounds 10]

`zoo/` holds NAME.EXPORTER/model.onnx. Everything runs on one thread by default; the models of one
row are timed in turns in one process, so their ratios share whatever else the machine does.
The exit status is 1 where a limit is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from measure import (
    cosines,
    largest_float_tensor,
    load_feeds,
    measure_latencies,
    open_session,
    size_bytes,
)

QUANTIZERS = Path(__file__).with_name("quantizers.py")
EMBEDDING_TABLE = 30522 * 384  # elements of MiniLM's table


@dataclass(frozen=True)
class Case:
    """One model with its samples and the limits that the project set for it."""

    name: str
    family: str
    max_size_ratio: float | None = None
    min_cosine: float | None = None
    min_speedup: float | None = None
    max_time_ratio: float | None = None
    is_held_to_dynamic: bool = False

    @property
    def samples(self) -> str:
        """Name of the folder of calibration feeds."""
        return "minilm_samples" if self.family == "minilm" else "image_samples"

    @property
    def evaluation(self) -> str:
        """Name of the folder of evaluation feeds."""
        return "minilm_eval" if self.family == "minilm" else "image_eval"


def minilm(name: str) -> Case:
    """Return a sentence encoder's case."""
    return Case(name, "minilm", max_size_ratio=0.265, min_cosine=0.99, is_held_to_dynamic=True)


CASES = (
    minilm("minilm.ts"),
    minilm("minilm.dyn"),
    minilm("minilm.optimum"),
    Case("resnet50.ts", "resnet50", min_speedup=2.5, max_time_ratio=0.6),
    Case("resnet50.dyn", "resnet50", min_speedup=2.5, max_time_ratio=0.6),
    Case("mobilenetv2.ts", "mobilenetv2", max_time_ratio=0.6),
    Case("mobilenetv2.dyn", "mobilenetv2", max_time_ratio=0.6),
)


def run_quantizer(kind: str, model: Path, out: Path, samples: Path) -> dict[str, float]:
    """Quantize in a fresh process; return the seconds of the call, and of the whole process."""
    command = [sys.executable, str(QUANTIZERS), kind, str(model), str(out), str(samples)]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    process_s = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"{kind} failed on {model}:\n{done.stderr[-2000:]}")
    return {**json.loads(done.stdout.splitlines()[-1]), "process_s": process_s}


def best_of(runs: list[dict[str, float]]) -> dict[str, float]:
    """Return the smallest value of each key."""
    return {key: min(run[key] for run in runs) for key in runs[0]}


def quantize(model: Path, samples: Path, work: Path, repeats: int) -> dict[str, Any]:
    """Quantize with every tool; time both static quantizers in turns."""
    static = ("graphopt-static", "onnxruntime-static")
    runs: dict[str, list[dict[str, float]]] = {kind: [] for kind in static}
    for _ in range(repeats):
        for kind in static:
            runs[kind].append(run_quantizer(kind, model, work / f"{kind}.onnx", samples))
    kind = "onnxruntime-dynamic"
    run_quantizer(kind, model, work / f"{kind}.onnx", samples)
    ours, theirs = (best_of(runs[kind]) for kind in static)
    ratio = {key: ours[key] / theirs[key] for key in ours}
    return {"graphopt": ours, "onnxruntime": theirs, "ratio": ratio}


def optimize(model: Path, samples: Path, out: Path) -> dict[str, Any]:
    """Run the product and write its bundle to `out`."""
    import graphopt

    start = time.perf_counter()
    result = graphopt.optimize(model, target="cpu-int8", calibration=samples)
    result.bundle.save(out, force=True)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "chosen": result.report.chosen, "gates_met": result.gates_met}


def run_case(case: Case, arguments: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Quantize, optimize and measure one model."""
    model = arguments.zoo / case.name / "model.onnx"
    samples, feeds = arguments.zoo / case.samples, load_feeds(arguments.zoo / case.evaluation)
    bundle = work / "bundle"
    record: dict[str, Any] = {"name": case.name, "limits": asdict(case)}
    record["quantize"] = quantize(model, samples, work, arguments.repeats)
    record["optimize"] = optimize(model, samples, bundle)
    paths = {
        "original": model,
        "graphopt": bundle / "model.onnx",
        "ort_dynamic": work / "onnxruntime-dynamic.onnx",
        "ort_static": work / "onnxruntime-static.onnx",
    }
    sessions = {name: open_session(path, arguments.threads) for name, path in paths.items()}
    latencies = measure_latencies(sessions, feeds, arguments.rounds)
    for name, path in paths.items():
        found = cosines(sessions["original"], sessions[name], feeds)
        record[name] = {
            **asdict(latencies[name]),
            "latency_ratio": latencies[name].cpu_ms / latencies["original"].cpu_ms,
            "wall_ratio": latencies[name].wall_ms / latencies["original"].wall_ms,
            "size_bytes": size_bytes(path),
            "size_ratio": size_bytes(path) / size_bytes(model),
            "cosine": {"min": min(found), "mean": sum(found) / len(found)},
        }
    record["graphopt"]["largest_float_tensor"] = largest_float_tensor(paths["graphopt"])
    record["faults"] = faults(case, record)
    return record


def faults(case: Case, record: dict[str, Any]) -> list[str]:
    """Return the limits that this run missed, in words."""
    ours, found = record["graphopt"], []
    speedup = 1 / ours["latency_ratio"]
    time_ratio = record["quantize"]["ratio"]["wall_s"]
    if case.max_size_ratio and ours["size_ratio"] > case.max_size_ratio:
        found.append(f"size {ours['size_ratio']:.3f}x, limit {case.max_size_ratio}x")
    if case.min_cosine and ours["cosine"]["mean"] < case.min_cosine:
        found.append(f"mean cosine {ours['cosine']['mean']:.4f}, limit {case.min_cosine}")
    if case.min_speedup and speedup < case.min_speedup:
        found.append(f"{speedup:.2f}x faster, limit {case.min_speedup}x")
    if case.max_time_ratio and time_ratio > case.max_time_ratio:
        found.append(f"time to quantize {time_ratio:.2f}x, limit {case.max_time_ratio}x")
    if case.is_held_to_dynamic and ours["latency_ratio"] > record["ort_dynamic"]["latency_ratio"]:
        theirs = record["ort_dynamic"]["latency_ratio"]
        found.append(f"latency {ours['latency_ratio']:.3f}x, quantize_dynamic {theirs:.3f}x")
    if case.family == "minilm" and ours["largest_float_tensor"] >= EMBEDDING_TABLE:
        found.append("a floating-point copy of the embedding table is left")
    return found


def cosine_text(measured: dict[str, Any]) -> str:
    """Return the mean and the least cosine over the evaluation feeds."""
    return f"{measured['cosine']['mean']:.4f} ({measured['cosine']['min']:.4f})"


def print_table(records: list[dict[str, Any]]) -> None:
    """Print one row per model; ratios are to the original, smaller is better."""
    titles = ["model", "chosen", "size", "latency", "ort dynamic", "ort static"]
    titles += ["cosine mean (least), ort dynamic", "static quantizer / ort's: call, CPU, process"]
    titles += ["limits"]
    print("| " + " | ".join(titles) + " |")
    print("|---" * len(titles) + "|")
    for record in records:
        latency = [
            record[name]["latency_ratio"] for name in ("graphopt", "ort_dynamic", "ort_static")
        ]
        ours, ratio = record["graphopt"], record["quantize"]["ratio"]
        cells = [record["name"], str(record["optimize"]["chosen"]), f"{ours['size_ratio']:.3f}x"]
        cells += [f"{value:.3f}x" for value in latency]
        cells += [", ".join(cosine_text(record[name]) for name in ("graphopt", "ort_dynamic"))]
        cells += [", ".join(f"{value:.2f}x" for value in ratio.values())]
        cells += ["; ".join(record["faults"]) or "met"]
        print("| " + " | ".join(cells) + " |")


def parse_arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description="The acceptance benchmark.")
    parser.add_argument("--zoo", type=Path, required=True, help="folder of models and samples")
    parser.add_argument("--out", type=Path, required=True, help="where to write the JSON")
    parser.add_argument("--only", default="", help="run the cases whose name contains this")
    parser.add_argument("--rounds", type=int, default=10, help="timed rounds over all feeds")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of each quantizer")
    parser.add_argument("--threads", type=int, default=1, help="threads of each session")
    return parser.parse_args()


def main() -> int:
    """Run the cases, print the table, write the JSON."""
    arguments = parse_arguments()
    records = []
    for case in CASES:
        if arguments.only not in case.name:
            continue
        with tempfile.TemporaryDirectory() as folder:
            print(f"{case.name} ...", file=sys.stderr, flush=True)
            records.append(run_case(case, arguments, Path(folder)))
    document = {"threads": arguments.threads, "cpus": os.cpu_count(), "cases": records}
    arguments.out.write_text(json.dumps(document, indent=2), encoding="utf-8")
    print_table(records)
    return int(any(record["faults"] for record in records))


if __name__ == "__main__":
    sys.exit(main())
