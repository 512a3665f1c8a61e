"""Calibration whose answers are kept in memory for as long as one job lasts.

Candidates ask for the same values of the same models, and so do groups of operators that are
quantized one by one; each run of the samples is worth keeping.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from graphopt.calibration import Calibrator
from graphopt.ir import structure_digest
from graphopt.rewrite import Asked, ChannelMoments, RangeMethod, ValueRange

__all__ = ["Known", "RememberingCalibrator"]


@dataclass
class Known:
    """What has been measured, by model; ``None`` where there was nothing to measure.

    Attributes:
        ranges: By model and method, then by value.
        moments: By model, then by what was asked; without Gram matrices, which are too large.
    """

    ranges: dict[tuple[str, RangeMethod], dict[str, ValueRange | None]] = field(
        default_factory=dict
    )
    moments: dict[str, dict[Asked, ChannelMoments | None]] = field(default_factory=dict)


@dataclass(kw_only=True)
class RememberingCalibrator(Calibrator):
    """A calibrator that measures only what is not known yet.

    Attributes:
        known: What is; shared by the calibrators of one job.
    """

    known: Known

    def __call__(
        self, model: ir.Model, names: Sequence[str], method: RangeMethod | None = None
    ) -> dict[str, ValueRange]:
        """Return ranges; see `Calibrator`."""
        key = structure_digest(model), method or RangeMethod()
        found = self.known.ranges.setdefault(key, {})
        if missing := [name for name in names if name not in found]:
            measured = super().__call__(model, missing, method)
            # `None` where a value was always empty: that is known then, too, and not asked again.
            found |= {name: measured.get(name) for name in missing}
        return {name: item for name in names if (item := found[name]) is not None}

    def moments(
        self, model: ir.Model, asked: Sequence[Asked], grams: Sequence[Asked] = ()
    ) -> dict[Asked, ChannelMoments]:
        """Return moments; see `Calibrator`."""
        if grams:
            return super().moments(model, asked, grams)
        found = self.known.moments.setdefault(structure_digest(model), {})
        if missing := [one for one in asked if one not in found]:
            measured = super().moments(model, missing)
            found |= {one: measured.get(one) for one in missing}
        return {one: item for one in asked if (item := found[one]) is not None}
