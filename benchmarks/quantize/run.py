"""Quantize the zoo with graphopt and its peers, and measure every result beside the original.

Usage:
    python benchmarks/quantize/run.py --zoo zoo --samples samples --work work --out results.json \
        [--models NAME,...] [--tools KIND,...] [--nncf PYTHON] [--rounds 20]

`samples/` comes from `prepare.py`. What a tool wrote stays in `work/NAME/KIND/` and is measured
again by a later call, not made again, unless `--again KIND,...` says so. Results are merged into
`--out`.

Latency: original and candidate run in turns in one process, on one thread, every other setting at
its default; the best of the rounds counts, in CPU time. The ratio is candidate over original.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from quantizers import QUANTIZERS

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "optimize"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "simplify"))
from feeds import make_feed
from measure import embedding, load_feeds, measure_latencies, open_session, size_bytes

HERE = Path(__file__).resolve().parent
TIMEOUT_S = 1800
Feed = Mapping[str, NDArray[Any]]


def make(kind: str, model: Path, folder: Path, samples: Path, python: str) -> dict[str, Any]:
    """Run one tool unless its result is there; return what the call took, or why it failed."""
    kept = folder / "record.json"
    if kept.exists():
        return dict(json.loads(kept.read_text(encoding="utf-8")))
    folder.mkdir(parents=True, exist_ok=True)
    out = (folder / "model.onnx").resolve()
    command = [python, str(HERE / "quantizers.py"), kind, str(model.resolve()), str(out)]
    try:
        done = subprocess.run(
            [*command, str(samples.resolve())],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
            cwd=folder,  # nncf leaves a copy of large weights where it runs
        )
        failed = done.returncode != 0
        record = (
            {"failure": done.stderr.strip().splitlines()[-1:][0:1] or [f"exit {done.returncode}"]}
            if failed
            else json.loads(done.stdout.splitlines()[-1])
        )
        if not failed:
            record["said"] = done.stderr.strip().splitlines()[-1:]
    except subprocess.TimeoutExpired:
        record = {"failure": [f"more than {TIMEOUT_S} s"]}
    kept.write_text(json.dumps(record), encoding="utf-8")
    return record


def sqnr_db(references: Sequence[NDArray[Any]], candidates: Sequence[NDArray[Any]]) -> float:
    """Return the signal-to-noise ratio over all samples together, in dB."""
    signal = sum(float(np.square(a, dtype=np.float64).sum()) for a in references)
    pairs = zip(references, candidates, strict=True)
    noise = sum(float(np.square(a - b, dtype=np.float64).sum()) for a, b in pairs)
    return float("inf") if noise == 0 else 10 * float(np.log10(signal / noise))


def cosine(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Return the cosine between two arrays taken as vectors."""
    x, y = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    return float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)))


def measure(original: Path, candidate: Path, case: Case, rounds: int) -> dict[str, Any]:
    """Return latency ratio, error of the first output and size of one candidate."""
    sessions = {name: open_session(path, 1) for name, path in (("a", original), ("b", candidate))}
    outputs = {
        name: [session.run(None, dict(feed))[0] for feed in case.evaluation]
        for name, session in sessions.items()
    }
    pooled = [
        cosine(embedding(a, feed), embedding(b, feed))
        for a, b, feed in zip(outputs["a"], outputs["b"], case.evaluation, strict=True)
    ]
    times = measure_latencies(sessions, [case.timed], rounds)
    return {
        "original_ms": times["a"].cpu_ms,
        "latency_ratio": times["b"].cpu_ms / times["a"].cpu_ms,
        "wall_ratio": times["b"].wall_ms / times["a"].wall_ms,
        "sqnr_db": sqnr_db(outputs["a"], outputs["b"]),
        "cosine": {"mean": float(np.mean(pooled)), "min": min(pooled)},
        "size_ratio": size_bytes(candidate) / size_bytes(original),
    }


class Case:
    """One graph with its samples and the input on which it is timed."""

    def __init__(self, zoo: Path, samples: Path, name: str) -> None:
        self.name = name
        self.model = zoo / name / "model.onnx"
        self.calibration = samples / name / "calibration"
        self.evaluation = load_feeds(samples / name / "evaluation")
        spec = json.loads((zoo / name / "spec.json").read_text(encoding="utf-8"))
        # Sentences vary in length; the spec says at which size latency is quoted.
        self.timed = make_feed(spec, {}, 0) if name.startswith("minilm") else self.evaluation[0]
        if name.startswith("minilm"):
            self.timed["attention_mask"][...] = 1


def measure_apart(arguments: argparse.Namespace, name: str, candidate: Path) -> dict[str, Any]:
    """Measure in a process of its own: a model that crashes the runtime is a failure of its row."""
    command = [sys.executable, __file__, "--zoo", str(arguments.zoo)]
    command += ["--samples", str(arguments.samples), "--rounds", str(arguments.rounds)]
    command += ["--models", name, "--measure", str(candidate)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"failure": done.stderr.strip().splitlines()[-1:] or [f"exit {done.returncode}"]}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def parse_arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description="Quantizers beside each other.")
    parser.add_argument("--zoo", type=Path, required=True)
    parser.add_argument("--samples", type=Path, required=True)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--models", default="", help="names, comma-separated; default: all samples")
    parser.add_argument("--tools", default=",".join(QUANTIZERS))
    parser.add_argument("--again", default="", help="tools whose kept results are made anew")
    parser.add_argument(
        "--nncf", help="Python of an environment with nncf; without it it is left out"
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def run_tool(arguments: argparse.Namespace, case: Case, kind: str) -> dict[str, Any]:
    """Return the row of one tool on one graph."""
    folder = arguments.work / case.name / kind.replace(":", "-")
    if kind in arguments.again.split(","):
        (folder / "record.json").unlink(missing_ok=True)
    python = arguments.nncf if kind.startswith("nncf") else sys.executable
    record = make(kind, case.model, folder, case.calibration, python)
    if "failure" in record:
        return record
    return record | measure_apart(arguments, case.name, folder / "model.onnx")


def main() -> None:
    """Run every tool on every graph; write the rows as they come."""
    arguments = parse_arguments()
    names = [name for name in arguments.models.split(",") if name]
    names = names or sorted(path.name for path in arguments.samples.iterdir())
    if arguments.measure:
        case = Case(arguments.zoo, arguments.samples, names[0])
        print(json.dumps(measure(case.model, arguments.measure, case, arguments.rounds)))
        return
    kinds = [
        kind for kind in arguments.tools.split(",") if not kind.startswith("nncf") or arguments.nncf
    ]
    results = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    for name in names:
        case = Case(arguments.zoo, arguments.samples, name)
        for kind in kinds:
            row = run_tool(arguments, case, kind)
            results.setdefault(name, {})[kind] = row
            arguments.out.write_text(json.dumps(results, indent=1), encoding="utf-8")
            shown = {
                key: row[key] for key in ("latency_ratio", "sqnr_db", "size_ratio") if key in row
            }
            print(name, kind, row.get("failure") or shown, flush=True)


if __name__ == "__main__":
    main()
