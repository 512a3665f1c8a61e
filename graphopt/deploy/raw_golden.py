"""Raw samples for the device: what the golden inputs were made of, and how.

With them a device proves that it makes the same inputs of the same texts, images or recordings, and
of what the model returns the same vectors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from graphopt.calibration.preparation import Preparation
from graphopt.calibration.prepared_source import PreparedSource
from graphopt.deploy.agreement import difference
from graphopt.deploy.golden import FLOORS, SPREAD_FACTOR, npz_bytes
from graphopt.deploy.integrity import PREPROCESSING, RAW_ITEMS
from graphopt.runtime import SessionOptions, Worker

__all__ = ["RawGolden", "record_raw"]

Items: TypeAlias = Sequence[Mapping[str, str]]

RAW_LIMIT_BYTES = 8 << 20
"""Images and recordings of a bundle together; what is beyond is left out, and the manifest says so.
"""


@dataclass(frozen=True, kw_only=True)
class RawGolden:
    """How inputs are made, and of what the golden ones were.

    Attributes:
        spec: Content of `preprocessing.json`.
        samples: For each golden sample, in order, the items of its rows; files as the bundle names
            them.
        contents: Files that go into the bundle, by their name there.
        vectors: For each sample the vectors by `original` and `model`; empty where none is asked.
        bounds: `bound` and `same_kernels_bound` of vectors; see `OutputRule`.
        note: What was left out, and why.
    """

    spec: Mapping[str, Any]
    samples: Sequence[Items]
    contents: Mapping[str, Path]
    vectors: Sequence[Mapping[str, np.ndarray[Any, Any]]] = ()
    bounds: Mapping[str, float] = field(default_factory=dict)
    note: str | None = None

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Yield the files of the bundle with their names; the same values, the same bytes."""
        yield PREPROCESSING, _json_bytes(self.spec)
        yield RAW_ITEMS, _json_bytes(self.samples)
        for name, path in self.contents.items():
            yield name, path.read_bytes()
        for index, vectors in enumerate(self.vectors):
            yield f"golden/vectors/{index}.npz", npz_bytes(vectors)

    def to_dict(self) -> dict[str, Any]:
        """Return the form in which the manifest tells of them."""
        return {
            "file": PREPROCESSING,
            "samples": len(self.samples),
            "vector": dict(self.bounds) or None,
            "note": self.note,
        }


def record_raw(
    original: Path,
    model: Path,
    prepared: PreparedSource,
    samples: Sequence[Items],
    *,
    vector_output: str | None,
    options: SessionOptions,
    worker: Worker,
    is_verified: bool = True,
) -> RawGolden:
    """Return what a device needs to make inputs of raw things, with samples to prove it by.

    Args:
        original: The user's file; runs with the runtime's optimizations disabled.
        model: What is shipped.
        prepared: How inputs are made.
        samples: What the golden samples were made of, in order.
        vector_output: The output that vectors are made of; ``None``: none are.
        options: Session options of the deployment.
        worker: Where the sessions run.
        is_verified: False where the deployment's provider is not here: `model` is not run.

    Raises:
        RuntimeFailure: A model does not load or run.
    """
    asked = prepared.spec.get("vector")
    spec = dict(prepared.spec)
    if spec["kind"] == "text":
        is_made = asked is not None and vector_output is not None
        spec["vector"] = {**(asked or {}), "output": vector_output} if is_made else None
    kept, contents, note = _kept(samples)
    raw = RawGolden(
        spec={"schema_version": 1, **spec},
        samples=kept,
        contents={**prepared.files, **contents},
        note=note,
    )
    if vector_output is None:
        return raw
    return _with_vectors(raw, _Runs(original, model, options, worker), is_verified=is_verified)


@dataclass(frozen=True)
class _Runs:
    """Models to run, and how."""

    original: Path
    model: Path
    options: SessionOptions
    worker: Worker

    def vectors(
        self, raw: RawGolden, preparation: Preparation, path: Path, options: SessionOptions
    ) -> list[np.ndarray[Any, Any]]:
        with self.worker.load(path, options) as session:
            return [
                preparation.vectors(items, dict(session.run(preparation.feed(items))))
                for items in raw.samples
            ]


def _with_vectors(raw: RawGolden, runs: _Runs, *, is_verified: bool) -> RawGolden:
    place = {name: str(path.absolute()) for name, path in raw.contents.items()}
    # Read from where it lies now; a bundle has it under another name.
    spec = {**raw.spec, "tokenizer": place[raw.spec["tokenizer"]]}
    preparation = Preparation(spec, Path())
    unfused = replace(runs.options, optimization="disabled")
    plain = replace(unfused, providers=SessionOptions().providers, config={})
    original = runs.vectors(raw, preparation, runs.original, plain)
    floor = FLOORS["float32"]
    if not is_verified:
        vectors = [{"original": one} for one in original]
        return replace(raw, vectors=vectors, bounds={"bound": floor, "same_kernels_bound": floor})
    found = runs.vectors(raw, preparation, runs.model, runs.options)
    others = runs.vectors(raw, preparation, runs.model, unfused)
    spread = max(difference(*pair)["error"] for pair in zip(found, others, strict=True))
    if not math.isfinite(spread):  # as of outputs: see `golden`
        told = "vectors are not compared: kernels of one machine alone disagree on them"
        return replace(raw, note="; ".join(filter(None, (raw.note, told))))
    return replace(
        raw,
        vectors=[{"original": one, "model": two} for one, two in zip(original, found, strict=True)],
        bounds={"bound": max(floor, SPREAD_FACTOR * spread), "same_kernels_bound": floor},
    )


def _kept(samples: Sequence[Items]) -> tuple[list[Items], dict[str, Path], str | None]:
    """Return samples whose files are named as in the bundle, these files, and what was left out."""
    kept: list[Items] = []
    contents: dict[str, Path] = {}
    total = 0
    for index, items in enumerate(samples):
        files = [Path(item["file"]) for item in items if "file" in item]
        total += sum(path.stat().st_size for path in files)
        if total > RAW_LIMIT_BYTES:
            # Golden samples and raw ones are held together by their place: what follows goes, too.
            note = f"{len(samples) - index} of {len(samples)} raw samples left out for their size"
            return kept, contents, note
        names = [f"golden/raw/{index}-{row}{path.suffix}" for row, path in enumerate(files)]
        contents |= dict(zip(names, files, strict=True))
        kept.append([{"file": name} for name in names] or list(items))
    return kept, contents, None


def _json_bytes(held: Any) -> bytes:
    return (json.dumps(held, indent=1, ensure_ascii=False) + "\n").encode()
