"""Images as inputs of a model. Part of `validate.py`: see `unprepared`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.calibration.unprepared import LibraryMissing, Unprepared

__all__ = ["image_array", "image_library"]


def image_library() -> Any:
    """Return the module `PIL.Image`.

    Raises:
        LibraryMissing: It is not installed.
    """
    try:
        from PIL import Image
    except ImportError:
        raise LibraryMissing(
            "images need the library `Pillow`", "it is not installed", "pip install Pillow"
        ) from None
    return Image


def image_array(path: Path, spec: Mapping[str, Any]) -> Any:
    """Return one image as a model wants it.

    Args:
        path: A file that Pillow reads.
        spec: What is done to it, in this order: `resize`, `crop`, `color`, `scale`, `mean` and
            `std`, `layout`.

    Returns:
        (1, channels, height, width), or channels last, of 32-bit floats.

    Raises:
        LibraryMissing: Pillow is not installed.
        Unprepared: It cannot be read, or `mean` or `std` are for another number of channels.
    """
    library = image_library()
    try:
        with library.open(path) as opened:
            image = opened.convert("L" if spec["color"] == "L" else "RGB")
    except (OSError, ValueError, library.DecompressionBombError) as error:
        raise Unprepared(f"image `{path.name}` cannot be read", str(error)) from None
    image = _cropped(_resized(image, spec, library), spec["crop"])
    array = np.asarray(image, np.float32)
    array = array[..., None] if array.ndim == 2 else array  # noqa: PLR2004 - brightness alone
    if spec["color"] == "BGR":
        array = array[..., ::-1]
    for name in ("mean", "std"):
        if len(spec[name]) not in {1, array.shape[-1]}:
            raise Unprepared(
                f"`{name}` of an image specification has {len(spec[name])} numbers",
                f"expected 1, or one for each of {array.shape[-1]} channels",
            )
    scale, mean, std = (np.array(spec[name], np.float32) for name in ("scale", "mean", "std"))
    array = (array * scale - mean) / std
    is_first = spec["layout"] == "NCHW"
    return np.ascontiguousarray((array.transpose(2, 0, 1) if is_first else array)[None])


def _resized(image: Any, spec: Mapping[str, Any], library: Any) -> Any:
    wanted = spec["resize"]
    if wanted is None:
        return image
    size: Any = (wanted.get("width"), wanted.get("height"))
    if edge := wanted.get("shortest_edge"):
        short, long = sorted(image.size)
        limit, exact = wanted.get("longest_edge"), float(edge)
        if limit and edge * long / short > limit:
            exact = limit * short / long
        # The long side is cut, not rounded, as torchvision and transformers do.
        ends = {long: int(exact * long / short), short: round(exact)}
        size = tuple(ends[length] for length in image.size)
    filters = getattr(library, "Resampling", library)  # Pillow before 9.1 has them in the module
    return image.resize(size, getattr(filters, spec["resample"].upper()))


def _cropped(image: Any, kept: Any) -> Any:
    if kept is None:
        return image
    left, top = (image.size[0] - kept["width"]) // 2, (image.size[1] - kept["height"]) // 2
    # Beyond the edges it is black, as where the image is smaller than what is kept.
    return image.crop((left, top, left + kept["width"], top + kept["height"]))
