r"""What removing blocks and sub-layers costs, by score and by what stands in for them.

    python benchmarks/prune/sentences.py --tokenizer FOLDER --out samples
    python benchmarks/prune/layers.py --encoder model.onnx samples --few 32 --out results_layers.md
    python benchmarks/prune/layers.py --classifier digits_transformer/model.onnx \\
        digits_transformer --counts 1 2 4 --out results_layers.md

An encoder is judged by the rank correlation of similarities with the original's (`pairs` of
`minilm.py`), a classifier of `train.py` by the share of held-out rows with the same class as the
original's and by their labels. `error` is `E|y - y0|^2 / E|y0|^2` of the outputs, padding left out.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import minilm
import numpy as np

from graphopt.calibration import Calibrator, load_samples
from graphopt.compression.layer_scores import output_error
from graphopt.ir import clone, load, save
from graphopt.pipeline import Pipeline
from graphopt.runtime import (
    cpu_name,
    input_specs,
    measure_latency,
    representative_feed,
    runtime_version,
    shared_worker,
)

BLOCKS = (
    "score=random",
    "score=random seed=1",
    "score=change",
    "score=cosine",
    "score=cosine replacement=bias",
    "score=cosine replacement=scale",
    "score=cosine replacement=affine",
    "score=trial",
    "score=trial replacement=affine",
)
PARTS = (
    "unit=sub-layers score=random",
    "unit=sub-layers score=cosine",
    "unit=sub-layers score=trial",
    "unit=sub-layers score=trial replacement=bias",
    "unit=sub-layers score=trial replacement=affine",
)
WITHOUT_NORMS = (
    "norms=drop score=cosine",
    "norms=drop score=cosine replacement=affine",
    "norms=drop score=cosine replacement=affine ridge=0.1",
    "norms=drop score=trial replacement=affine",
)
"""For models that normalize sums."""


class Encoder:
    """Judges sentence encoders."""

    names = ("pairs", "cosine")

    def __init__(self, folder: Path, model: Path) -> None:
        self.calibration = folder / "calibration"
        self.evaluation = folder / "evaluation"
        self._judge = minilm.Judge(model, folder)

    def __call__(self, path: Path) -> tuple[float, ...]:
        """Return figures, one for each of `names`."""
        found = self._judge.of(path)
        return tuple(found[name] for name in self.names)


class Classifier:
    """Judges classifiers of `train.py`."""

    names = ("agreement", "top1")

    def __init__(self, folder: Path, model: Path) -> None:
        self.calibration = folder / "calibration"
        self.evaluation = folder / "evaluation"
        self._rows = {}
        for file in sorted(self.evaluation.glob("*.npz")):
            self._rows = dict(np.load(file))
        self._labels = self._rows.pop("__labels__")
        self._wanted = self._classes(model)

    def _classes(self, path: Path) -> np.ndarray:
        with shared_worker().load(path) as session:
            (scores,) = session.run(self._rows).values()
        return scores.argmax(-1)

    def __call__(self, path: Path) -> tuple[float, ...]:
        """Return figures, one for each of `names`."""
        found = self._classes(path)
        return float((found == self._wanted).mean()), float((found == self._labels).mean())


def row(
    model: Path, options: str, judge: Callable[[Path], tuple[float, ...]], few: int
) -> list[str]:
    """Prune by one set of options, and return the cells of a line."""
    base = load(model)
    Pipeline.parse("@exact").run(base, verify="structure")
    specs = input_specs(base)
    files = sorted(judge.calibration.glob("*.npz"))
    samples = load_samples(_some(files, few), inputs=specs)
    pruned = clone(base)
    start = time.monotonic()
    ledger = (
        Pipeline.parse(f"prune-layers{{{options}}}")
        .run(pruned, verify="structure", statistics_provider=Calibrator(samples=samples))
        .ledger
    )
    seconds = time.monotonic() - start
    gone = [e.because.split(" ")[0] for e in ledger.journal.edits if ", " in e.because]
    held_out = load_samples(_some(sorted(judge.evaluation.glob("*.npz")), few), inputs=specs)
    error = output_error(Calibrator(samples=held_out).measure, pruned, base)
    with tempfile.TemporaryDirectory() as folder:
        path = save(pruned, Path(folder) / "pruned.onnx")[0]
        figures = judge(path)
        latency = measure_latency(model, path, representative_feed(base), budget_s=3.0)
    cells = [options, " ".join(gone), f"{error:.4f}", *(f"{value:.4f}" for value in figures)]
    return [*cells, f"{latency.cpu_ratio:.3f}", f"{seconds:.0f}"]


def _some(files: list[Path], few: int) -> list[dict[str, np.ndarray]]:
    found = [dict(np.load(file)) for file in files[:: max(1, len(files) // few)][:few]]
    return [{name: array for name, array in feed.items() if name != "__labels__"} for feed in found]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--encoder", nargs=2, type=Path, metavar=("MODEL", "SAMPLES"))
    parser.add_argument("--classifier", nargs=2, type=Path, metavar=("MODEL", "FOLDER"))
    parser.add_argument("--counts", nargs="+", type=int, default=[1], help="how many go")
    parser.add_argument("--few", type=int, default=64, help="files of samples to calibrate on")
    parser.add_argument("--out", type=Path, help="file that the tables are appended to")
    arguments = parser.parse_args()
    for kind, given in ((Encoder, arguments.encoder), (Classifier, arguments.classifier)):
        if given is None:
            continue
        model, folder = given
        judge = kind(folder, model)
        titles = ["options", "gone", "error", *judge.names, "CPU time", "seconds"]
        lines = [f"| {' | '.join(titles)} |", "|---|---|" + "---:|" * (len(titles) - 2)]
        plan = [*BLOCKS, *PARTS, *(WITHOUT_NORMS if kind is Encoder else ())]
        for count, choice in itertools.product(arguments.counts, plan):
            cells = row(model, f"{choice} count={count}", judge, arguments.few)
            lines.append("| " + " | ".join(cells) + " |")
            print(lines[-1], flush=True)
        python = platform.python_version()
        versions = f"ONNX Runtime {runtime_version()}, {cpu_name()}, Python {python}."
        text = "\n".join(
            [
                f"## {model.parent.name}/{model.name}",
                "",
                versions,
                f"At most {arguments.few} files of samples. CPU time: of a run, to the original's.",
                "",
                *lines,
                "",
            ]
        )
        if arguments.out is not None:
            with arguments.out.open("a", encoding="utf-8") as stream:
                stream.write(text + "\n")


if __name__ == "__main__":
    main()
