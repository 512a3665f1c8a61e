"""Samples: feeds of a model, read again for every pass over them."""

from __future__ import annotations

import functools
import operator
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from graphopt.calibration.backend_tests import find_data_sets, read_data_sets
from graphopt.calibration.prepared_source import ITEMS, PreparedSource
from graphopt.calibration.sample_files import (
    LABELS,
    RawSample,
    open_folder,
    read_sample_file,
    sampling_function,
)
from graphopt.calibration.sample_spec import implied_spec, read_spec, specified_samples
from graphopt.errors import CalibrationDataError, UnsupportedModelError
from graphopt.ir.hashing import sha256
from graphopt.runtime import TensorSpec

__all__ = ["LABELS", "SamplePart", "SampleSource", "Samples", "load_samples"]

_LISTING = "`graphopt inspect MODEL` lists the names, types and shapes of the inputs"

SampleSource: TypeAlias = str | Path | Callable[[], Iterable[RawSample]] | Iterable[RawSample]
"""A file, a folder, ``module:function``, a function, or feeds."""

Feed: TypeAlias = dict[str, npt.NDArray[Any]]
Row: TypeAlias = tuple[Feed, npt.NDArray[Any] | None, list[dict[str, str]] | None]
"""A feed, its labels, and what it was made of."""


def load_samples(
    source: SampleSource,
    *,
    inputs: Sequence[TensorSpec] | None = None,
    home: Path | None = None,
) -> Samples:
    """Return the samples of ``source``; they are read when they are iterated over.

    Args:
        source: An ``.npz`` file (one feed by input name), an ``.npy`` file (one feed of a model
            with one input), a folder of them (sorted by name), a folder of ``test_data_set_*``
            folders, a ``.json`` specification of texts, images or sound, ``module:function`` or a
            function that returns an iterable of feeds and is called again for every pass, or feeds.
            A ``.txt`` or ``.jsonl`` file beside its ``tokenizer.json``, and a folder of images or
            recordings with a ``preprocessing.json``, need no specification.
        inputs: The model's inputs; needed where a sample is an array without a name, and for texts,
            images and sound.
        home: Folder of the model, where to look for a tokenizer or processor that does not lie
            beside the samples.

    Raises:
        CalibrationDataError: There is no such source, or nothing in it.
    """
    only_input = inputs[0].name if inputs is not None and len(inputs) == 1 else None
    if isinstance(source, str | Path) and (prepared := _prepared(source, inputs, home)):
        return Samples(str(source), prepared.read, prepared=prepared)
    name, opener = _open(source, inputs)
    return Samples(name, opener, only_input=only_input)


def _prepared(
    source: str | Path, inputs: Sequence[TensorSpec] | None, home: Path | None
) -> PreparedSource | None:
    """Return samples that are made of texts, images or sound; ``None`` for others."""
    path = Path(source)
    if path.suffix == ".json" and path.is_file():
        return specified_samples(read_spec(path), path.parent, inputs)
    if (spec := implied_spec(path, home)) is None:
        return None
    return specified_samples(spec, path if path.is_dir() else path.parent, inputs)


def _open(
    source: SampleSource, inputs: Sequence[TensorSpec] | None
) -> tuple[str, Callable[[], Iterable[RawSample]]]:
    if isinstance(source, str | Path):
        return _open_text(source, inputs)
    if callable(source):
        return getattr(source, "__qualname__", "a function"), source
    # An iterator can be read once; samples are read several times.
    feeds = list(source) if iter(source) is source else source
    return f"{type(source).__name__} of feeds", lambda: feeds


def _open_text(
    source: str | Path, inputs: Sequence[TensorSpec] | None
) -> tuple[str, Callable[[], Iterable[RawSample]]]:
    path = Path(source)
    if path.is_dir():
        if data_sets := find_data_sets(path):
            return str(source), read_data_sets(data_sets, inputs)
        files = open_folder(path)
        return str(source), lambda: (read_sample_file(file) for file in files)
    if path.exists():
        return str(source), lambda: (read_sample_file(path),)
    if isinstance(source, str) and ":" in source and not path.suffix.startswith(".np"):
        return source, sampling_function(source)
    raise CalibrationDataError(
        f"samples not found: `{source}`",
        why="there is no such file or folder",
        hint="give an .npz or .npy file, a folder of them, a .json specification, or "
        "`module:function`",
    )


class Samples:
    """Feeds of a model, iterable again and again.

    A sample whose labels have as many entries as each of its inputs has rows is cut into rows:
    one feed per row, with a first axis of 1.

    Args:
        source: Where they come from, for messages and reports.
        opener: Returns them all, afresh with every call.
        only_input: Name of the only input, for samples that are arrays.
        prepared: How they are made, of texts, images or sound.
    """

    def __init__(
        self,
        source: str,
        opener: Callable[[], Iterable[RawSample]],
        *,
        only_input: str | None = None,
        prepared: PreparedSource | None = None,
    ) -> None:
        self.source = source
        self.prepared = prepared
        self._opener = opener
        self._only_input = only_input

    def __iter__(self) -> Iterator[Feed]:
        # Nothing here holds a feed while the next one is read: two take twice the memory.
        return map(operator.itemgetter(0), self._labelled())

    def items(self) -> Iterator[list[dict[str, str]] | None]:
        """Yield what each sample was made of: texts or files; ``None`` where it came as arrays."""
        return (items for _, _, items in self._labelled())

    def __len__(self) -> int:
        return self._count

    @functools.cached_property
    def _count(self) -> int:
        return sum(1 for _ in map(len, self))  # not over feeds: it would hold the one before

    @functools.cached_property
    def labels(self) -> npt.NDArray[Any] | None:
        """One entry per sample, or ``None`` where samples have no labels.

        Raises:
            CalibrationDataError: Some samples have labels and others do not.
        """
        found = [label for _, label, _ in self._labelled()]
        given = [label for label in found if label is not None]
        if not given:
            return None
        if len(given) != len(found):
            raise CalibrationDataError(
                f"{len(found) - len(given)} of {len(found)} samples have no labels",
                where=f"`{self.source}`",
                why=f"expected `{LABELS}` in each sample, or in none",
            )
        if len({label.shape for label in given}) == 1:
            return np.stack(given)
        ragged = np.empty(len(given), dtype=object)
        ragged[:] = given
        return ragged

    def digest(self) -> str:
        """Return the SHA-256 of names, types, shapes, contents and labels, in order."""
        digest = sha256()
        for feed, label, _ in self._labelled():
            named = {**feed, LABELS: label} if label is not None else feed
            for name in sorted(named):
                array = np.ascontiguousarray(named[name])
                digest.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
                # Of objects the bytes are addresses, which are others in every process.
                digest.update(str(array.tolist()).encode() if array.dtype.hasobject else array.data)
            digest.update(b"\0end\0")
        return digest.hexdigest()

    def check(self, specs: Sequence[TensorSpec]) -> None:
        """Check every sample against the inputs of a model; raises as `checked` does."""
        deque(self.checked(specs), maxlen=0)  # a loop would hold the one before

    def checked(self, specs: Sequence[TensorSpec]) -> Iterator[Feed]:
        """Yield every sample after it was checked against the inputs of a model.

        Raises:
            CalibrationDataError: There is no sample; or one has a wrong name, type or shape, or
                holds NaN or infinity; the first fault is named.
            UnsupportedModelError: An input is a sequence or optional.
        """
        count = 0
        for feed in self:  # `enumerate` would hold the one before
            count += 1
            where = f"sample {count} of `{self.source}`"
            _check_names(feed, [spec.name for spec in specs], where)
            for spec in specs:
                _check_array(feed[spec.name], spec, where)
            yield feed
            del feed  # before the next one is read
        if not count:
            raise CalibrationDataError(
                "there are no samples",
                where=f"`{self.source}`",
                why="expected at least one feed",
                hint="give some: one feed is `{input_name: array}`",
            )
        self._count = count  # now known; else they would all be read to count them

    def _labelled(self) -> Iterator[Row]:
        count = 0
        for raw in self._opener():
            feed = self._named(raw)
            labels, held = feed.pop(LABELS, None), feed.pop(ITEMS, None)
            items = None if held is None else list(held)
            if labels is None or not _has_rows(feed, labels):
                count += 1
                yield feed, labels, items
                del raw, feed
                continue
            for row in range(len(labels)):
                cut = {name: array[row : row + 1] for name, array in feed.items()}
                count += 1
                yield cut, labels[row], None if items is None else items[row : row + 1]
        self._check_count(count)

    def _check_count(self, count: int) -> None:
        """Check that all came again: of an iterator that was read before, nothing does."""
        known = self.__dict__.get("_count", count)
        if count != known:
            raise CalibrationDataError(
                "samples are others when they are read again",
                where=f"`{self.source}`",
                why=f"{known} at first, {count} now",
                hint="return them afresh with every call, or give a list",
            )

    def _named(self, raw: RawSample) -> Feed:
        if hasattr(raw, "items"):
            return {str(name): self._array(str(name), value) for name, value in raw.items()}
        if self._only_input is None:
            raise CalibrationDataError(
                "a sample does not say which input it is for",
                where=f"`{self.source}`",
                why=f"found a bare `{type(raw).__name__}`, and the model has several inputs",
                hint="give arrays by input name: `numpy.savez(path, **{input_name: array})`",
            )
        return {self._only_input: self._array(self._only_input, raw)}

    def _array(self, name: str, value: object) -> npt.NDArray[Any]:
        try:
            return np.asarray(value)
        except ValueError as error:
            raise CalibrationDataError(
                f"samples for `{name}` are not arrays",
                where=f"`{self.source}`",
                why=str(error),
                hint="give one array for each input",
            ) from error


class SamplePart(Samples):
    """Every so-many-th sample, or all others.

    Args:
        whole: All samples.
        step: One in so many is held out: the last of each `step`.
        is_held_out: The part is that of those held out.
    """

    def __init__(self, whole: Samples, step: int, *, is_held_out: bool) -> None:
        super().__init__(whole.source, lambda: (), prepared=whole.prepared)
        self._whole, self._step, self._is_held_out = whole, step, is_held_out

    def _labelled(self) -> Iterator[Row]:
        for number, row in enumerate(self._whole._labelled(), start=1):  # noqa: SLF001 - its own
            if (number % self._step == 0) is self._is_held_out:
                yield row


def _has_rows(feed: Feed, labels: npt.NDArray[Any]) -> bool:
    return (
        labels.ndim > 0
        and bool(feed)
        and all(array.ndim > 0 and len(array) == len(labels) for array in feed.values())
    )


def _check_names(feed: Feed, expected: Sequence[str], where: str) -> None:
    for name in feed:
        if name not in expected:
            import difflib

            near = difflib.get_close_matches(name, expected, n=1)
            raise CalibrationDataError(
                f"samples have an unknown input `{name}`",
                where=where,
                why="the model's inputs are " + ", ".join(f"`{known}`" for known in expected),
                hint=f"did you mean `{near[0]}`?" if near else _LISTING,
            )
    for name in expected:
        if name not in feed:
            raise CalibrationDataError(
                f"samples lack input `{name}`",
                where=where,
                why="found " + (", ".join(f"`{known}`" for known in feed) or "no arrays"),
                hint=_LISTING,
            )


def _check_array(array: npt.NDArray[Any], spec: TensorSpec, where: str) -> None:
    if "(" in spec.dtype:
        raise UnsupportedModelError(
            "samples cannot be given for this type",
            where=f"input `{spec.name}`",
            why=f"its type is {spec.dtype}, and samples are arrays",
            hint="let the model make the sequence itself, from inputs that are tensors",
        )
    expected = spec.numpy_dtype
    is_text = array.dtype.kind in "OSU"
    if (is_text and expected.kind != "O") or (not is_text and array.dtype != expected):
        raise CalibrationDataError(
            f"samples for `{spec.name}` have the wrong type",
            where=where,
            why=f"expected {spec.dtype}, found {array.dtype.name}"
            + ("" if array.dtype.isnative else " with its bytes in the other order"),
            hint=f"convert them with `array.astype('{spec.dtype}')`",
        )
    if not _fits(array.shape, spec.dims):
        shape = ", ".join(str(dim) for dim in spec.dims)
        raise CalibrationDataError(
            f"samples for `{spec.name}` have the wrong shape",
            where=where,
            why=f"expected ({shape}), found {array.shape}",
            hint=_shape_hint(array.shape, spec),
        )
    # One NaN makes every range NaN behind it, and no layer there would be quantized.
    if array.dtype.kind == "f" and not np.all(np.isfinite(array)):
        raise CalibrationDataError(
            f"samples for `{spec.name}` hold NaN or infinity",
            where=where,
            why=f"{np.count_nonzero(~np.isfinite(array))} of {array.size} elements are not finite",
            hint=f"find them with `numpy.argwhere(~numpy.isfinite(samples['{spec.name}']))`",
        )


def _shape_hint(shape: tuple[int, ...], spec: TensorSpec) -> str:
    """Return what to do about a wrong shape: images often have their colours on another axis."""
    for axes in ((0, 3, 1, 2), (0, 2, 3, 1)):
        if len(shape) == len(axes) and _fits(tuple(shape[axis] for axis in axes), spec.dims):
            return f"the channels are on another axis: `array.transpose{axes}` fits"
    if _fits((1, *shape), spec.dims):
        return "an axis for the batch is missing: `array[None]` fits"
    return _LISTING


def _fits(shape: tuple[int, ...], dims: tuple[int | str | None, ...]) -> bool:
    """Tell whether a shape fits: same rank, same fixed dimensions, nothing empty."""
    return len(shape) == len(dims) and all(
        size > 0 and (not isinstance(dim, int) or dim == size)
        for size, dim in zip(shape, dims, strict=True)
    )
