"""Measure what sparsity, low rank and codebooks make of a trained model: metric, size, latency.

Usage:
    python benchmarks/prune/size_methods.py --model MODEL.onnx --calibration DIR --evaluation DIR
        --metric spearman|top1|bits|difference --work WORK --out results.json
        [--only TEXT ...] [--feeds N]
    python benchmarks/prune/size_methods.py --table results.json [...]

Each method is one `graphopt run`, in a process of its own; the pipeline is in the table, so that
each line can be made again. `spearman`: rank correlation of all pairwise cosine similarities of
sentence embeddings with those of the original, with the mean cosine; `top1`, and `bits` (per byte,
of a language model), over labelled samples; `difference`: the largest between any output of the
model and of the original, relative to the largest element, on a generated feed. `--feeds` takes so
many feeds of the calibration folder, evenly spread. Sizes are of the file, and of the file
compressed by zlib at level 6. Latency is that of the loaded model: CPU time over the original's,
runs in turns, one thread.
Loading is the least of three fresh processes, with what it adds to their memory.

`sentences.py` and `train.py` make models and samples. Results of earlier runs in `--out` are kept;
`--again` measures anew what is named by `--only`.
"""

from __future__ import annotations

import argparse
import functools
import json
import platform
import shutil
import subprocess
import sys
import time
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.calibration import load_samples
from graphopt.ir import load
from graphopt.runtime import (
    Session,
    SessionOptions,
    Worker,
    cpu_name,
    measure_cold_start,
    measure_latency,
    representative_feed,
    runtime_version,
)
from graphopt.verification import evaluate, load_metric

Feed = Mapping[str, npt.NDArray[Any]]

PIPELINES = {
    "original": "",
    "exact": "@exact",
    **{
        f"{score} {ratio:.0%}": f"@exact,prune-weights{{ratio={ratio} score={score}}}"
        for ratio in (0.5, 0.7)
        for score in ("random", "magnitude", "wanda", "sparsegpt")
    },
    "wanda 50% by output": "@exact,prune-weights{ratio=0.5 score=wanda compare=output}",
    **{
        f"{score} 2:4": f'@exact,prune-weights{{pattern="2:4" score={score}}}'
        for score in ("magnitude", "wanda", "sparsegpt")
    },
    "sparsegpt 4:8": '@exact,prune-weights{pattern="4:8"}',
    **{
        f"low rank {kept:.0%} {method}": f"@exact,factorize-weights{{ratio={kept} method={method}}}"
        for kept in (0.8, 0.6, 0.4)
        for method in ("plain", "whitened", "fitted")
    },
    "8-bit codebooks": "@exact,cluster-weights{bits=8}",
    "8-bit codebooks, no scales": "@exact,cluster-weights{bits=8 block_size=0}",
    **{
        f"4-bit codebooks, blocks of {size or 'all'}, {method}": "@exact,cluster-weights{"
        f"block_size={size} method={method}}}"
        for size in (0, 64)
        for method in ("plain", "weighted", "compensated")
    },
    "4-bit codebooks, tables too": "@exact,cluster-weights{table_bits=4 method=compensated}",
    "sparsegpt 50%, 4-bit codebooks": "@exact,prune-weights{ratio=0.5},cluster-weights",
    "4-bit blocks (quantize-weights)": "@exact,quantize-weights",
    "4-bit blocks, gptq (quantize-weights)": "@exact,quantize-weights{method=gptq}",
    "tied tables": "tie-embeddings",
    "8-bit blocks (pack-weights)": "@exact,pack-weights{ops=[MatMul,Gemm,Conv,Gather]}",
}


def build(model: Path, pipeline: str, calibration: Path | None, out: Path) -> tuple[float, str]:
    """Run a pipeline from the command line; return seconds and what it noted."""
    if not pipeline:  # with its weights beside it, where that is how it came
        for file in (model, model.with_name(f"{model.name}.data")):
            if file.exists():
                shutil.copyfile(file, out.with_name(file.name))
        return 0.0, ""
    command = [sys.executable, "-m", "graphopt", "run", str(model), "--pipeline", pipeline]
    command += ["--verify", "structure", "--json", "--force"]
    if calibration is not None:
        command += ["--calibration", str(calibration)]
    start = time.perf_counter()
    done = subprocess.run([*command, "-o", str(out)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{pipeline}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    report = json.loads(done.stdout)
    return time.perf_counter() - start, "; ".join(report.get("notes", []))


def embeddings(session: Session, feeds: Iterable[Feed]) -> npt.NDArray[np.float64]:
    """Return token states pooled over the mask, of length 1, a row for each sentence."""
    rows = []
    for feed in feeds:
        states = next(iter(session.run(feed).values())).astype(np.float64)
        weight = feed["attention_mask"][..., None]
        rows.append((states * weight).sum(axis=1) / weight.sum(axis=1))
    found = np.concatenate(rows)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def ranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return ranks; ties do not matter here."""
    return np.argsort(np.argsort(values)).astype(np.float64)


@functools.cache
def reference(original: Path, evaluation: Path) -> npt.NDArray[np.float64]:
    """Return the embeddings of the original."""
    with Worker() as worker, worker.load(original) as session:
        return embeddings(session, load_samples(str(evaluation)))


def difference(model: Path, original: Path) -> float:
    """Return the largest relative difference of outputs, both under the runtime's defaults."""
    feed = representative_feed(load(original))
    with Worker() as worker:
        found = []
        for path in (original, model):
            with worker.load(path, SessionOptions()) as session:
                found.append(session.run(feed))
    before, after = found
    return max(
        float(np.abs(after[name] - value).max() / np.abs(value).max())
        for name, value in before.items()
        if value.size and np.issubdtype(value.dtype, np.floating)
    )


def judge(metric: str, model: Path, original: Path, evaluation: Path) -> dict[str, float]:
    """Return the metric of a model, and what else tells how near it is."""
    if metric == "difference":
        return {"difference": difference(model, original)}
    with Worker() as worker:
        samples = load_samples(str(evaluation))
        with worker.load(model) as session:
            if metric == "top1":
                return {"top1": evaluate(load_metric("top1"), session, samples)}
            if metric == "bits":
                found = evaluate(load_metric("perplexity"), session, samples)
                return {"bits": float(np.log2(found))}
            after = embeddings(session, samples)
        before = reference(original, evaluation)
    pairs = np.triu_indices(len(before), 1)
    similar = [ranks((rows @ rows.T)[pairs]) for rows in (before, after)]
    correlation = float(np.corrcoef(*similar)[0, 1])
    return {"spearman": correlation, "cosine": float((before * after).sum(axis=1).mean())}


def measure(label: str, paths: argparse.Namespace, feed: Feed) -> dict[str, Any]:
    """Build one model, and measure it beside the original."""
    pipeline, built = PIPELINES[label], paths.work / paths.model.name
    seconds, notes = build(paths.model, pipeline, paths.calibration, built)
    files = [built, *paths.work.glob(f"{built.name}.data")]
    options = SessionOptions(threads=1)
    latency = measure_latency(paths.model, built, feed, options=options, budget_s=paths.budget)
    cold = [measure_cold_start(built, feed, options) for _ in range(3)]
    found = {
        "pipeline": pipeline,
        "metric": judge(paths.metric, built, paths.model, paths.evaluation),
        "bytes": sum(file.stat().st_size for file in files),
        "zlib_bytes": sum(len(zlib.compress(file.read_bytes(), 6)) for file in files),
        "cpu_ratio": latency.cpu_ratio,
        "verdict": latency.verdict,
        "load_ms": min(one.load_ms for one in cold),
        "memory_bytes": min(one.peak_rss_bytes - one.base_rss_bytes for one in cold),
        "seconds": seconds,
        "notes": notes,
    }
    for file in files:
        file.unlink()
    return found


def some_feeds(folder: Path, count: int | None, work: Path) -> Path:
    """Return a folder with `count` of the feeds of another one, evenly spread."""
    files = sorted(folder.glob("*.npz"))
    if count is None or count >= len(files):
        return folder
    chosen = work / "calibration"
    chosen.mkdir(exist_ok=True)
    for number in range(count):
        source = files[number * len(files) // count]
        (chosen / source.name).write_bytes(source.read_bytes())
    return chosen


def longest(feeds: Iterable[Feed]) -> Feed:
    """Return the first row of the largest feed: latency is that of batch 1."""
    feed = max(feeds, key=lambda one: sum(array.size for array in one.values()))
    return {name: array[:1] for name, array in feed.items() if not name.startswith("__")}


def table(files: Iterable[Path]) -> str:
    """Return results as Markdown."""
    parts = []
    for file in files:
        results = json.loads(file.read_text())
        names = list(next(iter(results["models"].values()))["metric"])
        heads = ["method", *names, "file", "zlib", "latency", "load", "memory", "pipeline"]
        lines = [f"## {results['name']}", "", results["about"], ""]
        lines += ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * (len(heads) - 2) + "---|"]
        for label, row in results["models"].items():
            cells = [
                label,
                *(f"{row['metric'][name]:.4g}" for name in names),
                f"{row['bytes'] / 1e6:.2f} MB",
                f"{row['zlib_bytes'] / 1e6:.2f} MB",
                f"{row['cpu_ratio']:.2f}",
                f"{row['load_ms']:.0f} ms",
                f"{row['memory_bytes'] / 1e6:.0f} MB",
                f"`{row['pipeline']}`" if row["pipeline"] else "",
            ]
            lines.append("| " + " | ".join(cells) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", type=Path, nargs="+", help="print results, and measure nothing")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--calibration", type=Path)
    parser.add_argument("--evaluation", type=Path)
    parser.add_argument(
        "--metric", choices=("spearman", "top1", "bits", "difference"), default="spearman"
    )
    parser.add_argument("--work", type=Path, help="folder for what is made on the way")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", nargs="+", help="methods whose label contains one of these")
    parser.add_argument("--again", action="store_true", help="measure anew what is in --out")
    parser.add_argument("--feeds", type=int, help="of the calibration folder; default: all")
    parser.add_argument("--budget", type=float, default=10.0, help="seconds of timing for each")
    paths = parser.parse_args()
    if paths.table:
        print(table(paths.table))
        return
    paths.work.mkdir(parents=True, exist_ok=True)
    count = 0
    if paths.calibration is not None:
        count = len(list(paths.calibration.glob("*.npz")))
        paths.calibration = some_feeds(paths.calibration, paths.feeds, paths.work)
    results = {
        "name": paths.model.parent.name,
        "about": f"{cpu_name()}, Python {platform.python_version()}, onnxruntime "
        f"{runtime_version()}, one thread; "
        f"{min(paths.feeds or count, count)} of {count} feeds to calibrate.",
        "models": {},
    }
    if paths.out.exists():
        results["models"] = json.loads(paths.out.read_text())["models"]
    if paths.evaluation is None:
        feed = representative_feed(load(paths.model))
    else:
        feed = longest(load_samples(str(paths.evaluation)))
    for label in PIPELINES:
        is_named = paths.only is None or any(text in label for text in paths.only)
        if is_named and (paths.again or label not in results["models"]):
            row = results["models"][label] = measure(label, paths, feed)
            figures = {name: round(value, 4) for name, value in row["metric"].items()}
            print(
                label,
                figures,
                f"{row['bytes'] / 1e6:.2f} MB",
                f"{row['seconds']:.0f} s",
                flush=True,
            )
            in_order = {
                one: results["models"][one] for one in PIPELINES if one in results["models"]
            }
            paths.out.write_text(json.dumps({**results, "models": in_order}, indent=1))


if __name__ == "__main__":
    main()
