"""Make calibration and evaluation samples for each graph of the zoo.

Usage:
    python benchmarks/quantize/prepare.py --zoo zoo --out samples [--count 64] [NAME ...]

Reads `zoo/NAME/spec.json` (see `benchmarks/simplify/feeds.py`) and writes
`samples/NAME/calibration/` and `samples/NAME/evaluation/`. Models with seeded weights get seeded
inputs at the sizes of their spec; MiniLM, which is trained, gets the sentences that
`benchmarks/optimize/prepare.py` tokenized into `zoo/minilm_samples` and `zoo/minilm_eval`. A
decoder's past is what the model itself computed for the tokens before: random caches would be
unlike anything that it meets.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "simplify"))
from feeds import make_feed

Feed = dict[str, NDArray[Any]]
EVALUATION_COUNT = 8
EVALUATION_SEED = 100_000


def seeded_feeds(folder: Path, seeds: range) -> Iterator[Feed]:
    """Yield one feed per seed, at the sizes of the graph's spec."""
    spec = json.loads((folder / "spec.json").read_text(encoding="utf-8"))
    session = Decoder(folder) if "past" in spec["dims"] else None
    for seed in seeds:
        feed = make_feed(spec, {}, seed)
        for name, array in feed.items():
            if "mask" in name:
                array[...] = 1  # nothing is padding: every tool is to see the same positions
        yield session.with_real_past(feed, seed) if session else feed


class Decoder:
    """Computes the past of a decoder by running it on the tokens before."""

    def __init__(self, folder: Path) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        self._session = ort.InferenceSession(
            folder / "model.onnx", options, providers=["CPUExecutionProvider"]
        )
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        self._past = [value.name for value in inputs if "past" in value.name]
        self._present = [value.name for value in outputs if "present" in value.name]

    def with_real_past(self, feed: Feed, seed: int) -> Feed:
        """Return the feed with the caches that the model leaves after random tokens."""
        rng = np.random.default_rng(seed)
        length = feed[self._past[0]].shape[2]
        before: Feed = {}
        for name, array in feed.items():
            if name in self._past:
                before[name] = array[:, :, :0]
            elif name == "position_ids":
                before[name] = np.arange(length, dtype=array.dtype)[None]
                feed[name] = np.full_like(array, length)
            elif "mask" in name:
                before[name] = np.ones((1, length), array.dtype)
            elif name == "input_ids":
                before[name] = rng.integers(1, 30000, (1, length), dtype=array.dtype)
            else:
                before[name] = array
        caches = self._session.run(self._present, before)
        return {**feed, **dict(zip(self._past, caches, strict=True))}


def write(feeds: Iterator[Feed], folder: Path) -> None:
    """Write each feed as `NNN.npz`, replacing what an earlier call left."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for number, feed in enumerate(feeds):
        np.savez(folder / f"{number:03d}.npz", **feed)


def main() -> None:
    """Write the samples of the graphs named, or of all."""
    parser = argparse.ArgumentParser(description="Make samples for the quantization benchmark.")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--zoo", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=64)
    arguments = parser.parse_args()
    names = arguments.names or sorted(
        path.parent.name for path in arguments.zoo.glob("*/spec.json")
    )
    for name in names:
        out = arguments.out / name
        if name.startswith("minilm"):
            for source, kind in (("minilm_samples", "calibration"), ("minilm_eval", "evaluation")):
                shutil.copytree(arguments.zoo / source, out / kind, dirs_exist_ok=True)
            continue
        folder = arguments.zoo / name
        write(seeded_feeds(folder, range(arguments.count)), out / "calibration")
        evaluation = range(EVALUATION_SEED, EVALUATION_SEED + EVALUATION_COUNT)
        write(seeded_feeds(folder, evaluation), out / "evaluation")
        print(f"{name}: {arguments.count} + {EVALUATION_COUNT} feeds")


if __name__ == "__main__":
    main()
