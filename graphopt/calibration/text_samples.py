"""Texts as inputs of a model, by a tokenizer."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.calibration.sample_files import LABELS, RawSample
from graphopt.calibration.user_functions import calling
from graphopt.errors import CalibrationDataError, MissingExtraError
from graphopt.runtime import TensorSpec

__all__ = ["TEXT_SUFFIXES", "text_samples"]

TEXT_SUFFIXES = (".txt", ".jsonl")

_PADDING_TOKENS = ("[PAD]", "<pad>", "<|endoftext|>")
# What an input holds, by what its name contains; the first that fits.
_MEANINGS = (
    ("mask", "mask"),
    ("token_type", "types"),
    ("segment", "types"),
    ("position", "positions"),
    ("ids", "ids"),
    ("token", "ids"),
    ("input", "ids"),
)


def text_samples(
    spec: Mapping[str, Any], folder: Path, inputs: Sequence[TensorSpec]
) -> Callable[[], Iterable[RawSample]]:
    """Return a function that reads, tokenizes and batches the texts of a specification.

    Args:
        spec: Checked, of kind ``text``.
        folder: What its paths are relative to.
        inputs: The model's inputs; their fixed sizes come before those of the specification.

    Raises:
        CalibrationDataError: The texts or the tokenizer cannot be read; an input means nothing.
        MissingExtraError: `tokenizers` is not installed.
    """
    path = folder / spec["source"]
    if not path.is_file():
        raise CalibrationDataError(
            f"texts not found: `{spec['source']}`", where=f"`{path}`", why="there is no such file"
        )
    tokenizer = _Tokenizer(spec, folder / spec["tokenizer"], inputs)
    size = tokenizer.batch_size

    def read() -> Iterator[RawSample]:
        texts = _texts(path, spec)
        while batch := list(itertools.islice(texts, size)):
            if len(batch) == size or not tokenizer.is_batch_fixed:
                yield tokenizer.feed(batch)

    return read


def _texts(path: Path, spec: Mapping[str, Any]) -> Iterator[tuple[str, str | None, Any]]:
    """Yield text, second text and label of each line that is not empty."""
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not (text := line.strip()):
                continue
            yield (text, None, None) if path.suffix == ".txt" else _parsed(text, spec, path, number)


def _parsed(
    line: str, spec: Mapping[str, Any], path: Path, number: int
) -> tuple[str, str | None, Any]:
    names = [spec["field"], spec["pair_field"], spec["label_field"]]
    try:
        held = json.loads(line)
        if isinstance(held, str) and not any(names[1:]):
            return held, None, None
        text, pair, label = (None if name is None else held[name] for name in names)
    except (ValueError, KeyError, TypeError) as error:
        wanted = ", ".join(f"`{name}`" for name in names if name)
        raise CalibrationDataError(
            "a line of a text file cannot be understood",
            where=f"`{path}`, line {number}",
            why=f"expected a JSON object with {wanted}: {type(error).__name__}: {error}",
        ) from error
    return str(text), None if pair is None else str(pair), label


class _Tokenizer:
    """Makes feeds of texts."""

    def __init__(self, spec: Mapping[str, Any], path: Path, inputs: Sequence[TensorSpec]) -> None:
        self._inputs = inputs
        self._meanings = {item.name: _meaning(item.name, spec) for item in inputs}
        shapes = [item.dims for item in inputs if len(item.dims) == 2]  # noqa: PLR2004 - batch, sequence
        batches = {dims[0] for dims in shapes if isinstance(dims[0], int)}
        lengths = {dims[1] for dims in shapes if isinstance(dims[1], int)}
        self.is_batch_fixed = bool(batches)
        self.batch_size: int = batches.pop() if batches else spec["batch_size"]
        fixed = lengths.pop() if lengths else None
        self._length = fixed or (spec["max_length"] if spec["padding"] == "max_length" else None)
        self._tokenizer = _load(path)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length=fixed or spec["max_length"])
        known = [self._tokenizer.token_to_id(token) for token in _PADDING_TOKENS]
        self._filler = next((token for token in known if token is not None), 0)

    def feed(self, batch: Sequence[tuple[str, str | None, Any]]) -> dict[str, npt.NDArray[Any]]:
        """Return the inputs for texts, filled up to the same length, and their labels."""
        encoded = [self._tokenizer.encode(text, pair) for text, pair, _ in batch]
        length = self._length or max(1, *(len(item.ids) for item in encoded), 1)
        arrays = {
            "ids": _filled([item.ids for item in encoded], length, self._filler),
            "mask": _filled([item.attention_mask for item in encoded], length, 0),
            "types": _filled([item.type_ids for item in encoded], length, 0),
            "positions": np.tile(np.arange(length), (len(encoded), 1)),
        }
        made = {
            item.name: arrays[self._meanings[item.name]].astype(item.numpy_dtype)
            for item in self._inputs
        }
        labels = [label for _, _, label in batch if label is not None]
        return made | {LABELS: np.asarray(labels)} if labels else made


def _filled(rows: Sequence[Sequence[int]], length: int, filler: int) -> npt.NDArray[np.int64]:
    array = np.full((len(rows), length), filler, np.int64)
    for index, row in enumerate(rows):
        array[index, : len(row)] = row
    return array


def _meaning(name: str, spec: Mapping[str, Any]) -> str:
    given: dict[str, str] = spec.get("inputs", {})
    if name in given:
        return given[name]
    for part, meaning in _MEANINGS:
        if part in name.lower():
            return meaning
    raise CalibrationDataError(
        f"nothing says what input `{name}` holds",
        why="its name is none of the usual ones for texts",
        hint=f'say it in the specification: `"inputs": {{"{name}": "ids"}}` - or `mask`, `types`, '
        "`positions`",
    )


def _load(path: Path) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise MissingExtraError(
            "texts need the library `tokenizers`",
            why="it is not installed",
            hint="`pip install 'graphopt[data]'`",
        ) from error
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise CalibrationDataError(
            f"tokenizer not found: `{path.name}`",
            where=f"`{file}`",
            why="there is no such file",
            hint="save it with `tokenizer.save_pretrained(folder)`, as a fast tokenizer",
        )
    # The library raises `Exception` itself, whatever is wrong.
    with calling(file.name, what="a tokenizer", failure=CalibrationDataError):
        return Tokenizer.from_file(str(file))
