"""The tables of `tables.py` for digits, as means over the models of a cross-validation.

Usage:
    python benchmarks/prune/train.py --out folds --folds 5 --only digits_cnn digits_transformer
    python benchmarks/prune/folds.py --models folds --out folds.json
    python benchmarks/prune/folds.py --out folds.json --table benchmarks/prune/results_folds.md

One model and 540 images cannot tell methods apart whose accuracies differ by tenths of a point.
Here every one of the 1,797 images is held out once, by one of five models that start from seeds of
their own. Each cell is the mean over the models; each comparison is paired by model, with its 95 %
interval by Student's t, and by image: how many are right by one of two methods alone, with the
exact sign test of these. Results are written as they come, and what is there is not measured again.
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
from tables import COMPENSATIONS, KINDS, RATIOS, Bench, fresh

from graphopt.compression.pruning_options import SCORE_NAMES

NAMES = ("digits_cnn", "digits_transformer")
SHORT = {"least-squares": "ls"}
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
    parser.add_argument("--table", type=Path, help="Markdown file to write")
    parser.add_argument("--only", nargs="*", default=list(NAMES), choices=NAMES)
    parser.add_argument("--kinds", nargs="*", default=["neurons", "heads", "channels"])
    parser.add_argument("--scores", nargs="*", default=list(SCORE_NAMES), choices=SCORE_NAMES)
    parser.add_argument("--compensations", nargs="*", default=["off", "least-squares", "bias"])
    parser.add_argument("--ratios", nargs="*", type=float, default=RATIOS, choices=RATIOS)
    parser.add_argument("--rows", type=int, default=512, help="images to calibrate on")
    given = parser.parse_args()
    results = json.loads(given.out.read_text()) if given.out.exists() else fresh()
    if given.models is not None:
        for name in given.only:
            measure(given, name, results)
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
        mean: Of the models, in points of accuracy.
        half: Half the 95 % interval of this mean.
        won: Images that are right by the first alone.
        lost: Images that are right by the second alone.
    """

    mean: float
    half: float
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
    points = np.array([one[fold]["metric"] - other[fold]["metric"] for fold in folds])
    right = [[bits(found[fold]) for fold in folds] for found in (one, other)]
    mine, theirs = (np.concatenate(parts) for parts in right)
    half = STUDENT[len(folds) - 1] * points.std(ddof=1) / math.sqrt(len(folds))
    won, lost = int((mine & ~theirs).sum()), int((theirs & ~mine).sum())
    return Gain(float(points.mean()), float(half), won, lost)


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
    yield "`loss`: nats, of labels; `outputs off`: `sqrt(E|y - y0|^2 / E|y0|^2)`.\n"
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
    shown = list(itertools.product(RATIOS, COMPENSATIONS))
    heads = [f"{ratio:.0%} {SHORT.get(how, how)}" for ratio, how in shown]
    yield "| score | " + " | ".join(heads) + " |"
    yield "|---|" + "---:|" * len(shown)
    for score in SCORE_NAMES:
        cells = [figures.get((name, kind, score, how, str(ratio))) for ratio, how in shown]
        texts = ["-" if cell is None else f"{mean(cell, 'metric'):.2f}" for cell in cells]
        yield f"| {score} | " + " | ".join(texts) + " |"
    yield ""


def gains(figures: Figures, name: str, kind: str) -> Iterator[str]:
    """Yield the table of least squares against none."""
    heads = "ls - off", "+/-", "only ls, only off", "by chance", "loss: off, ls"
    yield f"| score, ratio | {' | '.join(heads)} | outputs off: off, ls |"
    yield "|---|" + "---:|" * (len(heads) + 1)
    for score, ratio in itertools.product(SCORE_NAMES, RATIOS):
        none = figures.get((name, kind, score, "off", str(ratio)))
        fitted = figures.get((name, kind, score, "least-squares", str(ratio)))
        if none is None or fitted is None:
            continue
        found = gain(fitted, none)
        cells = [f"{score}, {ratio:.0%}", f"{found.mean:+.2f}", f"{found.half:.2f}"]
        cells += [f"{found.won}, {found.lost}", f"{found.chance:.2g}"]
        cells += [f"{mean(none, 'loss'):.3f}, {mean(fitted, 'loss'):.3f}"]
        cells += [f"{mean(none, 'error'):.3f}, {mean(fitted, 'error'):.4f}"]
        yield f"| {' | '.join(cells)} |"
    yield ""


def verdict(figures: Figures) -> Iterator[str]:
    """Yield in how many cells least squares is better than none, and where it is not."""
    yield "## Least squares against none\n"
    total = better = sure = 0
    for key, fitted in figures.items():
        none = figures.get((*key[:3], "off", key[4]))
        if key[3] != "least-squares" or none is None:
            continue
        found = gain(fitted, none)
        total, better = total + 1, better + (found.mean > 0)
        sure += found.mean > found.half
        if found.mean <= found.half:
            where = ", ".join((*key[:3], key[4]))
            yield f"- {where}: {found.mean:+.2f} +/- {found.half:.2f}"
    yield f"\nThe mean is better in {better} of {total} cells, in {sure} beyond its interval.\n"


if __name__ == "__main__":
    main()
