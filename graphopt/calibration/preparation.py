"""What `preprocessing.json` says, carried out: raw things as inputs, outputs as one vector.

Part of `validate.py`: see `unprepared`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.calibration.prepared_images import image_array, image_library
from graphopt.calibration.prepared_sound import sound_array
from graphopt.calibration.prepared_texts import load_tokenizer, pooled, text_arrays, text_feed

__all__ = ["Preparation"]


class Preparation:
    """Makes inputs of raw things.

    Args:
        spec: The content of a `preprocessing.json`; `docs/bundle.md` describes its keys.
        folder: Where the files that it names are, and those that items name.

    Raises:
        LibraryMissing: What reads such things is not installed.
        Unprepared: The tokenizer cannot be read.
    """

    def __init__(self, spec: Mapping[str, Any], folder: Path) -> None:
        self.spec, self.folder = spec, folder
        self._tokenizer: Any = None
        if spec["kind"] == "text":
            self._tokenizer = load_tokenizer(folder / spec["tokenizer"])
        elif spec["kind"] == "image":
            image_library()

    def feed(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the inputs of a model for some texts, images or recordings at once.

        Args:
            items: `text` (and `pair`), or `file` relative to the folder.

        Raises:
            Unprepared: An item cannot be read.
        """
        if self.spec["kind"] == "text":
            return text_feed(self.spec, text_arrays(self.spec, self._tokenizer, items))
        make = image_array if self.spec["kind"] == "image" else sound_array
        arrays = [make(self.folder / item["file"], self.spec) for item in items]
        wanted = self.spec["input"]
        return {wanted["name"]: np.concatenate(arrays).astype(wanted["dtype"])}

    def vectors(self, items: Sequence[Mapping[str, Any]], outputs: Mapping[str, Any]) -> Any:
        """Return one vector for each text, of what the model returned; None where none is asked.

        Args:
            items: The texts.
            outputs: By name, what the model returned for `feed(items)`.
        """
        asked = self.spec.get("vector")
        if asked is None:
            return None
        mask = text_arrays(self.spec, self._tokenizer, items)["mask"]
        return pooled(outputs[asked["output"]], mask, asked)
