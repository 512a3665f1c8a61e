"""Specifications of samples: a JSON file that says how texts, images or sound become inputs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from graphopt.calibration.file_samples import IMAGE_SUFFIXES, SOUND_SUFFIXES, file_samples
from graphopt.calibration.json_files import read_json
from graphopt.calibration.prepared_source import PreparedSource
from graphopt.calibration.text_samples import TEXT_SUFFIXES, TOKENIZER, text_samples
from graphopt.calibration.transformers_spec import PROCESSOR, processor_spec, text_facts
from graphopt.errors import CalibrationDataError
from graphopt.runtime import TensorSpec

__all__ = [
    "holds_raw_files",
    "implied_spec",
    "read_spec",
    "sample_spec_schema",
    "specified_samples",
]

_SPEC_NAME = "preprocessing.json"
_KINDS = ("text", "image", "audio")


@cache
def sample_spec_schema() -> dict[str, Any]:
    """Return the JSON schema of a specification."""
    file = resources.files("graphopt.calibration") / "sample_spec.schema.json"
    schema: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return schema


def specified_samples(
    spec: Mapping[str, Any], folder: Path, inputs: Sequence[TensorSpec] | None
) -> PreparedSource:
    """Return the samples of a checked specification.

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
            "texts, images and sound can be made into samples only for a model",
            why="its inputs are not known here",
            hint="call `load_samples(source, inputs=input_specs(model))`",
        )
    make = text_samples if spec["kind"] == "text" else file_samples
    return make(spec, folder, inputs)


def read_spec(path: Path) -> dict[str, Any]:
    """Return a specification, defaults filled in.

    Raises:
        CalibrationDataError: It is missing, is no JSON, or breaks the schema.
    """
    return _checked(read_json(path), str(path))


def _checked(held: Any, where: str) -> dict[str, Any]:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    kinds = {name: sample_spec_schema()["$defs"][name] for name in _KINDS}
    kind = held.get("kind") if isinstance(held, dict) else None
    if kind not in kinds:
        raise CalibrationDataError(
            "samples are specified in no known way",
            where=f"`{where}`",
            why=f"expected an object whose `kind` is {', '.join(f'`{name}`' for name in _KINDS)}, "
            f"found `{kind}`",
            hint="`docs/calibration.md` shows each",
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


def implied_spec(path: Path, home: Path | None = None) -> dict[str, Any] | None:
    """Return the specification that lies beside samples; ``None`` where they need none.

    A folder of images or recordings may hold ``preprocessing.json`` (without `kind` and `source`)
    or the ``preprocessor_config.json`` of a model of the `transformers` library; a text file lies
    beside the ``tokenizer.json`` that it is for.

    Args:
        path: The text file, or the folder.
        home: Where to look for what does not lie beside the samples: the folder of the model. Paths
            of what is returned are relative to `path`, or absolute.

    Raises:
        CalibrationDataError: There is none, or it breaks the schema.
    """
    if path.is_file() and path.suffix in TEXT_SUFFIXES:
        places = [place for place in (path.parent, home) if place and (place / TOKENIZER).exists()]
        if not places:
            raise _unspecified(path, f"no `{TOKENIZER}` lies beside it", "text")
        place = "." if places[0] == path.parent else str(places[0])
        spec = {"kind": "text", "source": path.name, "tokenizer": place}
        return _checked({**spec, **text_facts(places[0])}, str(path))
    if not path.is_dir() or (kind := holds_raw_files(path)) is None:
        return None
    return _spec_of_folder(path, home or path, kind)


def holds_raw_files(folder: Path) -> str | None:
    """Return ``image`` or ``audio`` where a folder, or one within it, holds such files."""
    suffixes = {path.suffix.lower() for path in folder.rglob("*") if path.is_file()}
    if suffixes & {*IMAGE_SUFFIXES}:
        return "image"
    return "audio" if suffixes & {*SOUND_SUFFIXES} else None


def _spec_of_folder(path: Path, home: Path, kind: str) -> dict[str, Any]:
    for place, name, meaning in (
        (path, _SPEC_NAME, dict),
        (path, PROCESSOR, processor_spec),
        (home, PROCESSOR, processor_spec),
    ):
        if (place / name).exists():
            held = read_json(place / name)
            try:
                spec = {"kind": kind, "source": ".", **meaning(held)}
            except (TypeError, KeyError, AttributeError, ValueError) as error:
                raise CalibrationDataError(
                    f"`{name}` does not say how these files become inputs",
                    where=f"`{place / name}`",
                    why=f"{type(error).__name__}: {error}",
                    hint=f"write what it means into `{_SPEC_NAME}`; `docs/calibration.md` shows it",
                ) from error
            return _checked(spec, str(place / name))
    held_things = "images" if kind == "image" else "recordings"
    raise _unspecified(path, f"it holds {held_things}, and no `{_SPEC_NAME}`", kind)


def _unspecified(path: Path, why: str, kind: str) -> CalibrationDataError:
    example = {
        "text": '{"kind": "text", "source": "texts.txt", "tokenizer": "tokenizer/"}',
        "image": '{"kind": "image", "source": "images/", "resize": {"shortest_edge": 256}, '
        '"crop": {"height": 224, "width": 224}}',
        "audio": '{"kind": "audio", "source": "recordings/", "features": "log-mel", '
        '"sampling_rate": 16000, "length": 480000}',
    }
    return CalibrationDataError(
        f"nothing says how `{path.name}` becomes inputs",
        where=f"`{path}`",
        why=why,
        hint=f"give a JSON file instead: `{example[kind]}`",
    )
