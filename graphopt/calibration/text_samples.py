"""Texts as inputs of a model, by a tokenizer."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.calibration.preparation import Preparation
from graphopt.calibration.prepared_source import ITEMS, PreparedSource, explaining
from graphopt.calibration.prepared_texts import load_tokenizer
from graphopt.calibration.sample_files import LABELS, RawSample
from graphopt.errors import CalibrationDataError
from graphopt.runtime import TensorSpec

__all__ = ["TEXT_SUFFIXES", "TOKENIZER", "text_samples"]

TEXT_SUFFIXES = (".txt", ".jsonl")
TOKENIZER = "tokenizer.json"

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
) -> PreparedSource:
    """Return the texts of a specification, which are read, tokenized and batched when asked for.

    Args:
        spec: Checked, of kind ``text``.
        folder: What its paths are relative to.
        inputs: The model's inputs; their fixed sizes come before those of the specification.

    Raises:
        CalibrationDataError: The texts or the tokenizer cannot be read; an input means nothing.
        MissingExtraError: `tokenizers` is not installed.
    """
    path, place = folder / spec["source"], folder / spec["tokenizer"]
    if not path.is_file():
        raise CalibrationDataError(
            f"texts not found: `{spec['source']}`", where=f"`{path}`", why="there is no such file"
        )
    file = place / TOKENIZER if place.is_dir() else place
    told = _settled(spec, file, inputs)
    with explaining(file):
        preparation = Preparation({**told, "tokenizer": str(file.absolute())}, folder)
    fixed = _fixed(inputs, 0)
    size: int = fixed or spec["batch_size"]

    def read() -> Iterator[RawSample]:
        texts = _texts(path, spec)
        while batch := list(itertools.islice(texts, size)):
            if len(batch) == size or not fixed:
                with explaining(file):
                    sample = _sample(preparation, batch)
                yield sample

    return PreparedSource(read=read, spec=told, files={TOKENIZER: file})


def _sample(
    preparation: Preparation, batch: Sequence[tuple[str, str | None, Any]]
) -> dict[str, Any]:
    """Return the inputs for texts, what they were, and their labels."""
    items = np.empty(len(batch), object)
    for place, (text, pair, _) in enumerate(batch):
        items[place] = {"text": text} if pair is None else {"text": text, "pair": pair}
    labels = [label for _, _, label in batch if label is not None]
    made = {**preparation.feed(list(items)), ITEMS: items}
    return made | {LABELS: _label_array(labels)} if labels else made


def _label_array(labels: Sequence[Any]) -> npt.NDArray[Any]:
    try:
        return np.asarray(labels)
    except ValueError as error:  # lists of different lengths
        raise CalibrationDataError(
            "labels of texts do not fit together",
            why=str(error),
            hint="give each text one label, or as many as the others have",
        ) from error


def _settled(spec: Mapping[str, Any], file: Path, inputs: Sequence[TensorSpec]) -> dict[str, Any]:
    """Return what `preprocessing.json` says, with nothing left to the names of inputs."""
    with explaining(file):
        tokenizer = load_tokenizer(file)
    own: dict[str, Any] = tokenizer.padding or {}
    tokens = [own.get("pad_token"), *_PADDING_TOKENS]
    # The file's own first, then the names in use; GPT-2 has none, and pads with
    # the end of a text.
    known = [tokenizer.token_to_id(token) for token in tokens if token is not None]
    length = _fixed(inputs, 1) or (spec["max_length"] if spec["padding"] == "max_length" else None)
    return {
        "kind": "text",
        "tokenizer": TOKENIZER,
        "vocabulary": tokenizer.get_vocab_size(),
        "max_length": spec["max_length"],
        "length": length,
        "padding_side": spec["padding_side"] or own.get("direction", "right").lower(),
        "pad_id": next((token for token in known if token is not None), 0),
        "lowercase": spec["lowercase"],
        "inputs": {
            item.name: {"holds": _meaning(item.name, spec), "dtype": item.numpy_dtype.name}
            for item in inputs
        },
        "vector": spec["vector"],
        "note": spec["note"],
    }


def _fixed(inputs: Sequence[TensorSpec], axis: int) -> int | None:
    """Return the fixed number of texts (axis 0) or tokens (1) of a model; None where it is open."""
    for item in inputs:
        size = item.dims[axis] if len(item.dims) == 2 else None  # noqa: PLR2004 - batch, sequence
        if isinstance(size, int):
            return size
    return None


def _texts(path: Path, spec: Mapping[str, Any]) -> Iterator[tuple[str, str | None, Any]]:
    """Yield text, second text and label of each line that is not empty."""
    number = 0
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if not (text := line.strip()):
                    continue
                is_plain = path.suffix == ".txt"
                yield (text, None, None) if is_plain else _parsed(text, spec, path, number)
    except UnicodeDecodeError as error:
        raise CalibrationDataError(
            "a text file cannot be read",
            where=f"`{path}`, after line {number}",
            why=f"expected UTF-8: {error.reason}",
            hint=f"convert it, for example with `iconv -f latin1 -t utf-8 {path.name}`",
        ) from error


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
