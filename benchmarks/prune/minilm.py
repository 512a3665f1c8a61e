"""What pruning leaves of a real sentence encoder, alone and with integers on top.

Usage:
    python benchmarks/prune/sentences.py --tokenizer FOLDER --out samples
    python benchmarks/prune/minilm.py --model model.onnx --samples samples --out minilm.json
    python benchmarks/prune/minilm.py --out minilm.json --table benchmarks/prune/results_minilm.md

`model.onnx` is all-MiniLM-L6-v2 (`last_hidden_state`, pooled here by the mean, as it is used).
Judged by passages of subjects that were not calibrated on, 800 of them:

- `pairs`: rank correlation (Spearman) of the similarities of pairs with the original's, pairs drawn
  so that the original's similarities are spread over their whole range, as in tasks of sentence
  similarity: at most 150 of each tenth;
- `all`: the same over all pairs, nearly all of which have nothing in common: differences of
  similarity are small, and their order is the first to go;
- `cosine`: mean cosine of an embedding with the original's.

Results are written as they come, and what is there already is not measured again. `--only` takes
patterns of the names of rows. `--also NAME=FILE` judges a model that was made otherwise, such as
that of a bundle. `--latency` adds the ratio of CPU time to the original's at batch 1
and 128 tokens, measured in turns, twice.
"""

from __future__ import annotations

import argparse
import fnmatch
import itertools
import json
import platform
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

import graphopt
from graphopt.calibration import load_samples
from graphopt.compression.pruning_options import SCORE_NAMES
from graphopt.ir import external_files, load
from graphopt.runtime import SessionOptions, cpu_name, measure_latency
from graphopt.targets import load_target

PAIRS_OF_A_TENTH = 150
SIDES = ("evaluation", "unrelated")
SCORES = ("wanda", "obs", "random", "l1", "l2", "activation", "flap", "gradient")
COMPENSATIONS = ("off", "bias", "least-squares", "best")
RATIOS = (0.25, 0.5)
FIGURES = ("pairs", "all", "cosine")
DYNAMIC = "quantize-dynamic,clear-value-info"
FUSED = f"fuse-rotary-embedding,fuse-attention{{packed=false}},@lossless,{DYNAMIC}"
OUTLIERS = "quantize-linear-layers,quantize-dynamic{ops=[Gather]},clear-value-info"
TOKENS = 128

Feeds = Sequence[dict[str, NDArray[Any]]]
Floats = NDArray[np.float64]


class Row(NamedTuple):
    """One line of the table.

    Attributes:
        name: Of the row.
        pipeline: What is run on what `@exact` leaves.
        samples: Folder to calibrate on.
        on: The row whose result this one begins with; empty: what `@exact` leaves.
    """

    name: str
    pipeline: str
    samples: str = "calibration"
    on: str = ""


def pruned(scores: tuple[str, str], compensation: str, ratios: tuple[float, float]) -> str:
    """Return the pipeline that cuts heads, then neurons, and fits what both have cut."""
    heads = f"prune-heads{{ratio={ratios[0]} score={scores[0]} compensation=off}}"
    neurons = f"ratio={ratios[1]} score={scores[1]} compensation={compensation}"
    return f"{heads},prune-neurons{{{neurons}}}"


# Scores and ratios of heads and of neurons: what is quantized afterwards.
CHAINS = {
    "heads 0.25, neurons 0.25": (("obs", "obs"), (0.25, 0.25)),
    "heads 0.33, neurons 0.5": (("obs", "obs"), (0.33, 0.5)),
    "heads 0.33, neurons 0.54": (("obs", "obs"), (0.33, 0.54)),
    "heads 0.33, neurons 0.58": (("obs", "obs"), (0.33, 0.58)),
    "heads 0.42, neurons 0.5": (("obs", "obs"), (0.42, 0.5)),
    "heads 0.5, neurons 0.5": (("obs", "obs"), (0.5, 0.5)),
}
FORMS = {"dynamic": DYNAMIC, "fused": FUSED, "outliers": OUTLIERS}


def rows() -> Iterator[Row]:
    """Yield every row: all scores with all compensations, then integers on top of some."""
    for ratio in RATIOS:
        for compensation in COMPENSATIONS:
            for score in SCORES:
                pipeline = pruned((score, score), compensation, (ratio, ratio))
                yield Row(_grid_name(score, compensation, ratio), pipeline, "few")
    for form, pipeline in FORMS.items():
        yield Row(f"nothing cut, {form}", pipeline, "few")
    for name, (scores, ratios) in CHAINS.items():
        yield Row(name, pruned(scores, "least-squares", ratios))
        for form, pipeline in FORMS.items():
            yield Row(f"{name}, {form}", pipeline, "few", name)


# -- judging -----------------------------------------------------------------------------------


class Judge:
    """Compares models with the original on passages."""

    def __init__(self, original: Path, samples: Path) -> None:
        self.feeds = [
            dict(np.load(path)) for side in SIDES for path in sorted((samples / side).glob("*.npz"))
        ]
        self._wanted = embeddings(original, self.feeds)
        self._all = similarities(self._wanted)
        self._pairs = spread(self._all)

    def of(self, path: Path) -> dict[str, float]:
        """Return the figures of a model."""
        return self.figures(embeddings(path, self.feeds))

    def figures(self, found: Floats) -> dict[str, float]:
        """Return the figures of embeddings of the feeds, in their order."""
        values, pairs = similarities(found), self._pairs
        return {
            "pairs": correlation(self._all[pairs], values[pairs]),
            "all": correlation(self._all, values),
            "cosine": float((found * self._wanted).sum(axis=1).mean()),
        }


def embeddings(path: Path, feeds: Feeds) -> Floats:
    """Return one embedding of length 1 for each feed of one passage, the mean of its tokens."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = {item.name for item in session.get_inputs()}

    def states(feed: dict[str, NDArray[Any]]) -> NDArray[Any]:
        given = {name: array for name, array in feed.items() if name in names}
        return np.asarray(session.run(None, given)[0])

    return pooled(states, feeds)


def pooled(states_of: Callable[[dict[str, NDArray[Any]]], NDArray[Any]], feeds: Feeds) -> Floats:
    """Return one embedding of length 1 for each feed, by the function that runs the model."""
    found = []
    for feed in feeds:
        states = states_of(feed)
        mask = feed["attention_mask"][..., None]
        found.append(((states * mask).sum(axis=1) / mask.sum(axis=1))[0].astype(np.float64))
    matrix = np.array(found)
    return np.asarray(matrix / np.linalg.norm(matrix, axis=1, keepdims=True))


def similarities(found: Floats) -> Floats:
    """Return the cosine of every pair."""
    return np.asarray((found @ found.T)[np.triu_indices(len(found), 1)])


def spread(values: Floats, seed: int = 0) -> NDArray[np.int64]:
    """Return places of pairs, as many of each tenth of similarity as there are, up to a bound."""
    rng = np.random.default_rng(seed)
    tenths = np.floor(values * 10).astype(int)
    chosen = [
        rng.permutation(np.flatnonzero(tenths == tenth))[:PAIRS_OF_A_TENTH]
        for tenth in np.unique(tenths)
    ]
    return np.concatenate(chosen)


def size_of(path: Path) -> int:
    """Return the bytes of a model, of files that hold its weights too."""
    return sum(one.stat().st_size for one in {path, *external_files(load(path))})


def correlation(wanted: Floats, found: Floats) -> float:
    """Return the correlation of ranks."""
    ranks = [np.argsort(np.argsort(values)) for values in (wanted, found)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


# -- running -----------------------------------------------------------------------------------


class Bench:
    """Runs rows, each on its own or on top of another, and judges what they leave."""

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        model, samples = arguments.model, arguments.samples
        self._original, self._samples, self._folder = model, samples, folder
        self._few, self._most = arguments.few, arguments.most
        self._judge = Judge(model, samples)
        self._long = folder / "long"
        self._long.mkdir(exist_ok=True)
        ids = np.random.default_rng(0).integers(1000, 30000, (1, TOKENS))
        rest = {"attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        np.savez(self._long / "0.npz", input_ids=ids, **rest)  # type: ignore[arg-type]

    def measure(self, row: Row, *, has_latency: bool) -> dict[str, Any]:
        """Return the figures of a row."""
        return {"pipeline": row.pipeline} | self.figures(self._made(row), has_latency=has_latency)

    def figures(self, path: Path, *, has_latency: bool) -> dict[str, Any]:
        """Return the figures of a model."""
        found: dict[str, Any] = dict(self._judge.of(path))
        found["size_ratio"] = size_of(path) / size_of(self._original)
        if has_latency:
            found["latency"] = [self._latency(path) for _ in range(2)]
        return found

    def _made(self, row: Row) -> Path:
        path = self._folder / f"{row.name.replace(' ', '_').replace(',', '')}.onnx"
        if path.exists():
            return path
        base = self._exact()
        if row.on:
            base = self._made(next(one for one in rows() if one.name == row.on))
        graphopt.run_pipeline(
            base,
            row.pipeline,
            path,
            target="cpu-int8",
            calibration=str(self._calibration(row)),
            verify="structure",
            force=True,
        )
        return path

    def _exact(self) -> Path:
        """Return what every row begins with, made once."""
        path = self._folder / "exact.onnx"
        if not path.exists():
            graphopt.run_pipeline(self._original, "@exact", path, verify="structure")
        return path

    def _calibration(self, row: Row) -> Path:
        """Return the folder of samples, or of so many of its feeds."""
        whole: Path = self._samples / "calibration"
        most = self._few if row.samples == "few" else self._most
        if most is None:
            return whole
        part = self._folder / f"feeds_{most}"
        if not part.exists():
            part.mkdir()
            for path in sorted(whole.glob("*.npz"))[:most]:
                (part / path.name).write_bytes(path.read_bytes())
        return part

    def _latency(self, path: Path) -> float:
        options = SessionOptions()
        feed = next(iter(load_samples(str(self._long))))
        compared = measure_latency(self._original, path, feed, options=options, budget_s=10.0)
        return float(compared.cpu_ratio)


def main() -> None:
    """Measure what is missing, then write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="all-MiniLM-L6-v2; nothing is measured else")
    parser.add_argument("--samples", type=Path, help="what sentences.py wrote")
    parser.add_argument("--work", type=Path, help="keeps the models; a temporary folder else")
    parser.add_argument("--few", type=int, default=60, help="feeds that rows of the grid see")
    parser.add_argument("--most", type=int, help="feeds that the other rows see; all by default")
    parser.add_argument("--only", nargs="*", default=["*"], help="patterns of names of rows")
    parser.add_argument("--also", nargs="*", default=[], help="NAME=FILE of models to judge")
    parser.add_argument("--remark", nargs="*", help="lines for the head of the table")
    parser.add_argument("--latency", action="store_true", help="measure latency, too")
    parser.add_argument("--out", type=Path, required=True, help="JSON file of all figures")
    parser.add_argument("--table", type=Path, help="Markdown file to write")
    arguments = parser.parse_args()
    results = json.loads(arguments.out.read_text()) if arguments.out.exists() else fresh()
    if arguments.remark:
        results["remarks"] = arguments.remark
    if arguments.model is not None:
        with tempfile.TemporaryDirectory() as temporary:
            folder = arguments.work or Path(temporary)
            folder.mkdir(parents=True, exist_ok=True)
            bench = Bench(arguments, folder)
            for name, measure in wanted(bench, arguments):
                known = results["rows"].get(name)
                if known and ("latency" in known or not arguments.latency):
                    continue
                found = measure()
                results["rows"][name] = (known or {}) | found
                print(name, {key: found[key] for key in FIGURES}, flush=True)
                arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    if arguments.table is not None:
        arguments.table.write_text(page(results))


def wanted(
    bench: Bench, arguments: argparse.Namespace
) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Yield the name of each row that is asked for, and what measures it."""
    has_latency = arguments.latency
    for row in rows():
        if any(fnmatch.fnmatchcase(row.name, one) for one in arguments.only):
            yield row.name, partial(bench.measure, row, has_latency=has_latency)
    for name, path in (item.split("=", 1) for item in arguments.also):
        yield name, partial(bench.figures, Path(path), has_latency=has_latency)


def fresh() -> dict[str, Any]:
    """Return results without rows."""
    return {
        "versions": {"onnxruntime": ort.__version__, "numpy": np.__version__},
        "machine": f"{cpu_name()}, Python {platform.python_version()}",
        "target": load_target("cpu-int8").name,
        "rows": {},
    }


def page(results: dict[str, Any]) -> str:
    """Return the table as Markdown."""
    versions = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    lines = [
        "# A real sentence encoder, pruned",
        "",
        f"{results['machine']}; {versions}. `python benchmarks/prune/minilm.py --help` explains.",
        *results.get("remarks", ()),
        "",
        "| row | pairs | all | cosine | size | latency |",
        "|---|---|---|---|---|---|",
    ]
    grid = {_grid_name(*place) for place in itertools.product(SCORES, COMPENSATIONS, RATIOS)}
    order = [row.name for row in rows() if row.name in results["rows"]]
    order += [name for name in results["rows"] if name not in order]
    for name in order:
        if name in grid:
            continue
        found = results["rows"][name]
        latency = " / ".join(f"{value:.3f}" for value in found.get("latency", ()))
        figures = [f"{found[key]:.4f}" for key in FIGURES]
        line = [name, *figures, f"{found['size_ratio']:.3f}", latency or "-"]
        lines.append(f"| {' | '.join(line)} |")
    for figure in FIGURES:
        lines += grid_table(results["rows"], figure)
    return "\n".join([*lines, "", verdict(results["rows"]), ""])


def grid_table(found: dict[str, Any], figure: str) -> Iterator[str]:
    """Yield one figure of every score against ratio and compensation."""
    places = [
        (how, ratio)
        for ratio in RATIOS
        for how in COMPENSATIONS
        if any(_grid_name(score, how, ratio) in found for score in SCORES)
    ]
    yield from ("", f"## `{figure}`, so much of the heads and of the neurons gone", "")
    yield "| score | " + " | ".join(f"{ratio:.0%} {how}" for how, ratio in places) + " |"
    yield "|---|" + "---:|" * len(places)
    for score in sorted(SCORES, key=SCORE_NAMES.index):
        cells = [found.get(_grid_name(score, *place), {}).get(figure) for place in places]
        if any(cell is not None for cell in cells):
            shown = ("-" if cell is None else f"{cell:.4f}" for cell in cells)
            yield f"| {score} | {' | '.join(shown)} |"


def verdict(found: dict[str, Any]) -> str:
    """Say where least squares is not better than nothing, if anywhere."""
    total, worse = 0, []
    for score, ratio, figure in itertools.product(SCORES, RATIOS, FIGURES):
        fitted, bare = (
            found.get(_grid_name(score, how, ratio)) for how in ("least-squares", "off")
        )
        if fitted is not None and bare is not None:
            total += 1
            if fitted[figure] <= bare[figure]:
                worse.append(f"{score} at {ratio:g} ({figure})")
    text = f"Least squares is better than none in {total - len(worse)} of {total} figures"
    return f"{text}; not for {', '.join(worse)}." if worse else f"{text}."


def _grid_name(score: str, compensation: str, ratio: float) -> str:
    return f"{score}, {compensation}, {ratio:g} of both"


if __name__ == "__main__":
    main()
