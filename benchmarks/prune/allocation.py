"""Whether it pays to share out what goes: evenly, by scores, or by measured curves.

    python benchmarks/prune/train.py --out trained --only digits_transformer digits_cnn
    python benchmarks/prune/allocation.py trained/digits_transformer --kinds heads \
        --out results_allocation.md
    python benchmarks/prune/sentences.py --tokenizer FOLDER --out samples
    python benchmarks/prune/allocation.py samples --encoder model.onnx --feeds 32 \
        --out results_allocation_minilm.md

For each kind of unit, ratio and allocation the model is pruned on `calibration/` and judged on
`evaluation/`, which it has not seen: what the scores are off by, ``sqrt(E|y - y0|^2 / E|y0|^2)``,
the share of inputs that get the same class, and the share of the parameters that is left. Ratios of
`measured` are of the weights that lie on units, the others of units: compare by what is left. With
`--encoder` the model is a sentence encoder and the folder holds its samples: it is judged by what
embeddings are off by, and by the rank correlation of similarities with the original's, as `pairs`
of `minilm.py`. `seconds` are of pruning, on a machine that others shared.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from minilm import Judge, embeddings

from graphopt.analysis import summarise
from graphopt.calibration import Calibrator, load_samples
from graphopt.compression.unit_selection import ALLOCATIONS
from graphopt.ir import load, model_bytes, save
from graphopt.pipeline import Pipeline
from graphopt.runtime import cpu_name, runtime_version, shared_worker

HEADER = (
    "| model | pipeline | units gone by group | parameters left | error | {} | seconds |",
    "|---|---|---|---:|---:|---:|---:|",
)


def scores_of(model: Any, rows: list[Any]) -> np.ndarray:
    """Return the first output over all inputs, one row for each."""
    with shared_worker().load(model_bytes(model)) as session:
        name = session.outputs[0].name
        return np.concatenate([session.run(feed)[name] for feed in rows]).astype(np.float64)


Judging = Callable[[Any], tuple[float, float]]


def by_class(folder: Path) -> Judging:
    """Return what tells how far scores are off, and how many inputs get the same class."""
    rows = [dict(feed) for feed in load_samples(folder / "evaluation")]
    wanted = scores_of(load(folder / "model.onnx"), rows)

    def judge(model: Any) -> tuple[float, float]:
        found = scores_of(model, rows)
        error = float(np.sqrt(((found - wanted) ** 2).sum() / (wanted**2).sum()))
        return error, float((found.argmax(-1) == wanted.argmax(-1)).mean())

    return judge


def by_similarity(encoder: Path, samples: Path) -> Judging:
    """Return what tells how far embeddings are off, and how well similarities are ranked."""
    passages = Judge(encoder, samples)
    wanted = embeddings(encoder, passages.feeds)

    def judge(model: Any) -> tuple[float, float]:
        with tempfile.TemporaryDirectory() as folder:
            found = embeddings(save(model, Path(folder) / "pruned.onnx")[0], passages.feeds)
        error = float(np.sqrt(((found - wanted) ** 2).sum() / (wanted**2).sum()))
        return error, passages.figures(found)["pairs"]

    return judge


def measured(path: Path, samples: list[Any], judge: Judging, text: str) -> str:
    """Prune by a pipeline, and return its line of the table, without the name of the model."""
    model = load(path)
    before, start = summarise(model).parameters, time.monotonic()
    calibrator = Calibrator(samples=load_samples(samples))
    pipeline = Pipeline.parse(f"@exact,{text}")
    ledger = pipeline.run(model, statistics_provider=calibrator, verify="structure").ledger
    seconds = time.monotonic() - start
    error, figure = judge(model)
    gone = ", ".join(str(len(one.removed)) for one in ledger.journal.decisions)
    left = summarise(model).parameters / before
    return f"`{text}` | {gone} | {left:.3f} | {error:.4f} | {figure:.4f} | {seconds:.0f} |"


def main() -> None:
    """Measure every kind, ratio and allocation, and write the table after each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="+", help="a model with its samples")
    parser.add_argument("--kinds", nargs="+", default=["heads", "neurons"])
    parser.add_argument("--ratios", nargs="+", type=float, default=[0.25, 0.5])
    parser.add_argument("--options", default="", help="of every pass, such as `multiple=8`")
    parser.add_argument("--encoder", type=Path, help="a sentence encoder; the folder: its samples")
    parser.add_argument("--feeds", type=int, help="files of samples to calibrate on; all else")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    about = f"ONNX Runtime {runtime_version()}, {cpu_name()}, Python {platform.python_version()}."
    if given.feeds:
        about += f" Calibrated on {given.feeds} files."
    heads = [line.format("pairs" if given.encoder else "same class") for line in HEADER]
    lines = ["# Sharing out what goes", "", about, "", *heads]
    for folder in given.folder:
        path = given.encoder or folder / "model.onnx"
        judge = by_similarity(path, folder) if given.encoder else by_class(folder)
        samples = [dict(feed) for feed in load_samples(folder / "calibration")][: given.feeds]
        name = path.parent.name if given.encoder else folder.name
        for kind, ratio, how in itertools.product(given.kinds, given.ratios, ALLOCATIONS):
            options = f"ratio={ratio} allocation={how} {given.options}".strip()
            line = measured(path, samples, judge, f"prune-{kind}{{{options}}}")
            lines.append(f"| {name} | {line}")
            print(lines[-1], flush=True)
            given.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
