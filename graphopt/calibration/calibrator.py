"""Ranges of a model's values over samples, by any method, kept for the next time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx_ir as ir

from graphopt._version import __version__
from graphopt.calibration.cache import CalibrationCache
from graphopt.calibration.measuring import SampleMeasure
from graphopt.calibration.observing import MEMORY_BYTES, Observation, Observer
from graphopt.calibration.padding import is_padded, padding_of
from graphopt.calibration.samples import Samples
from graphopt.calibration.thresholds import range_of
from graphopt.ir import StateFolder, model_digest
from graphopt.rewrite import Asked, ChannelMoments, RangeMethod, ValueRange
from graphopt.runtime import CELLS, Histogram, Padding, Worker, runtime_version, shared_worker

__all__ = ["Calibrator"]


@dataclass(kw_only=True)
class Calibrator:
    """Measures ranges on samples; what passes ask for theirs.

    Attributes:
        samples: Feeds, already checked.
        cache: Folder of earlier observations; ``None``: nothing is kept or found.
        memory_bytes: Bytes of values held at once; see `Observer`.
        progress: Told after each sample how many runs are done, and how many there are.
        worker: Where models run; the shared worker where ``None``.
        checkpoint_s: Seconds after which the cache is brought up to date, so that a calibration
            that is killed can go on there.
        notes: What a reader of the result must know: what came from the cache, what was left out.
    """

    samples: Samples
    cache: Path | None = None
    memory_bytes: int = MEMORY_BYTES
    progress: Callable[[int, int], None] | None = None
    worker: Worker | None = None
    checkpoint_s: float = 5.0
    notes: list[str] = field(default_factory=list)
    _folder: StateFolder = field(default_factory=StateFolder, repr=False)

    def __call__(
        self, model: ir.Model, names: Sequence[str], method: RangeMethod | None = None
    ) -> dict[str, ValueRange]:
        """Return the ranges of named values; those that were always empty are left out.

        Args:
            model: The model as it is now.
            names: Inputs, and float values of the main graph; other names are ignored.
            method: How a range is taken; all that was seen by default.

        Raises:
            SessionLoadError: The runtime refuses the model.
            RuntimeFailure: The runtime fails on a sample, which is named.
            OutputError: The cache cannot be written.
        """
        method = method or RangeMethod()
        found = self.histograms(
            model, names, is_counted=method.name != "minmax", with_padding=method.padding
        )
        ranges = {name: range_of(item, method) for name, item in found.items()}
        return {name: item for name, item in ranges.items() if item is not None}

    @property
    def measure(self) -> SampleMeasure:
        """What runs edited models on the samples, for passes that go on by what they measure."""
        return SampleMeasure(
            samples=self.samples,
            memory_bytes=self.memory_bytes,
            progress=self.progress,
            worker=self.worker,
            notes=self.notes,
            folder=self._folder,
        )

    def moments(
        self, model: ir.Model, asked: Sequence[Asked], grams: Sequence[Asked] = ()
    ) -> dict[Asked, ChannelMoments]:
        """Return moments of values over all samples, padding left out.

        Args:
            model: The model as it is now.
            asked: Values, each by name or as `Channels`; those that do not exist are left out.
            grams: Those that are wanted with their Gram matrix.

        Raises:
            SessionLoadError, RuntimeFailure, OutputError: As for a call.
        """
        if self.cache is None:
            return self.measure.moments(model, asked, grams=grams)
        return self.measure.kept_moments(model, asked, grams, self.cache)

    def histograms(
        self,
        model: ir.Model,
        names: Sequence[str],
        *,
        is_counted: bool = True,
        with_padding: bool = False,
    ) -> dict[str, Histogram]:
        """Return what named values held over all samples, padding left out unless asked for.

        Args:
            model: The model as it is now.
            names: Inputs, and float values of the main graph; other names are ignored.
            is_counted: Count cells; extremes alone otherwise, which is faster.
            with_padding: Positions that padding fills count, too.

        Raises:
            SessionLoadError, RuntimeFailure, OutputError: As for a call.
        """
        padding = {} if with_padding else self._padding(model, names)
        if self.cache is None:
            return self._observer(model, padding, is_counted=is_counted).run(names).histograms
        return self._kept(self.cache, model, names, padding, is_counted=is_counted)

    def _kept(
        self,
        folder: Path,
        model: ir.Model,
        names: Sequence[str],
        padding: dict[str, Padding],
        *,
        is_counted: bool,
    ) -> dict[str, Histogram]:
        cache = CalibrationCache(folder)
        # All that an answer hangs on: the runtime's release rounds otherwise, and another one of
        # graphopt may count otherwise.
        question: dict[str, Any] = {
            "model": model_digest(model),
            "samples": self.samples.digest(),
            "values": sorted(set(names)),
            "padding": {name: list(item) for name, item in sorted(padding.items())},
            "cells": CELLS if is_counted else 0,
            "graphopt": __version__,
            "onnxruntime": runtime_version(),
        }
        known: Observation | None = None
        if (found := cache.find(question)) is not None:
            known, is_complete = found
            if is_complete:
                self._note(f"calibration: all of {len(known.histograms)} values from the cache")
                return known.histograms
            least = min(known.seen.get(name, 0) for name in names)
            self._note(
                f"calibration: resumed after {least} of {len(self.samples)} samples, which the "
                "cache held"
            )
        observer = self._observer(model, padding, is_counted=is_counted)
        observer.checkpoint = lambda state: cache.keep(question, state, is_complete=False)
        observation = observer.run(names, known)
        cache.keep(question, observation, is_complete=True)
        return observation.histograms

    def _observer(
        self, model: ir.Model, padding: dict[str, Padding], *, is_counted: bool
    ) -> Observer:
        return Observer(
            model=model,
            samples=self.samples,
            worker=self.worker or shared_worker(),
            is_counted=is_counted,
            padding=padding,
            memory_bytes=self.memory_bytes,
            progress=self.progress,
            checkpoint_s=self.checkpoint_s,
            folder=self._folder,
        )

    def _padding(self, model: ir.Model, names: Sequence[str]) -> dict[str, Padding]:
        """Return which positions are left out; nothing where no sample is padded."""
        found = padding_of(model, names)
        masks = {item.mask for item in found.values()}
        used = {mask for mask in masks if any(is_padded(feed, mask) for feed in self.samples)}
        if used:
            listed = ", ".join(f"`{mask}`" for mask in sorted(used))
            self._note(f"calibration: positions where {listed} is 0 were left out")
        return {name: item for name, item in found.items() if item.mask in used}

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)
