"""Images as inputs of a model, by a specification of what is done to them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.calibration.sample_files import LABELS, RawSample
from graphopt.errors import CalibrationDataError, MissingExtraError
from graphopt.runtime import TensorSpec

__all__ = ["IMAGE_SUFFIXES", "image_samples"]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")

_IMAGE_RANK = 4


def image_samples(
    spec: Mapping[str, Any], folder: Path, inputs: Sequence[TensorSpec]
) -> Callable[[], Iterable[RawSample]]:
    """Return a function that reads, prepares and batches the images of a specification.

    Args:
        spec: Checked, of kind ``image``.
        folder: What its paths are relative to.
        inputs: The model's inputs, of which exactly one takes images.

    Raises:
        CalibrationDataError: There are no images, or the model takes none.
        MissingExtraError: `Pillow` is not installed.
    """
    _library()
    taking = [item for item in inputs if len(item.dims) == _IMAGE_RANK]
    if len(inputs) != 1 or not taking:
        raise CalibrationDataError(
            "images cannot be fed to this model",
            why=f"expected one input with four axes, found {len(inputs)} inputs: "
            + ", ".join(f"`{item.name}`" for item in inputs),
            hint="write samples with `numpy.savez(path, **{input_name: array})` instead",
        )
    root = folder / spec["source"]
    files = sorted(path for path in root.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise CalibrationDataError(
            f"no images in `{spec['source']}`",
            where=f"`{root}`",
            why="expected " + ", ".join(IMAGE_SUFFIXES) + " files, found none",
        )
    classes = sorted({path.parent for path in files})
    batch = taking[0].dims[0]
    size = batch if isinstance(batch, int) else spec["batch_size"]

    def read() -> Iterator[RawSample]:
        remaining = iter(files)
        while part := list(itertools.islice(remaining, size)):
            if len(part) < size and isinstance(batch, int):
                return
            images = np.concatenate([_prepared(path, spec) for path in part])
            made: dict[str, npt.NDArray[Any]] = {
                taking[0].name: images.astype(taking[0].numpy_dtype)
            }
            if spec["labels"] == "folders":
                made[LABELS] = np.array([classes.index(path.parent) for path in part])
            yield made

    return read


def _prepared(path: Path, spec: Mapping[str, Any]) -> npt.NDArray[np.float32]:
    """Return one image as the model wants it, with a first axis of 1."""
    image_library = _library()
    try:
        with image_library.open(path) as opened:
            image = opened.convert("L" if spec["color"] == "L" else "RGB")
    except (OSError, ValueError) as error:  # Pillow's own error is an OSError
        raise CalibrationDataError(
            f"image `{path.name}` cannot be read", where=f"`{path}`", why=str(error)
        ) from error
    image = _resized(image, spec, image_library)
    array: npt.NDArray[np.float32] = np.asarray(image, np.float32)
    array = array[..., None] if array.ndim == 2 else array  # noqa: PLR2004 - brightness alone
    if spec["color"] == "BGR":
        array = array[..., ::-1]
    for name in ("mean", "std"):
        if len(spec[name]) not in {1, array.shape[-1]}:
            raise CalibrationDataError(
                f"`{name}` of an image specification has {len(spec[name])} numbers",
                why=f"expected 1, or one for each of {array.shape[-1]} channels",
            )
    scale, mean, std = (np.array(spec[name], np.float32) for name in ("scale", "mean", "std"))
    array = (array * scale - mean) / std
    return np.ascontiguousarray(
        (array.transpose(2, 0, 1) if spec["layout"] == "NCHW" else array)[None]
    )


def _resized(image: Any, spec: Mapping[str, Any], library: Any) -> Any:
    if (wanted := spec["resize"]) is not None:
        width, height = image.size
        if edge := wanted.get("shortest_edge"):
            ratio = edge / min(width, height)
            size = (max(edge, round(width * ratio)), max(edge, round(height * ratio)))
        else:
            size = (wanted["width"], wanted["height"])
        image = image.resize(size, getattr(library.Resampling, spec["resample"].upper()))
    if (kept := spec["crop"]) is not None:
        left, top = (image.size[0] - kept["width"]) // 2, (image.size[1] - kept["height"]) // 2
        # Beyond the edges it is black, as where the image is smaller than what is kept.
        image = image.crop((left, top, left + kept["width"], top + kept["height"]))
    return image


def _library() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError(
            "images need the library `Pillow`",
            why="it is not installed",
            hint="`pip install 'graphopt[data]'`",
        ) from error
    return Image
