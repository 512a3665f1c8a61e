"""Make the calibration and evaluation samples of the acceptance benchmark.

Usage:
    python benchmarks/optimize/prepare.py --tokenizer FOLDER --out zoo

`FOLDER` holds the `tokenizer.json` of all-MiniLM-L6-v2 (`pip install tokenizers`). Writes
`minilm_samples/` (64 feeds) and `minilm_eval/` (32 feeds of other sentences): real English,
batch 1, 8 to 64 tokens; and `image_samples/` (32 feeds) and `image_eval/` (8 feeds): seeded,
smooth, image-like noise for the convolutional networks, whose weights are random.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SENTENCES = Path(__file__).with_name("sentences.txt")
CALIBRATION_SENTENCES = 64
MINIMUM_TOKENS, MAXIMUM_TOKENS = 8, 64
IMAGE_SIDE = 224

Feed = dict[str, NDArray[np.generic]]


def passages(sentences: Sequence[str]) -> Iterator[str]:
    """Yield one passage per sentence: it and up to three that follow, so that lengths vary."""
    for number in range(len(sentences)):
        count = 1 + number % 4
        yield " ".join(sentences[(number + step) % len(sentences)] for step in range(count))


def text_feeds(sentences: Sequence[str], tokenizer_folder: Path) -> Iterator[Feed]:
    """Yield tokenized passages, int64 (1, tokens), with 8 to 64 tokens each."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAXIMUM_TOKENS)
    for passage in passages(sentences):
        text = passage
        while len((encoding := tokenizer.encode(text)).ids) < MINIMUM_TOKENS:
            text = f"{text} {sentences[0]}"
        yield {
            "input_ids": np.array([encoding.ids], dtype=np.int64),
            "attention_mask": np.array([encoding.attention_mask], dtype=np.int64),
            "token_type_ids": np.array([encoding.type_ids], dtype=np.int64),
        }


def image_feeds(count: int, seed: int) -> Iterator[Feed]:
    """Yield float32 (1, 3, 224, 224): large soft patches under fine noise, unit variance."""
    rng = np.random.default_rng(seed)
    patch = np.ones((1, 1, IMAGE_SIDE // 8, IMAGE_SIDE // 8))
    for _ in range(count):
        coarse = np.kron(rng.standard_normal((1, 3, 8, 8)), patch)
        fine = rng.standard_normal((1, 3, IMAGE_SIDE, IMAGE_SIDE))
        yield {"pixel_values": (0.8 * coarse + 0.6 * fine).astype(np.float32)}


def write(feeds: Iterator[Feed], folder: Path) -> None:
    """Write each feed as `NNN.npz`, replacing what an earlier call left."""
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("*.npz"):
        stale.unlink()
    number = -1
    for number, feed in enumerate(feeds):
        np.savez_compressed(folder / f"{number:03d}.npz", **feed)
    print(f"{folder}: {number + 1} feeds")


def main() -> None:
    """Write the four folders."""
    parser = argparse.ArgumentParser(description="Make samples for the acceptance benchmark.")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    sentences = SENTENCES.read_text(encoding="utf-8").splitlines()
    learned, held_out = sentences[:CALIBRATION_SENTENCES], sentences[CALIBRATION_SENTENCES:]
    write(text_feeds(learned, arguments.tokenizer), arguments.out / "minilm_samples")
    write(text_feeds(held_out, arguments.tokenizer), arguments.out / "minilm_eval")
    write(image_feeds(32, seed=1), arguments.out / "image_samples")
    write(image_feeds(8, seed=2), arguments.out / "image_eval")


if __name__ == "__main__":
    main()
