"""Images and sound as inputs of a model, by a specification of what is done to them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.calibration.preparation import Preparation
from graphopt.calibration.prepared_source import ITEMS, PreparedSource, explaining
from graphopt.calibration.sample_files import LABELS, RawSample
from graphopt.errors import CalibrationDataError
from graphopt.runtime import TensorSpec

__all__ = ["IMAGE_SUFFIXES", "SOUND_SUFFIXES", "file_samples"]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
SOUND_SUFFIXES = (".wav",)

_SUFFIXES = {"image": IMAGE_SUFFIXES, "audio": SOUND_SUFFIXES}
_WORDS = {"image": "images", "audio": "recordings"}
_IMAGE_RANK = 4
# Keys of a specification that say where samples are, not what is done to them.
_SOURCE_KEYS = frozenset({"$schema", "source", "labels", "batch_size"})


def file_samples(
    spec: Mapping[str, Any], folder: Path, inputs: Sequence[TensorSpec]
) -> PreparedSource:
    """Return the images or recordings of a specification, which are read when they are asked for.

    Args:
        spec: Checked, of kind ``image`` or ``audio``.
        folder: What its paths are relative to.
        inputs: The model's inputs: exactly one.

    Raises:
        CalibrationDataError: There are no such files, or the model takes none.
        MissingExtraError: `Pillow` is not installed.
    """
    kind = spec["kind"]
    root = folder / spec["source"]
    told = {key: value for key, value in spec.items() if key not in _SOURCE_KEYS}
    told["input"] = {"name": "", "dtype": "float32"}
    with explaining(root):
        Preparation(told, root)  # whether the library is here, before anything else
    taking = _taking(spec, inputs)
    told["input"] = {"name": taking.name, "dtype": taking.numpy_dtype.name}
    files = sorted(path for path in root.rglob("*") if path.suffix.lower() in _SUFFIXES[kind])
    if not files:
        raise CalibrationDataError(
            f"no {_WORDS[kind]} in `{spec['source']}`",
            where=f"`{root}`",
            why="expected " + ", ".join(_SUFFIXES[kind]) + " files, found none",
        )
    batch = taking.dims[0]
    size = batch if isinstance(batch, int) else spec["batch_size"]
    classes = sorted({path.parent for path in files})
    preparation = Preparation(told, folder)

    def read() -> Iterator[RawSample]:
        remaining = iter(files)
        while part := list(itertools.islice(remaining, size)):
            # The last images do not fill a batch of fixed size: made up ones would count as
            # samples.
            if len(part) < size and isinstance(batch, int):
                return
            yield _sample(preparation, part, classes if spec["labels"] == "folders" else None)

    return PreparedSource(read=read, spec=told, files={})


def _sample(
    preparation: Preparation, files: Sequence[Path], classes: Sequence[Path] | None
) -> dict[str, Any]:
    # Filled afterwards: numpy would make an array of keys of a list of dictionaries of one shape.
    items = np.empty(len(files), object)
    items[:] = [{"file": str(path.absolute())} for path in files]
    with explaining(files[0]):
        made = {**preparation.feed(list(items)), ITEMS: items}
    if classes is None:
        return made
    return made | {LABELS: np.array([classes.index(path.parent) for path in files])}


def _taking(spec: Mapping[str, Any], inputs: Sequence[TensorSpec]) -> TensorSpec:
    """Return the input that takes what a specification makes."""
    kind = spec["kind"]
    if kind == "image":
        rank, wanted = _IMAGE_RANK, "four axes"
    else:
        rank, wanted = (3, "three axes") if spec["features"] == "log-mel" else (2, "two axes")
    if len(inputs) == 1 and len(inputs[0].dims) == rank:
        return inputs[0]
    raise CalibrationDataError(
        f"{_WORDS[kind]} cannot be fed to this model",
        why=f"expected one input with {wanted}, found {len(inputs)} inputs: "
        + ", ".join(f"`{item.name}`" for item in inputs),
        hint="write samples with `numpy.savez(path, **{input_name: array})` instead",
    )
