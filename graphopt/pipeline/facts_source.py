"""Answering what passes need to know beyond the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from graphopt.analysis import KeptShapes
from graphopt.errors import PreconditionError
from graphopt.ir import structure_digest
from graphopt.rewrite import Facts, Needs, Pass, RangeMethod, ShapeTable, TargetFacts, ValueRange

__all__ = ["FactsSource", "StatisticsProvider"]

StatisticsProvider = Callable[[ir.Model, tuple[str, ...], RangeMethod], Mapping[str, ValueRange]]
"""Returns the calibrated range of each named value of a model, taken by a method."""


@dataclass
class FactsSource:
    """Gives each pass the facts that it declares to need.

    Attributes:
        target: What is known of the target; ``None`` where none was given.
        statistics: Measures the ranges of named values; ``None`` without calibration samples.
    """

    target: TargetFacts | None = None
    statistics: StatisticsProvider | None = None
    _ranges: dict[tuple[str, tuple[str, ...], RangeMethod], dict[str, ValueRange]] = field(
        default_factory=dict
    )

    def facts_for(self, pass_: Pass, model: ir.Model, shapes: KeptShapes) -> Facts:
        """Return what ``pass_`` needs to know about ``model`` as it is now.

        Args:
            pass_: The pass.
            model: The model.
            shapes: Those of the model, perhaps not up to date.

        Raises:
            PreconditionError: The caller gave no target or no samples.
        """
        needs = pass_.needs(model)
        if needs.target and self.target is None:
            raise PreconditionError(
                f"pass `{pass_.name}` needs a target",
                why="none was given",
                hint="name one with `--target NAME`, or `target=TargetFacts(...)` in Python",
            )
        return Facts(
            shapes=shapes.renewed(model) if needs.shapes else ShapeTable({}),
            ranges=self._ranges_of(pass_, model, needs),
            target=self.target or TargetFacts(),
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
