"""Answering what passes need to know beyond the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import onnx_ir as ir

from graphopt.analysis import KeptShapes
from graphopt.errors import PreconditionError
from graphopt.ir import Checkpoint, structure_digest
from graphopt.rewrite import (
    Approximate,
    Asked,
    ChannelMoments,
    Facts,
    Measure,
    Needs,
    Pass,
    RangeMethod,
    ShapeTable,
    TargetFacts,
    ValueRange,
)

__all__ = ["FactsSource", "MomentsProvider", "StatisticsProvider"]

StatisticsProvider = Callable[[ir.Model, tuple[str, ...], RangeMethod], Mapping[str, ValueRange]]
"""Returns the calibrated range of each named value of a model, taken by a method."""

_ANY_TARGET = TargetFacts()


@runtime_checkable
class MomentsProvider(Protocol):
    """A provider of statistics that also measures moments and runs edited models on the samples."""

    @property
    def measure(self) -> Measure:
        """What `Facts.measure` is to be."""
        ...

    def moments(
        self, model: ir.Model, asked: Sequence[Asked], grams: Sequence[Asked] = ()
    ) -> Mapping[Asked, ChannelMoments]:
        """Return moments of values of a model; of those in ``grams`` with their Gram matrix."""
        ...


@dataclass
class FactsSource:
    """Gives each pass the facts that it declares to need.

    Attributes:
        target: What is known of the target; ``None`` where none was given.
        statistics: Measures the ranges of named values; ``None`` without calibration samples.
            Passes that need more want a `MomentsProvider`, as `Calibrator` is.
        report: What `Facts.report` is to be.
    """

    target: TargetFacts | None = None
    statistics: StatisticsProvider | None = None
    report: Callable[[str], None] | None = None
    _ranges: dict[tuple[str, tuple[str, ...], RangeMethod], dict[str, ValueRange]] = field(
        default_factory=dict
    )
    _reference: Checkpoint | None = None
    _moments: dict[tuple[str, Needs], Mapping[Asked, ChannelMoments]] = field(default_factory=dict)

    def facts_for(self, pass_: Pass, model: ir.Model, shapes: KeptShapes) -> Facts:
        """Return what ``pass_`` needs to know about ``model`` as it is now.

        Args:
            pass_: The pass.
            model: The model.
            shapes: Those of the model, perhaps not up to date.

        Raises:
            PreconditionError: The caller gave no target or no samples.
        """
        # Asked anew before each run: what a pass needs may hang on what others left of the model.
        needs = pass_.needs_on(model, self.target or _ANY_TARGET)
        self._remember(pass_, model)
        if needs.target and self.target is None:
            raise PreconditionError(
                f"pass `{pass_.name}` needs a target",
                why="none was given",
                hint="name one with `--target NAME`, or `target=TargetFacts(...)` in Python",
            )
        return Facts(
            shapes=shapes.renewed(model) if needs.shapes else ShapeTable({}),
            ranges=self._ranges_of(pass_, model, needs),
            target=self.target or _ANY_TARGET,
            moments=self._moments_of(pass_, model, needs),
            measure=self._provider(pass_).measure if needs.samples else None,
            original=self._reference.new_model() if needs.original and self._reference else None,
            report=self.report,
        )

    def _ranges_of(self, pass_: Pass, model: ir.Model, needs: Needs) -> dict[str, ValueRange]:
        if not needs.ranges:
            return {}
        if self.statistics is None:
            raise PreconditionError(
                f"pass `{pass_.name}` needs calibration samples",
                why=f"it asks for the ranges of {len(needs.ranges)} values, and none were given",
                hint="give samples with `--calibration PATH`, or `statistics_provider=` in Python",
            )
        # The search for a guilty pass replays a group many times on equal models.
        key = (structure_digest(model), needs.ranges, needs.range_method)
        if key not in self._ranges:
            self._ranges[key] = dict(self.statistics(model, needs.ranges, needs.range_method))
        return self._ranges[key]

    def _moments_of(
        self, pass_: Pass, model: ir.Model, needs: Needs
    ) -> Mapping[Asked, ChannelMoments]:
        if not (needs.moments or needs.grams):
            return {}
        provider = self._provider(pass_)
        if needs.grams:  # too large to be kept for a replay that seldom comes
            return provider.moments(model, needs.moments, needs.grams)
        key = (structure_digest(model), needs)
        if key not in self._moments:
            self._moments[key] = provider.moments(model, needs.moments)
        return self._moments[key]

    def _provider(self, pass_: Pass) -> MomentsProvider:
        # A plain function of ranges is a provider, too, and cannot do this.
        if isinstance(self.statistics, MomentsProvider):
            return self.statistics
        raise PreconditionError(
            f"pass `{pass_.name}` needs calibration samples",
            why="it runs the model on them, and none were given",
            hint="give samples with `--calibration PATH`, or a `Calibrator` as "
            "`statistics_provider=` in Python",
        )

    def _remember(self, pass_: Pass, model: ir.Model) -> None:
        """Keep the model as it is before the first pass that makes another function of it."""
        # Taken once: what repairs or distills later is compared with the model before anything was
        # approximated, not with the state between two passes.
        is_another = isinstance(pass_.contract.numerics, Approximate) and not pass_.is_preparation
        if is_another and self._reference is None:
            self._reference = Checkpoint.take(model)
