"""The metric of small trained models against how much is pruned, by score and compensation.

Usage:
    python benchmarks/prune/train.py --out trained
    python benchmarks/prune/tables.py --models trained --out tables.json
    python benchmarks/prune/tables.py --out tables.json --table benchmarks/prune/results_tables.md

Every score, with every compensation, at 25, 50 and 75 % of heads, neurons or channels. Results are
written as they come, and what is there already is not measured again. The metric is that of rows
held out: accuracy for digits, bits per byte for the language model. What the outputs are off by on
the same rows, `sqrt(E|y - y0|^2 / E|y0|^2)`, is told where least squares loses rows: an accuracy of
a few hundred rows goes by whole rows. `--again` measures anew what is asked for, `--ratios` and
`--scores` ask for less. `--twice` makes one file of each model twice and compares the bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import platform
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from graphopt.calibration import Calibrator, load_samples
from graphopt.compression.pruning_options import SCORE_NAMES
from graphopt.ir import load, save
from graphopt.pipeline import Pipeline
from graphopt.runtime import cpu_name

KINDS = {
    "digits_cnn": ("channels",),
    "digits_transformer": ("neurons", "heads"),
    "byte_lm": ("neurons", "heads"),
}
RATIOS = (0.25, 0.5, 0.75)
COMPENSATIONS = ("off", "bias", "least-squares")
Key = tuple[str, str, str, str, float]


def main() -> None:
    """Measure what is missing, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, help="what train.py wrote; nothing is measured else")
    parser.add_argument("--out", type=Path, required=True, help="JSON file of all figures")
    parser.add_argument("--table", type=Path, help="Markdown file to write")
    parser.add_argument("--only", nargs="*", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--scores", nargs="*", default=list(SCORE_NAMES), choices=SCORE_NAMES)
    parser.add_argument("--kinds", nargs="*", default=["channels", "neurons", "heads"])
    parser.add_argument("--rows", type=int, default=256, help="calibration rows to use")
    parser.add_argument("--compensations", nargs="*", default=COMPENSATIONS, choices=COMPENSATIONS)
    parser.add_argument("--ratios", nargs="*", type=float, default=RATIOS, choices=RATIOS)
    parser.add_argument("--again", action="store_true", help="measure what is there once more")
    parser.add_argument("--twice", action="store_true", help="compare the bytes of two equal runs")
    arguments = parser.parse_args()
    results = json.loads(arguments.out.read_text()) if arguments.out.exists() else fresh()
    if arguments.models is not None:
        for name in arguments.only:
            bench = Bench(arguments.models / name, arguments.rows)
            results["original"][name] = bench.original
            results["rows"][name] = arguments.rows
            for key in wanted(name, arguments):
                if arguments.again or "/".join(map(str, key)) not in results["figures"]:
                    results["figures"]["/".join(map(str, key))] = bench.measure(key)
                    arguments.out.write_text(json.dumps(results, indent=1) + "\n")
            if arguments.twice:
                results["same_bytes"][name] = bench.is_repeatable()
            arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    if arguments.table is not None:
        arguments.table.write_text("\n".join(page(results)))


def fresh() -> dict[str, Any]:
    """Return results without figures."""
    return {
        "versions": {"onnxruntime": ort.__version__, "numpy": np.__version__},
        "machine": f"{cpu_name()}, Python {platform.python_version()}",
        "original": {},
        "rows": {},
        "same_bytes": {},
        "figures": {},
    }


def wanted(name: str, arguments: argparse.Namespace) -> Iterator[Key]:
    """Yield what is to be measured, what matters most first."""
    for compensation in ("off", "least-squares", "bias"):
        for kind in KINDS[name]:
            for ratio in arguments.ratios:
                for score in arguments.scores:
                    if kind in arguments.kinds and compensation in arguments.compensations:
                        yield name, kind, score, compensation, ratio


class Bench:
    """One trained model, with its samples."""

    def __init__(self, folder: Path, rows: int) -> None:
        self.folder = folder
        feeds = []
        for feed in load_samples(folder / "calibration"):
            left = rows - sum(len(array) for one in feeds for array in one.values())
            if left > 0:
                feeds.append({name: array[:left] for name, array in feed.items()})
        self.calibrator = Calibrator(samples=load_samples(feeds))
        self.exact = Pipeline.parse("@exact").run(load(folder / "model.onnx"), verify="off").model
        held = np.load(folder / "evaluation" / "rows.npz")
        (self.input,) = [key for key in held.files if key != "__labels__"]
        self.rows, self.labels = held[self.input], held["__labels__"]
        with tempfile.TemporaryDirectory() as work:
            self.start = save(self.exact, Path(work) / "exact.onnx")[0].read_bytes()
            self.wanted = self.outputs(folder / "model.onnx")
            self.original = self.metric(self.wanted)

    def pruned(self, key: Key, path: Path) -> Any:
        """Write a pruned model and return the record of it."""
        _, kind, score, compensation, ratio = key
        path.with_name("exact.onnx").write_bytes(self.start)
        text = f"prune-{kind}{{ratio={ratio} score={score} compensation={compensation}}}"
        result = Pipeline.parse(text).run(
            load(path.with_name("exact.onnx")),
            verify="structure",
            statistics_provider=self.calibrator,
            reproducer_dir=None,
        )
        save(result.model, path)
        return result.ledger

    def measure(self, key: Key) -> dict[str, Any]:
        """Return the metric of one pruned model, and how well its layers were fitted."""
        start = time.process_time()
        with tempfile.TemporaryDirectory() as work:
            path = Path(work) / "pruned.onnx"
            ledger = self.pruned(key, path)
            outputs = self.outputs(path)
            found = {"metric": self.metric(outputs), "bytes": path.stat().st_size}
            found |= self.by_row(outputs)
        off = np.square(outputs - self.wanted, dtype=np.float64).sum()
        found["error"] = math.sqrt(off / np.square(self.wanted, dtype=np.float64).sum())
        fits = [fit for decision in ledger.journal.decisions for fit in decision.fits]
        for side in ("before", "after"):
            errors = [getattr(fit, side) for fit in fits if getattr(fit, side) is not None]
            found[f"error_{side}"] = float(np.mean(errors)) if errors else None
        found["groups"] = len(ledger.journal.decisions)
        shown = {name: value for name, value in found.items() if name != "right"}
        print(*key, json.dumps(shown), f"{time.process_time() - start:.1f} s", flush=True)
        return found

    def outputs(self, path: Path) -> np.ndarray:
        """Return what a model makes of the rows held out."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        session = ort.InferenceSession(path, options)
        starts = range(0, len(self.rows), 64)
        parts = [session.run(None, {self.input: self.rows[at : at + 64]})[0] for at in starts]
        return np.concatenate(parts)

    def metric(self, logits: np.ndarray) -> float:
        """Return the accuracy in %, or bits per byte, of outputs for the rows held out."""
        if self.labels.ndim == 1:
            return float(100.0 * (logits.argmax(axis=1) == self.labels).mean())
        # Some rows at a time: in 64 bits the scores of all bytes of all rows are large.
        parts = [
            losses(logits[at : at + 64], self.labels[at : at + 64]).mean(axis=1) / math.log(2)
            for at in range(0, len(logits), 64)
        ]
        return float(np.concatenate(parts).mean())

    def by_row(self, logits: np.ndarray) -> dict[str, Any]:
        """Return the mean loss of digits in nats, and which rows are right, as bits in hex."""
        if self.labels.ndim != 1:
            return {}
        right = np.packbits(logits.argmax(axis=1) == self.labels)
        return {"loss": float(losses(logits, self.labels).mean()), "right": right.tobytes().hex()}

    def is_repeatable(self) -> bool:
        """Tell whether the same command writes the same bytes twice."""
        name = self.folder.name
        key = (name, KINDS[name][0], "wanda", "least-squares", 0.5)
        digests = set()
        with tempfile.TemporaryDirectory() as work:
            for _ in range(2):
                self.pruned(key, Path(work) / "pruned.onnx")
                digests.add(hashlib.sha256((Path(work) / "pruned.onnx").read_bytes()).digest())
        return len(digests) == 1


def losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the negative log-likelihood of each label, in nats."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    total = np.log(np.exp(shifted).sum(axis=-1))
    return total - np.take_along_axis(shifted, labels[..., None], axis=-1)[..., 0]


# -- the page ----------------------------------------------------------------------------------


def page(results: dict[str, Any]) -> Iterator[str]:
    """Yield the Markdown lines of all tables."""
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    yield "# Metric against ratio, by score and compensation\n"
    yield f"Made by `python benchmarks/prune/tables.py` with {versions} on {results['machine']}."
    yield "Accuracy in % (higher is better) for digits, bits per byte (lower is better) for the"
    yield "language model, on rows held out. `off`: no compensation; `ls`: least squares.\n"
    figures = {tuple(key.split("/")): found for key, found in results["figures"].items()}
    for name, kinds in KINDS.items():
        for kind in kinds:
            if any(key[:2] == (name, kind) for key in figures):
                yield from table(results, figures, name, kind)
    yield "## Least squares against none\n"
    yield from verdict(figures)
    for name, is_same in results["same_bytes"].items():
        word = "the same bytes" if is_same else "OTHER BYTES"
        yield f"- `{name}`: the same command twice gives {word}"
    yield ""


def table(results: dict[str, Any], figures: dict[Any, Any], name: str, kind: str) -> Iterator[str]:
    """Yield one table."""
    original = results["original"].get(name, math.nan)
    rows = results["rows"].get(name, 0)
    yield f"## {name}, {kind} (not pruned: {original:.4g}; {rows} rows to calibrate on)\n"
    labels = {"least-squares": "ls"}
    shown = [
        (ratio, how)
        for ratio in RATIOS
        for how in COMPENSATIONS
        if any(key[:2] == (name, kind) and key[3:] == (how, str(ratio)) for key in figures)
    ]
    heads = [f"{ratio:.0%} {labels.get(how, how)}" for ratio, how in shown]
    yield "| score | " + " | ".join(heads) + " |"
    yield "|---|" + "---:|" * len(heads)
    for score in SCORE_NAMES:
        cells = []
        for ratio, how in shown:
            found = figures.get((name, kind, score, how, str(ratio)))
            digits = 3 if name == "byte_lm" else 1
            cells.append("-" if found is None else f"{found['metric']:.{digits}f}")
        if set(cells) != {"-"}:
            yield f"| {score} | " + " | ".join(cells) + " |"
    yield ""


def verdict(figures: dict[Any, Any]) -> Iterator[str]:
    """Yield where least squares is not better than none, if anywhere."""
    total = better = 0
    for key, found in figures.items():
        none = figures.get((*key[:3], "off", key[4]))
        if key[3] != "least-squares" or none is None:
            continue
        sign = -1.0 if key[0] == "byte_lm" else 1.0
        gain = sign * (found["metric"] - none["metric"])
        total, better = total + 1, better + (gain > 0)
        if gain <= 0:
            where = ", ".join((*key[:3], key[4]))
            text = f"- {where}: {none['metric']:.4g} without, {found['metric']:.4g} with"
            if "error" in found and "error" in none:
                text += f"; the outputs are off by {none['error']:.3g} and {found['error']:.3g}"
            yield text
    yield f"\nLeast squares is better in {better} of {total} cases.\n"


if __name__ == "__main__":
    main()
