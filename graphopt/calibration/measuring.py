"""Running edited models on the calibration samples: what `Facts.measure` is."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx_ir as ir

from graphopt._version import __version__
from graphopt.calibration.gathering import Gathering, channels_of, naming_sample
from graphopt.calibration.held_values import HeldValues, needed_part
from graphopt.calibration.moment_cache import MomentCache
from graphopt.calibration.observing import MEMORY_BYTES
from graphopt.calibration.samples import SamplePart, Samples
from graphopt.ir import StateFolder, model_digest
from graphopt.rewrite import Asked, ChannelMoments, CrossMoments, Held
from graphopt.runtime import SessionOptions, Worker, runtime_version, shared_worker

__all__ = ["SampleMeasure"]

_OPTIONS = SessionOptions(
    threads=0, config={"session.intra_op.allow_spinning": "0"}, is_rooted=True
)


@dataclass(kw_only=True)
class SampleMeasure:
    """Measures models on samples; see `graphopt.rewrite.Measure`.

    Attributes:
        samples: Feeds, already checked.
        memory_bytes: Bytes of values and of their sums that the worker holds at once.
        progress: Told after each run how many are done, and how many there are.
        worker: Where models run; the shared worker where ``None``.
        notes: What a reader of the result must know.
        folder: Where models lie while they run.
    """

    samples: Samples
    memory_bytes: int = MEMORY_BYTES
    progress: Callable[[int, int], None] | None = None
    worker: Worker | None = None
    notes: list[str] = field(default_factory=list)
    folder: StateFolder = field(default_factory=StateFolder, repr=False)
    _shapes: dict[str, tuple[int, ...]] = field(default_factory=dict, repr=False)

    def moments(
        self, model: ir.Model, asked: Sequence[Asked], *, grams: Collection[Asked] = ()
    ) -> dict[Asked, ChannelMoments]:
        """Return moments of values; see `graphopt.rewrite.Measure.moments`."""
        wanted = dict.fromkeys([*asked, *grams])
        return self._gathering(model).moments([(one, one in grams) for one in wanted])

    def kept_moments(
        self, model: ir.Model, asked: Sequence[Asked], grams: Sequence[Asked], folder: Path
    ) -> dict[Asked, ChannelMoments]:
        """Return moments of values, those from an earlier time where the cache holds them."""
        cache, found = MomentCache(folder), dict[Asked, ChannelMoments]()
        common = {
            "model": model_digest(model),
            "samples": self.samples.digest(),
            "graphopt": __version__,
            "onnxruntime": runtime_version(),
        }
        questions = {
            one: {**common, "value": channels_of(one), "has_gram": one in grams}
            for one in dict.fromkeys([*asked, *grams])
        }
        for one, question in questions.items():
            held = cache.find(question)
            if held is not None:
                found[one] = held
        missing = [one for one in questions if one not in found]
        if found:
            self.notes.append(
                f"calibration: moments of {len(found)} of {len(questions)} values from the cache"
            )
        measured = self.moments(model, missing, grams=[one for one in missing if one in grams])
        for one, moments in measured.items():
            cache.keep(questions[one], moments)
        return found | measured

    def cross(
        self,
        model: ir.Model,
        other: ir.Model,
        pairs: Sequence[tuple[Asked, Asked]],
        *,
        products: bool = True,
        held: tuple[Held | None, Held | None] = (None, None),
    ) -> list[CrossMoments | None]:
        """Return moments of pairs of values; see `graphopt.rewrite.Measure.cross`."""
        known = {side: one for side, one in enumerate(held) if isinstance(one, HeldValues)}
        gathering = replace(self._gathering(model, other), held=known)
        return gathering.cross(pairs, products=products)

    def hold(
        self, model: ir.Model, names: Sequence[str], since: Held | None = None
    ) -> HeldValues | None:
        """Keep values of a model; see `graphopt.rewrite.Measure.hold`."""
        before = since if isinstance(since, HeldValues) else None
        found = HeldValues(len(self.samples))
        for values in self._outputs(model, names, [{}], before):
            if not found.add(values):
                found.close()
                return None
        return found

    def outputs(
        self,
        model: ir.Model,
        names: Sequence[str] | None = None,
        *,
        settings: Sequence[Mapping[str, npt.NDArray[Any]]] = ({},),
    ) -> Iterator[Mapping[str, npt.NDArray[Any]]]:
        """Yield values sample by sample; see `graphopt.rewrite.Measure.outputs`."""
        wanted = [value.name or "" for value in model.graph.outputs] if names is None else names
        yield from self._outputs(model, wanted, settings)

    def _outputs(
        self,
        model: ir.Model,
        wanted: Sequence[str],
        settings: Sequence[Mapping[str, npt.NDArray[Any]]],
        held: HeldValues | None = None,
    ) -> Iterator[Mapping[str, npt.NDArray[Any]]]:
        copy = needed_part(model, wanted, held)
        worker = self.worker or shared_worker()
        with self.folder.written(copy) as path, worker.load(path, _OPTIONS) as session:
            known = {spec.name for spec in session.inputs}
            for number, feed in enumerate(self.samples, start=1):
                before = {} if held is None else held.feed(number, 0)
                for setting in settings:
                    given = {**feed, **before, **setting}
                    # What the wanted values do not hang on is no input of the copy any more.
                    fed = {name: array for name, array in given.items() if name in known}
                    with naming_sample(number, self.samples.source):
                        found = session.run(fed, wanted)
                    yield found

    def split(self, held_out: float) -> tuple[SampleMeasure, SampleMeasure] | None:
        """Return measures on two parts of the samples; see `graphopt.rewrite.Measure.split`."""
        step = round(1.0 / held_out)
        if len(self.samples) < step:
            return None
        parts = [SamplePart(self.samples, step, is_held_out=held) for held in (False, True)]
        return replace(self, samples=parts[0]), replace(self, samples=parts[1])

    def feeds(self) -> Iterator[Mapping[str, npt.NDArray[Any]]]:
        """Yield the samples; see `graphopt.rewrite.Measure.feeds`."""
        yield from self.samples

    def _gathering(self, *models: ir.Model) -> Gathering:
        return Gathering(
            models=models,
            samples=self.samples,
            worker=self.worker or shared_worker(),
            memory_bytes=self.memory_bytes,
            progress=self.progress,
            notes=self.notes,
            shapes=self._shapes,
            folder=self.folder,
        )
