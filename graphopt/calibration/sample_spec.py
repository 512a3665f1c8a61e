"""Specifications of samples: a JSON file that says how texts or images become inputs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from graphopt.calibration.image_samples import IMAGE_SUFFIXES, image_samples
from graphopt.calibration.sample_files import RawSample
from graphopt.calibration.text_samples import TEXT_SUFFIXES, text_samples
from graphopt.errors import CalibrationDataError
from graphopt.runtime import TensorSpec

__all__ = ["implied_spec", "read_spec", "sample_spec_schema", "specified_samples"]

_SPEC_NAME = "preprocessing.json"
_TRANSFORMERS_SPEC_NAME = "preprocessor_config.json"
_TOKENIZER_NAME = "tokenizer.json"
# Pillow's numbers for the ways to resample, as configurations of `transformers` have them.
_RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}


@cache
def sample_spec_schema() -> dict[str, Any]:
    """Return the JSON schema of a specification."""
    file = resources.files("graphopt.calibration") / "sample_spec.schema.json"
    schema: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return schema


def specified_samples(
    spec: Mapping[str, Any], folder: Path, inputs: Sequence[TensorSpec] | None
) -> Callable[[], Iterable[RawSample]]:
    """Return a function that reads the samples of a checked specification.

    Args:
        spec: The specification.
        folder: What its paths are relative to.
        inputs: The model's inputs, which the samples are made for.

    Raises:
        CalibrationDataError: The inputs are not known, or do not fit.
        MissingExtraError: A library is not installed.
    """
    if inputs is None:
        raise CalibrationDataError(
            "texts and images can be made into samples only for a model",
            why="its inputs are not known here",
            hint="call `load_samples(source, inputs=input_specs(model))`",
        )
    make = text_samples if spec["kind"] == "text" else image_samples
    return make(spec, folder, inputs)


def read_spec(path: Path) -> dict[str, Any]:
    """Return a specification, defaults filled in.

    Raises:
        CalibrationDataError: It is missing, is no JSON, or breaks the schema.
    """
    return _checked(_read_json(path), str(path))


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CalibrationDataError(
            f"`{path.name}` cannot be read", where=f"`{path}`", why=str(error)
        ) from error


def _checked(held: Any, where: str) -> dict[str, Any]:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    kinds = {name: sample_spec_schema()["$defs"][name] for name in ("text", "image")}
    kind = held.get("kind") if isinstance(held, dict) else None
    if kind not in kinds:
        raise CalibrationDataError(
            "samples are specified in no known way",
            where=f"`{where}`",
            why=f"expected an object whose `kind` is `text` or `image`, found `{kind}`",
            hint="`docs/calibration.md` shows both",
        )
    # Of the one kind alone, so that the fault is named and not the kind.
    schema = {**kinds[kind], "$defs": sample_spec_schema()["$defs"]}
    fault = best_match(Draft202012Validator(schema).iter_errors(held))
    if fault is not None:
        place = ".".join(map(str, fault.absolute_path))
        raise CalibrationDataError(
            "a specification of samples breaks its schema",
            where=f"`{where}`" + (f", `{place}`" if place else ""),
            why=fault.message,
            hint="`docs/calibration.md` shows what it may hold",
        )
    defaults = {
        name: item["default"]
        for name, item in kinds[kind]["properties"].items()
        if "default" in item
    }
    whole: dict[str, Any] = defaults | held
    return whole


def implied_spec(path: Path) -> dict[str, Any] | None:
    """Return the specification that lies beside samples; ``None`` where they need none.

    A folder of images may hold ``preprocessing.json`` (without `kind` and `source`) or the
    ``preprocessor_config.json`` of a model of the `transformers` library; a text file lies beside
    the ``tokenizer.json`` that it is for.

    Raises:
        CalibrationDataError: There is none, or it breaks the schema.
    """
    if path.is_file() and path.suffix in TEXT_SUFFIXES:
        if not (path.parent / _TOKENIZER_NAME).exists():
            raise _unspecified(path, f"no `{_TOKENIZER_NAME}` lies beside it", "text")
        spec = {"kind": "text", "source": path.name, "tokenizer": "."}
        return _checked(spec, str(path))
    if not path.is_dir() or not _holds_images(path):
        return None
    for name, meaning in ((_SPEC_NAME, dict), (_TRANSFORMERS_SPEC_NAME, _of_transformers)):
        if (path / name).exists():
            held = _read_json(path / name)
            try:
                spec = {"kind": "image", "source": ".", **meaning(held)}
            except (TypeError, KeyError, AttributeError, ValueError) as error:
                raise CalibrationDataError(
                    f"`{name}` does not say how images become inputs",
                    where=f"`{path / name}`",
                    why=f"{type(error).__name__}: {error}",
                    hint=f"write what it means into `{_SPEC_NAME}`; `docs/calibration.md` shows it",
                ) from error
            return _checked(spec, str(path / name))
    raise _unspecified(path, f"it holds images, and no `{_SPEC_NAME}`", "image")


def _holds_images(folder: Path) -> bool:
    return any(item.suffix.lower() in IMAGE_SUFFIXES for item in _files(folder))


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _unspecified(path: Path, why: str, kind: str) -> CalibrationDataError:
    example = {
        "text": '{"kind": "text", "source": "texts.txt", "tokenizer": "tokenizer/"}',
        "image": '{"kind": "image", "source": "images/", "resize": {"shortest_edge": 256}, '
        '"crop": {"height": 224, "width": 224}}',
    }
    return CalibrationDataError(
        f"nothing says how `{path.name}` becomes inputs",
        where=f"`{path}`",
        why=why,
        hint=f"give a JSON file instead: `{example[kind]}`",
    )


def _of_transformers(held: Mapping[str, Any]) -> dict[str, Any]:
    """Translate what an image processor of the `transformers` library says."""
    spec: dict[str, Any] = {"scale": 1.0}
    if held.get("do_resize", True) and "size" in held:
        spec["resize"] = _size(held["size"])
        spec["resample"] = _RESAMPLING.get(held.get("resample", 2), "bilinear")
    if held.get("do_center_crop") and "crop_size" in held:
        crop = _size(held["crop_size"])
        edge = crop.get("shortest_edge")
        spec["crop"] = crop if edge is None else {"height": edge, "width": edge}
    if held.get("do_rescale", True):
        spec["scale"] = held.get("rescale_factor", 1 / 255)
    if held.get("do_normalize", True) and "image_mean" in held:
        spec |= {"mean": held["image_mean"], "std": held["image_std"]}
    return spec


def _size(held: Any) -> dict[str, int]:
    if isinstance(held, int):
        return {"shortest_edge": held}
    names = ("shortest_edge",) if "shortest_edge" in held else ("height", "width")
    return {name: held[name] for name in names}
