"""Do texts, images and recordings become the recorded inputs here? Part of `validate.py`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.calibration.preparation import Preparation
from graphopt.calibration.unprepared import LibraryMissing, Unprepared
from graphopt.deploy.differences import LIMITS, difference
from graphopt.deploy.integrity import RAW_ITEMS, Broken, Wrong
from graphopt.deploy.records import read_record

__all__ = ["RawChecks", "Skipped"]

# How far inputs may be from the recorded ones: other versions of libraries decode images otherwise,
# by a level or two of 255; the same text has the same tokens everywhere.
INPUT_BOUNDS = {"text": 0.0, "image": 2e-2, "audio": 1e-4}
MALFORMED = (OSError, KeyError, TypeError, ValueError, AttributeError, IndexError)
SHOWN = 4  # numbers of a vector


class Skipped(Exception):
    """A check that cannot be made here, though nothing is wrong."""


class RawChecks:
    """The checks of a bundle that says how raw things become inputs.

    Args:
        folder: The bundle.
        manifest: Its manifest.
        outputs: Of the report, to which differences of vectors are added.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any], outputs: dict[str, Any]) -> None:
        self.folder, self.manifest, self.outputs = folder, manifest, outputs

    def golden(self, run: Callable[[Any], dict[str, Any]], bound: str) -> str:
        """Make the golden inputs of the raw things, and vectors of what the model returns.

        Args:
            run: Runs the model on inputs by name.
            bound: `bound` or `same_kernels_bound`.

        Raises:
            Skipped: What reads such things is not installed.
        """
        told = self.manifest["preprocessing"]
        faults: list[str] = []
        preparation = self._preparation()
        for index, items in enumerate(self._items(told["samples"])):
            try:
                feed = preparation.feed(items)
            except (Unprepared, *MALFORMED) as error:
                raise Broken(f"raw sample {index} cannot be read: {error}") from None
            faults += self._other_inputs(preparation.spec["kind"], index, feed)
            if told["vector"] is not None and not faults:
                faults += self._other_vectors(index, preparation.vectors(items, run(feed)), bound)
        if faults:
            raise Wrong("; ".join(dict.fromkeys(faults)))
        made = "inputs" if told["vector"] is None else "inputs and vectors"
        notes = [note for note in (told["note"], preparation.spec.get("note")) if note]
        return f"raw samples that become the recorded {made}: {told['samples']}" + "".join(
            f" ({note})" for note in notes
        )

    def run_item(
        self, item: dict[str, str], run: Callable[[Any], dict[str, Any]]
    ) -> tuple[dict[str, Any], str]:
        """Run the model on one text or file; return what came of it, as data and in words."""
        if "preprocessing" not in self.manifest:
            raise Broken("this bundle does not say how texts, images or recordings become inputs")
        try:
            preparation = self._preparation()
            wanted = "text" if preparation.spec["kind"] == "text" else "file"
            if wanted not in item:
                raise Broken(
                    f"this model takes {preparation.spec['kind']}: give it with --{wanted}"
                )
            feed = preparation.feed([item])
            vectors = preparation.vectors([item], run(feed))
        except (Skipped, Unprepared, *MALFORMED) as error:
            raise Broken(f"the model cannot be run on it: {error}") from None
        shapes = {name: list(np.asarray(array).shape) for name, array in feed.items()}
        vector = None if vectors is None else [float(number) for number in vectors[0]]
        text = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        if vector is not None:
            head = " ".join(f"{number:.5f}" for number in vector[:SHOWN])
            text += f"; vector of {len(vector)}: {head} ..."
        return {"inputs": shapes, "vector": vector}, text

    def _preparation(self) -> Preparation:
        name = self.manifest["preprocessing"]["file"]
        try:
            spec = json.loads((self.folder / name).read_text(encoding="utf-8"))
            if spec["kind"] == "text" and spec["tokenizer"] not in self.manifest["files"]:
                raise Broken(f"`{name}` names a tokenizer that is not among the files")
            return Preparation(spec, self.folder)
        except LibraryMissing as error:
            raise Skipped(f"{error} ({error.hint})") from None
        except (Unprepared, *MALFORMED) as error:
            raise Broken(f"`{name}` cannot be used: {error}") from None

    def _items(self, count: int) -> list[Any]:
        """Return what the golden samples were made of; files among them are those of the bundle."""
        try:
            held = json.loads((self.folder / RAW_ITEMS).read_text(encoding="utf-8"))
            names = {item["file"] for items in held for item in items if "file" in item}
        except MALFORMED as error:
            raise Broken(f"`{RAW_ITEMS}` cannot be read: {error}") from None
        if len(held) != count or names - set(self.manifest["files"]):
            raise Broken(f"`{RAW_ITEMS}` is not what the manifest says")
        return list(held)

    def _other_inputs(self, kind: str, index: int, feed: dict[str, Any]) -> Iterator[str]:
        """Yield which inputs are not the recorded ones."""
        recorded = self._arrays("inputs", index)
        if set(recorded) != set(feed):
            yield f"inputs {sorted(feed)} are made, {sorted(recorded)} are recorded"
            return
        for name, expected in recorded.items():
            found = difference(expected, feed[name])
            if found["mismatch"] or found["error"] > INPUT_BOUNDS[kind]:
                why = found["mismatch"] or f"error is {found['error']:.4g}"
                yield f"raw sample {index} gives another `{name}`: {why}"

    def _other_vectors(self, index: int, vectors: Any, bound: str) -> Iterator[str]:
        """Yield where vectors are not those that this model gave where the bundle was made."""
        allowed = self.manifest["preprocessing"]["vector"][bound]
        for kind, expected in sorted(self._arrays("vectors", index).items()):
            found = difference(expected, vectors)
            worst = self.outputs.setdefault("vector", {}).setdefault(kind, dict(found))
            for _, key, sign in LIMITS:
                worst[key] = sign * max(sign * worst[key], sign * found[key])
            if found["mismatch"]:
                yield f"vectors against the {kind}: {found['mismatch']}"
            elif kind == "model" and found["error"] > allowed:
                yield f"vectors: error is {found['error']:.4g}, allowed {allowed:.4g}"

    def _arrays(self, kind: str, index: int) -> dict[str, Any]:
        return read_record(self.folder, f"golden/{kind}/{index}.npz")
