"""Texts as inputs of a model, and what it returns for each token as one vector.

Part of `validate.py`: see `unprepared`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.calibration.unprepared import LibraryMissing, Unprepared

__all__ = ["load_tokenizer", "pooled", "text_arrays", "text_feed"]

LARGEST_TOKENIZER = 1 << 28  # bytes; the largest in use have 35 MB, and reading takes tenfold
LEAST_NORM = 1e-12  # as in `torch.nn.functional.normalize`


def load_tokenizer(path: Path) -> Any:
    """Return the tokenizer of a `tokenizer.json`, as the library `tokenizers` reads it.

    Raises:
        LibraryMissing: The library is not installed.
        Unprepared: The file is none, or is missing.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise LibraryMissing(
            "texts need the library `tokenizers`", "it is not installed", "pip install tokenizers"
        ) from None
    if not path.is_file():
        raise Unprepared(
            f"tokenizer not found: `{path.name}`",
            "there is no such file",
            "save it with `tokenizer.save_pretrained(folder)`, as a fast tokenizer",
        )
    if path.stat().st_size > LARGEST_TOKENIZER:
        raise Unprepared(
            f"a tokenizer cannot be had from `{path.name}`",
            f"it has more than {LARGEST_TOKENIZER >> 20} MiB",
        )
    with told_of_tokenizers(f"a tokenizer cannot be had from `{path.name}`"):
        return Tokenizer.from_file(str(path))


@contextmanager
def told_of_tokenizers(message: str) -> Iterator[None]:
    """Turn what the library raises into `Unprepared`: plain exceptions, and panics of its Rust."""
    try:
        yield
    except BaseException as error:
        # A panic is no `Exception`, so that nobody catches it unawares; one of a damaged file is
        # as good as any other refusal.
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise Unprepared(message, f"{type(error).__name__}: {error}") from None
        raise


def text_arrays(
    spec: Mapping[str, Any], tokenizer: Any, items: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return what inputs may hold for texts, all filled up to the same length.

    Args:
        spec: What `preprocessing.json` says.
        tokenizer: See `load_tokenizer`; what it says of padding and cutting is set anew.
        items: `text`, and `pair` where texts come in pairs.

    Returns:
        `ids`, `mask`, `types` and `positions`, each (texts, tokens) of 64-bit integers.
    """
    pairs = [[_cleaned(item.get(key), spec) for key in ("text", "pair")] for item in items]
    with told_of_tokenizers("a text cannot be cut into tokens"):
        # A file may say how its author padded and cut; what the specification says is what a device
        # does.
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_length=spec["length"] or spec["max_length"])
        encoded = [tokenizer.encode(*pair) for pair in pairs]
    length = spec["length"] or max(1, *(len(item.ids) for item in encoded), 1)
    side = spec["padding_side"]
    mask = _filled([item.attention_mask for item in encoded], length, 0, side)
    ordered = np.tile(np.arange(length), (len(encoded), 1))
    # Filled up on the left, texts begin where their mask does.
    positions = np.maximum(mask.cumsum(axis=1) - 1, 0) if side == "left" else ordered
    return {
        "ids": _filled([item.ids for item in encoded], length, spec["pad_id"], side),
        "mask": mask,
        "types": _filled([item.type_ids for item in encoded], length, 0, side),
        "positions": positions,
    }


def text_feed(spec: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs by name that hold `arrays`, in their types."""
    return {
        name: arrays[held["holds"]].astype(held["dtype"]) for name, held in spec["inputs"].items()
    }


def pooled(values: Any, mask: Any, spec: Mapping[str, Any]) -> Any:
    """Return one vector for each text, as sentence-transformers makes it.

    Args:
        values: (texts, tokens, width); with `pooling` `none` (texts, width).
        mask: (texts, tokens): 1 where there is a token.
        spec: `pooling` (`mean`, `cls`, `max`, `mean_sqrt_len`, `last`, `none`) and `normalize`:
            whether vectors are divided by their Euclidean norm.

    Returns:
        (texts, width) of 32-bit floats.
    """
    values, pooling = np.asarray(values, np.float64), spec["pooling"]
    if pooling != "none":
        values = _over_tokens(values, np.asarray(mask, np.float64), pooling)
    if spec["normalize"]:
        norm = np.linalg.norm(values, axis=-1, keepdims=True)
        values = values / np.maximum(norm, LEAST_NORM)
    return values.astype(np.float32)


def _over_tokens(values: Any, mask: Any, pooling: str) -> Any:
    rows, count = np.arange(len(values)), np.maximum(mask.sum(axis=1, keepdims=True), 1e-9)
    if pooling == "cls":
        return values[rows, mask.argmax(axis=1)]
    if pooling == "last":
        return values[rows, mask.shape[1] - 1 - mask[:, ::-1].argmax(axis=1)]
    if pooling == "max":
        return np.where(mask[..., None] > 0, values, -1e9).max(axis=1)
    total = (values * mask[..., None]).sum(axis=1)
    return total / (count if pooling == "mean" else np.sqrt(count))


def _cleaned(text: Any, spec: Mapping[str, Any]) -> Any:
    if text is None:
        return None
    return text.strip().lower() if spec["lowercase"] else text.strip()


def _filled(rows: Sequence[Sequence[int]], length: int, filler: int, side: str) -> Any:
    array = np.full((len(rows), length), filler, np.int64)
    for index, row in enumerate(rows):
        place = slice(length - len(row), None) if side == "left" else slice(len(row))
        array[index, place] = row
    return array
