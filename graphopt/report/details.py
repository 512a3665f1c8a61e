"""What only the page of a bundle shows, because it takes long to read or to measure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["LayerError", "ReportDetails"]


@dataclass(frozen=True, kw_only=True)
class LayerError:
    """How far a value inside the shipped model is from the original's value of the same name.

    Attributes:
        name: The value.
        operator: What makes it in the original.
        cosine: Of the two as vectors; ``None`` where one is zero.
        sqnr_db: Signal over noise; ``None`` where there is no noise at all.
    """

    name: str
    operator: str
    cosine: float | None
    sqnr_db: float | None


@dataclass(frozen=True, kw_only=True)
class ReportDetails:
    """Figures beside the result.

    Attributes:
        weights_before: Bytes of the original's weights by element type, `FLOAT`.
        weights_after: The same of what is shipped.
        layers: Values along the model, in its order, for one sample without the runtime's
            optimizations; empty where the two have no names in common.
        quantiles_before: Milliseconds of one run of the original at evenly spaced quantiles, the
            shortest first; empty where nothing was timed.
        quantiles_after: The same of what is shipped.
        notes: What could not be measured, and why.
    """

    weights_before: Mapping[str, int]
    weights_after: Mapping[str, int]
    layers: tuple[LayerError, ...] = ()
    quantiles_before: tuple[float, ...] = ()
    quantiles_after: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()
