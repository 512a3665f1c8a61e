"""The tables of `tables.py` for digits, as means over the models of a cross-validation.

Usage:
    python benchmarks/prune/train.py --out folds --folds 5 --only digits_cnn digits_transformer
    python benchmarks/prune/folds.py --models folds --out folds.json
    python benchmarks/prune/folds.py --out folds.json --table benchmarks/prune/results_folds.md

One model and 540 images cannot tell methods apart whose accuracies differ by tenths of a point.
Here every one of the 1,797 images is held out once, by one of five models that start from seeds of
their own. Each cell is the mean over the models; each comparison is paired by model, with its 95 %
interval by Student's t, and by image: how many are right by one of two methods alone, with the
exact sign test of these. An accuracy cannot tell two models apart that both do as well as the one
that was not pruned, so that the loss of labels is compared, too. Results are written as they come,
and what is there is not measured again. Several `--out` are joined for the table.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tables import KINDS, RATIOS, Bench, fresh

from graphopt.compression.pruning_options import SCORE_NAMES

NAMES = ("digits_cnn", "digits_transformer")
SHORT = {"off": "off", "bias": "bias", "least-squares": "ls", "best": "best"}
# Two-sided 95 % points of Student's t, by degrees of freedom.
STUDENT = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306}
Figures = dict[tuple[str, ...], dict[str, dict[str, Any]]]


def main() -> None:
    """Measure what is missing, then write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, help="of `train.py --folds`; else only the tables")
    parser.add_argument("--out", type=Path, required=True, help="JSON file of all figures")
    parser.add_argument("--join", type=Path, nargs="*", default=[], help="others, for the table")
    parser.add_argument("--table", type=Path, help="Markdown file to write")
    parser.add_argument("--only", nargs="*", default=list(NAMES), choices=NAMES)
    parser.add_argument("--kinds", nargs="*", default=["neurons", "heads", "channels"])
    parser.add_argument("--scores", nargs="*", default=list(SCORE_NAMES), choices=SCORE_NAMES)
    wanted = ["off", "least-squares", "bias"]
    parser.add_argument("--compensations", nargs="*", default=wanted, choices=list(SHORT))
    parser.add_argument("--ratios", nargs="*", type=float, default=RATIOS, choices=RATIOS)
    parser.add_argument("--rows", type=int, default=512, help="images to calibrate on")
    given = parser.parse_args()
    results = json.loads(given.out.read_text()) if given.out.exists() else fresh()
    if given.models is not None:
        for name in given.only:
            measure(given, name, results)
    for other in given.join:
        found = json.loads(other.read_text())
        for part in ("rows", "original", "figures"):
            results[part] |= found[part]
    if given.table is not None:
        given.table.write_text("\n".join(page(results)), encoding="utf-8")


def measure(given: argparse.Namespace, name: str, results: dict[str, Any]) -> None:
    """Measure the cells of one model that are missing, of all its folds."""
    folds = sorted(given.models.glob(f"{name}/*/model.onnx"))
    benches = [Bench(file.parent, given.rows) for file in folds]
    results["rows"][name] = given.rows
    results["original"][name] = {
        file.parent.name: {"metric": bench.original, **bench.by_row(bench.wanted)}
        for file, bench in zip(folds, benches, strict=True)
    }
    kinds = [kind for kind in KINDS[name] if kind in given.kinds]
    asked = itertools.product(kinds, given.ratios, given.compensations, given.scores)
    for kind, ratio, how, score in asked:
        cell = results["figures"].setdefault(f"{name}/{kind}/{score}/{how}/{ratio}", {})
        for file, bench in zip(folds, benches, strict=True):
            if file.parent.name not in cell:
                cell[file.parent.name] = bench.measure((name, kind, score, how, ratio))
        given.out.write_text(json.dumps(results, indent=1) + "\n")


class Gain(NamedTuple):
    """One method against another, paired.

    Attributes:
        points: Of accuracy, mean over the models; with half its 95 % interval.
        loss: Nats of loss that are spared, likewise.
        won: Images that are right by the first alone.
        lost: Images that are right by the second alone.
    """

    points: tuple[float, float]
    loss: tuple[float, float]
    won: int
    lost: int

    @property
    def chance(self) -> float:
        """The probability of a count as uneven as this, where neither is better."""
        both = self.won + self.lost
        least = min(self.won, self.lost)
        tail = sum(math.comb(both, count) for count in range(least + 1)) / 2**both
        return min(1.0, 2.0 * tail)


def gain(one: dict[str, Any], other: dict[str, Any]) -> Gain:
    """Compare two methods over the models that both were measured with."""
    folds = sorted({*one} & {*other})
    points = paired([one[fold]["metric"] - other[fold]["metric"] for fold in folds])
    loss = paired([other[fold]["loss"] - one[fold]["loss"] for fold in folds])
    right = [[bits(found[fold]) for fold in folds] for found in (one, other)]
    mine, theirs = (np.concatenate(parts) for parts in right)
    won, lost = int((mine & ~theirs).sum()), int((theirs & ~mine).sum())
    return Gain(points, loss, won, lost)


def paired(differences: list[float]) -> tuple[float, float]:
    """Return the mean of differences, and half its 95 % interval."""
    array, count = np.array(differences), len(differences)
    half = STUDENT[count - 1] * array.std(ddof=1) / math.sqrt(count) if count > 1 else math.inf
    return float(array.mean()), float(half)


def bits(found: dict[str, Any]) -> np.ndarray:
    """Return which images are right; those that pad the last byte are not."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(found["right"]), np.uint8)).astype(bool)


def mean(cell: dict[str, Any], what: str) -> float:
    """Return the mean over models."""
    return float(np.mean([found[what] for found in cell.values()]))


# -- the page ----------------------------------------------------------------------------------


def page(results: dict[str, Any]) -> Iterator[str]:
    """Yield the Markdown lines of all tables."""
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    yield "# Metric against ratio, over the models of a cross-validation\n"
    yield f"Made by `python benchmarks/prune/folds.py` with {versions} on {results['machine']}."
    yield "Accuracy in %: the mean over models, each of which judges the images that it alone has"
    yield "not seen. `ls`: least squares; every score, compensation and ratio is a run of its own."
    yield "`+/-`: half the 95 % interval of the mean difference of models. `only`: images that are"
    yield "right with least squares alone, and without alone; `by chance`: sign test of these two."
    yield "`loss`: nats, of labels; `outputs`: they are off by `sqrt(E|y - y0|^2 / E|y0|^2)`.\n"
    figures = {tuple(key.split("/")): cell for key, cell in results["figures"].items()}
    figures = {key: cell for key, cell in figures.items() if cell}
    for name in NAMES:
        for kind in KINDS[name]:
            if any(key[:2] == (name, kind) for key in figures):
                yield from means(results, figures, name, kind)
                yield from gains(figures, name, kind)
    yield from verdict(figures)


def means(results: dict[str, Any], figures: Figures, name: str, kind: str) -> Iterator[str]:
    """Yield the table of accuracies."""
    original = results["original"][name]
    about = f"{mean(original, 'metric'):.2f}; {len(original)} models"
    yield f"## {name}, {kind} (not pruned: {about}; {results['rows'][name]} images to calibrate)\n"
    found = {key[3] for key in figures if key[:2] == (name, kind)}
    measured = [how for how in SHORT if how in found]
    shown = list(itertools.product(RATIOS, measured))
    heads = [f"{ratio:.0%} {SHORT[how]}" for ratio, how in shown]
    yield "| score | " + " | ".join(heads) + " |"
    yield "|---|" + "---:|" * len(shown)
    for score in SCORE_NAMES:
        cells = [figures.get((name, kind, score, how, str(ratio))) for ratio, how in shown]
        texts = ["-" if cell is None else f"{mean(cell, 'metric'):.2f}" for cell in cells]
        yield f"| {score} | " + " | ".join(texts) + " |"
    yield ""


def gains(figures: Figures, name: str, kind: str) -> Iterator[str]:
    """Yield the table of least squares against none."""
    heads = "ls - off", "+/-", "only ls, only off", "by chance"
    heads += "loss: off, ls", "off - ls", "+/-", "outputs: off, ls"
    yield f"| score, ratio | {' | '.join(heads)} |"
    yield "|---|" + "---:|" * len(heads)
    for score, ratio in itertools.product(SCORE_NAMES, RATIOS):
        none = figures.get((name, kind, score, "off", str(ratio)))
        fitted = figures.get((name, kind, score, "least-squares", str(ratio)))
        if none is None or fitted is None:
            continue
        found = gain(fitted, none)
        cells = [f"{score}, {ratio:.0%}", f"{found.points[0]:+.2f}", f"{found.points[1]:.2f}"]
        cells += [f"{found.won}, {found.lost}", f"{found.chance:.2g}"]
        cells += [f"{mean(none, 'loss'):.4f}, {mean(fitted, 'loss'):.4f}"]
        cells += [f"{found.loss[0]:+.4f}", f"{found.loss[1]:.4f}"]
        cells += [f"{mean(none, 'error'):.3f}, {mean(fitted, 'error'):.4f}"]
        yield f"| {' | '.join(cells)} |"
    yield ""


def verdict(figures: Figures) -> Iterator[str]:
    """Yield in how many cells least squares is better than none, and where it is not."""
    yield "## Least squares against none\n"
    pairs = [
        (key, gain(fitted, figures[*key[:3], "off", key[4]]), fitted)
        for key, fitted in figures.items()
        if key[3] == "least-squares" and (*key[:3], "off", key[4]) in figures
    ]
    for what, of in (("accuracy", "points"), ("loss", "loss")):
        better = [key for key, found, _ in pairs if getattr(found, of)[0] > 1e-9]
        sure = sum(getattr(found, of)[0] > getattr(found, of)[1] for _, found, _ in pairs)
        worse = sum(-getattr(found, of)[0] > getattr(found, of)[1] for _, found, _ in pairs)
        yield f"- {what}: the mean is better in {len(better)} of {len(pairs)} cells, in {sure} of"
        yield f"  them beyond its interval; worse beyond its interval in {worse}"
        for key, found, _ in pairs:
            if key not in better:
                figures_of = " +/- ".join(f"{part:.4f}" for part in getattr(found, of))
                yield f"    - {', '.join((*key[:3], key[4]))}: {figures_of}"
    nearer = sum(
        mean(fitted, "error") < mean(figures[*key[:3], "off", key[4]], "error")
        for key, _, fitted in pairs
    )
    yield f"- outputs: nearer to those of the model before in {nearer} of {len(pairs)} cells\n"


if __name__ == "__main__":
    main()
