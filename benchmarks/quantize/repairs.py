"""What repairs of quantized models bring: the error of each pipeline on samples kept apart.

Usage:
    python benchmarks/quantize/repairs.py MODEL --calibration PATH --evaluation PATH \
        [--target cpu-int8] [--pooled MASK] [--out FILE.md] PIPELINE...

Each pipeline runs on the model as `@exact` leaves it. The error is that of the first output against
the model as given, in ONNX Runtime with its default settings: the signal-to-noise ratio of all
samples together, and the mean and least cosine by sample. With `--pooled MASK` cosines are those of
sentence embeddings: the mean over positions where the input MASK is not 0.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphopt.calibration import Calibrator, load_samples
from graphopt.ir import Checkpoint, load, save
from graphopt.pipeline import PassManager, Pipeline
from graphopt.runtime import SessionOptions, input_specs, shared_worker
from graphopt.targets import load_target

Feed = Mapping[str, NDArray[Any]]


def first_outputs(path: Path, feeds: Sequence[Feed]) -> list[NDArray[Any]]:
    with shared_worker().load(path, SessionOptions(threads=0)) as session:
        name = session.outputs[0].name
        known = {spec.name for spec in session.inputs}
        return [
            session.run({key: array for key, array in feed.items() if key in known}, [name])[name]
            for feed in feeds
        ]


def embedding(output: NDArray[Any], feed: Feed, mask: str | None) -> NDArray[np.float64]:
    wide = output.astype(np.float64)
    if mask is None:
        return wide.ravel()
    weights = feed[mask][..., None].astype(np.float64)
    return ((wide * weights).sum(axis=1) / weights.sum(axis=1)).ravel()


def errors(
    expected: Sequence[NDArray[Any]],
    found: Sequence[NDArray[Any]],
    feeds: Sequence[Feed],
    mask: str | None,
) -> tuple[float, float, float]:
    """Return the signal-to-noise ratio in dB, and the mean and least cosine."""
    signal = sum(float(np.square(one, dtype=np.float64).sum()) for one in expected)
    pairs = list(zip(expected, found, feeds, strict=True))
    noise = sum(float(np.square(a - b, dtype=np.float64).sum()) for a, b, _ in pairs)
    cosines = []
    for a, b, feed in pairs:
        x, y = embedding(a, feed, mask), embedding(b, feed, mask)
        cosines.append(float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y))))
    ratio = 10.0 * float(np.log10(signal / noise)) if noise else float("inf")
    return ratio, float(np.mean(cosines)), min(cosines)


def measured(arguments: argparse.Namespace, text: str, state: Checkpoint) -> str:
    """Return a row of the table for one pipeline."""
    model = state.new_model()
    samples = load_samples(arguments.calibration, inputs=input_specs(model))
    manager = PassManager(
        verify="structure",
        target=load_target(arguments.target).to_facts(),
        statistics_provider=Calibrator(samples=samples),
        reproducer_dir=None,
    )
    start = time.monotonic()
    result = manager.run(model, Pipeline.parse(text))
    seconds = time.monotonic() - start
    evaluation = list(load_samples(arguments.evaluation, inputs=input_specs(model)))
    with tempfile.TemporaryDirectory() as folder:
        path = save(model, Path(folder) / "model.onnx")[0]
        found = first_outputs(path, evaluation)
    expected = first_outputs(arguments.model, evaluation)
    ratio, mean, least = errors(expected, found, evaluation, arguments.pooled)
    print(f"{len(result.ledger.journal.edits)} edits, {seconds:.1f} s", file=sys.stderr)
    return f"| `{text}` | {ratio:.1f} | {mean:.5f} | {least:.5f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description="Repairs of quantized models.")
    parser.add_argument("model", type=Path)
    parser.add_argument("pipelines", nargs="+", metavar="PIPELINE")
    parser.add_argument("--calibration", required=True)
    parser.add_argument("--evaluation", required=True)
    parser.add_argument("--target", default="cpu-int8")
    parser.add_argument("--pooled", metavar="MASK", help="input that tells which positions count")
    parser.add_argument("--out", type=Path, help="file that rows are added to")
    arguments = parser.parse_args()
    model = load(arguments.model)
    PassManager(verify="off", reproducer_dir=None).run(model, Pipeline.parse("@exact"))
    state = Checkpoint.take(model)
    print("| pipeline | SQNR, dB | mean cosine | least |\n|---|---:|---:|---:|")
    for text in arguments.pipelines:
        row = measured(arguments, text, state)
        print(row, flush=True)
        if arguments.out is not None:
            with arguments.out.open("a", encoding="utf-8") as stream:
                stream.write(row + "\n")


if __name__ == "__main__":
    main()
