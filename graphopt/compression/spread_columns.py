"""Outlier channels set apart, so that one scale fits all that is quantized.

In trained transformers a few channels of an activation are many times larger than all others. One
scale for them all wastes most of its 256 steps. Either their share of the product is computed in
float, beside the integers (Dettmers et al. 2022, "LLM.int8()", section 3.2), which costs an
addition to the whole result; or they are spread: a product does not change when such a channel is
replaced by ``n`` copies of itself divided by ``n``, each before a copy of its row of the weight:
outlier channel splitting (Zhao et al. 2019, "Improving neural network quantization without
retraining using outlier channel splitting", section 3.2). The copies are rounded at ``n`` evenly
spaced offsets, so that their sum is the channel rounded at the common scale and not at ``n`` times
it (Hermite's identity: ``sum floor(x + i / n) = floor(n x)``); the same is done to their weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from graphopt.compression.compensated_rounding import Compensation, round_compensated
from graphopt.compression.quantization import (
    QuantizationParameters,
    parameters_from_range,
    weight_parameters,
)

__all__ = [
    "Spread",
    "SpreadWeight",
    "choose_spread",
    "plain_channels",
    "rounding_sqnr_db",
    "spread_weight",
]

FloatArray: TypeAlias = npt.NDArray[np.float32]

# Five small operators take as long as so many columns: measured on sentence encoders of 384
# channels.
_COLUMNS_FOR_SPREADING = 8.75


@dataclass(frozen=True, eq=False)
class Spread:
    """How the channels of an activation are quantized.

    Attributes:
        parameters: Scale and zero point of all of them.
        is_apart: Whether `channels` are multiplied in float; else they are spread.
        channels: Those in float, or the channel that each extra column copies, int64,
            ``(columns,)``.
        factors: What it is multiplied by: one over the number of copies, ``(columns,)``.
        offsets: What is added then, so that copies round at different places, ``(columns,)``.
    """

    parameters: QuantizationParameters
    is_apart: bool
    channels: npt.NDArray[np.int64]
    factors: FloatArray
    offsets: FloatArray

    @property
    def columns(self) -> int:
        """Number of extra columns."""
        return len(self.channels)


def rounding_sqnr_db(parameters: QuantizationParameters, power: float) -> float:
    """Return the signal-to-noise ratio of rounding; its error is uniform within a step.

    Args:
        parameters: One scale for the whole tensor.
        power: Mean square of its elements.
    """
    return 10 * math.log10(max(power, 1e-300) / (float(parameters.scale) ** 2 / 12))


def choose_spread(
    largest: npt.NDArray[np.float64],
    minimum: float,
    maximum: float,
    *,
    kind: str,
    columns: int,
    column_price_db: float,
    is_apart: bool = False,
) -> Spread:
    """Choose the channels to set apart: those without which the common step is smallest.

    Channels are taken in order of size, half of them at most, for as long as their copies fit into
    ``columns`` and the smaller step is worth what they cost.

    Args:
        largest: Largest magnitude of each channel.
        minimum: Smallest value of all channels.
        maximum: Largest value of all channels.
        kind: Integer type, ``u8`` or ``s8``.
        columns: Most extra columns; 0 sets nothing apart.
        column_price_db: By how much each must lower the error of rounding.
        is_apart: They are multiplied in float, and need no copies.
    """
    order = np.argsort(-largest, kind="stable")
    reach = _Reach(minimum, maximum)
    whole = reach.span(largest.max(initial=0.0))
    chosen, best = 0, 0.0
    for count in range(1, min(columns, len(order) // 2) + 1):
        limit = largest[order[count]]
        wanted = sum(_copies(largest[order[:count]], limit, reach, is_apart))
        if wanted > columns or reach.span(limit) <= 0.0:
            break
        gain = 20 * math.log10(whole / reach.span(limit))
        gain -= column_price_db * (_COLUMNS_FOR_SPREADING + wanted)
        if gain > best:
            chosen, best = count, gain
    limit = float(largest[order[chosen]]) if chosen else math.inf
    parameters = parameters_from_range(*reach.bounds(limit), kind)
    numbers = _copies(largest[order[:chosen]], limit, reach, is_apart)
    return _laid_out(order[:chosen], numbers, parameters, is_apart=is_apart)


@dataclass(frozen=True)
class _Reach:
    """The range of all channels, which bounds that of each."""

    minimum: float
    maximum: float

    def bounds(self, limit: float) -> tuple[float, float]:
        """Return the range of channels up to ``limit`` in magnitude; 0 is in it."""
        return max(-limit, min(self.minimum, 0.0)), min(limit, max(self.maximum, 0.0))

    def span(self, limit: float) -> float:
        low, high = self.bounds(limit)
        return high - low


def _copies(
    outliers: npt.NDArray[np.float64], limit: float, reach: _Reach, is_apart: bool
) -> list[int]:
    """Return how many copies bring each outlier into the range of channels up to ``limit``."""
    if is_apart:
        return [1] * len(outliers)
    numbers = []
    for outlier in outliers:
        pairs = zip(reach.bounds(float(outlier)), reach.bounds(limit), strict=True)
        ratios = [math.ceil(wide / narrow) for wide, narrow in pairs if narrow]
        numbers.append(max(2, *ratios) if ratios else 2)
    return numbers


def _laid_out(
    channels: npt.NDArray[np.intp],
    numbers: list[int],
    parameters: QuantizationParameters,
    *,
    is_apart: bool,
) -> Spread:
    """Lay copies of ``channels`` side by side, ``numbers`` of each."""
    turns = np.concatenate([np.arange(number) for number in (0, *numbers)])
    counts = np.repeat(numbers, numbers) if numbers else np.ones(0)
    offsets = float(parameters.scale) * ((turns + 0.5) / counts - 0.5)
    return Spread(
        parameters=parameters,
        is_apart=is_apart,
        channels=np.repeat(channels, numbers).astype(np.int64)
        if numbers
        else np.zeros(0, np.int64),
        factors=(1.0 / counts).astype(np.float32),
        offsets=offsets.astype(np.float32),
    )


@dataclass(frozen=True, eq=False)
class SpreadWeight:
    """A weight in integers, for an activation whose outlier channels are set apart.

    Attributes:
        integers: ``(inputs + columns, outputs)`` where channels are spread: those rows are zero,
            and rows for the extra columns follow; else ``(inputs, outputs)``.
        parameters: Scale and zero point of each output.
        apart: The rows that are multiplied in float, ``(columns, outputs)``; may have none.
        spread: How the activation is quantized.
    """

    integers: npt.NDArray[Any]
    parameters: QuantizationParameters
    apart: FloatArray
    spread: Spread

    @property
    def effective(self) -> npt.NDArray[np.float64]:
        """What the activation meets in effect, ``(inputs, outputs)``."""
        centred = self.integers.astype(np.float64) - self.parameters.zero_point
        values: npt.NDArray[np.float64] = centred * self.parameters.scale.astype(np.float64)
        if self.spread.is_apart:
            values[self.spread.channels] = self.apart
            return values
        inputs = len(values) - self.spread.columns
        for channel in np.unique(self.spread.channels):
            places = inputs + np.flatnonzero(self.spread.channels == channel)
            values[channel] = values[places].mean(axis=0)
        return values[:inputs]


def spread_weight(
    weight: FloatArray,
    kind: str,
    spread: Spread,
    *,
    reduce_range: bool = False,
    compensation: Compensation | None = None,
) -> SpreadWeight:
    """Return integer weights for an activation whose outlier channels are set apart.

    The rows of one spread channel add up to its row rounded at one over ``n`` of its step.

    Args:
        weight: ``(inputs, outputs)``.
        kind: Integer type, ``u8`` or ``s8``.
        spread: How the inputs are quantized.
        reduce_range: As for `weight_parameters`.
        compensation: For `plain_channels`: each of their rows is rounded so that it makes up for
            the errors of those before it; ``None``: to the nearest integer.

    Raises:
        ValueError: A weight is NaN or infinite.
    """
    in_integers = weight.copy()
    if spread.is_apart:
        in_integers[spread.channels] = 0.0
    parameters = weight_parameters(in_integers, 1, kind, reduce_range=reduce_range)
    middle = sum(parameters.limits) // 2
    limits = parameters.limits[0] - middle, parameters.limits[1] - middle
    steps = in_integers.astype(np.float64) / parameters.scale
    rows = np.clip(np.rint(steps), *limits)
    if compensation is not None:
        plain = plain_channels(len(weight), spread)
        columns = np.ascontiguousarray(in_integers[plain].T)
        scales = np.broadcast_to(parameters.scale[:, None], columns.shape)
        rows[plain] = round_compensated(columns, scales, compensation, limits[1]).T
    extra = np.zeros((0 if spread.is_apart else spread.columns, weight.shape[1]))
    for channel in () if spread.is_apart else np.unique(spread.channels):
        places = np.flatnonzero(spread.channels == channel)
        extra[places] = np.clip(_shares(steps[channel], len(places)), *limits)
        rows[channel] = 0.0
    integers = np.concatenate([rows, extra]) + middle
    return SpreadWeight(
        integers=integers.astype(parameters.zero_point.dtype),
        parameters=parameters,
        apart=weight[spread.channels if spread.is_apart else []],
        spread=spread,
    )


def plain_channels(inputs: int, spread: Spread) -> npt.NDArray[np.int64]:
    """Return the channels that are not set apart, whose rows are rounded to whole steps.

    Rows of outlier channels are finer, or not rounded at all.
    """
    return np.setdiff1d(np.arange(inputs, dtype=np.int64), spread.channels)


def _shares(steps: npt.NDArray[np.float64], number: int) -> npt.NDArray[np.float64]:
    """Return ``number`` rows of integers that add up to ``number * steps``, rounded."""
    whole, rest = np.divmod(np.rint(number * steps), number)
    return np.stack([whole + (turn < rest) for turn in range(number)])
