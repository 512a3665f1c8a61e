"""Scales between neighbouring layers that make the ranges of their weights alike.

Between two layers and a function with ``f(s x) = s f(x)`` for positive ``s``, output channels of
the first may be divided by ``s`` and input channels of the second multiplied by it. With
``s_i = sqrt(r1_i / r2_i)``, ``r1_i = max|W1_i|`` over the weights of output channel ``i`` and
``r2_i = max|W2_i|`` over those of input channel ``i``, both ranges become ``sqrt(r1_i r2_i)``
(Nagel et al. 2019, "Data-free quantization through weight equalization and bias correction",
section 4.1, equation 11, with ``s`` on the other side).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Bounds", "Side", "equalized_scales"]

Floats = npt.NDArray[np.float64]
Bounds = tuple[Floats, Floats]

_LARGEST_SCALE = 2.0**20
_SETTLED = 1e-3  # a change of the scales by a thousandth is none


@dataclass(eq=False)
class Side:
    """One side of a pair: a weight, and where its channels are.

    Attributes:
        weight: Magnitudes, float64, in the shape in which `spread` broadcasts. Two sides of one
            layer hold the very same array.
        spread: Shape of a vector over the channels, as many as there are.
    """

    weight: Floats
    spread: tuple[int, ...]

    def ranges(self) -> Floats:
        """Return ``max|W|`` by channel."""
        axes = tuple(axis for axis, size in enumerate(self.spread) if size == 1)
        found: Floats = self.weight.max(axis=axes, initial=0.0).reshape(-1)
        return found

    def multiply(self, factors: Floats) -> None:
        """Scale the weight, channel by channel, in place."""
        self.weight *= factors.reshape(self.spread)


def equalized_scales(
    pairs: Sequence[tuple[Side, Side]], bounds: Sequence[Bounds | None], rounds: int
) -> list[Floats]:
    """Return for each pair what its first layer is divided by, and its second multiplied by.

    Args:
        pairs: In the order of the data flow; the weights are changed.
        bounds: Smallest and largest scale that each channel of a pair allows; ``None``: any.
        rounds: Most times to go through all pairs; layers in two pairs need several.
    """
    scales = [np.ones(len(first.ranges())) for first, _ in pairs]
    for _ in range(rounds):
        change = 0.0
        for number, (first, second) in enumerate(pairs):
            found = _one(first.ranges(), second.ranges())
            total = np.clip(scales[number] * found, 1.0 / _LARGEST_SCALE, _LARGEST_SCALE)
            limits = bounds[number]
            if limits is not None:
                total = np.clip(total, *limits)
            step = total / scales[number]
            first.multiply(1.0 / step)
            second.multiply(step)
            scales[number] = total
            change = max(change, float(np.abs(np.log(step)).max(initial=0.0)))
        if change < _SETTLED:
            break
    return scales


def _one(first: Floats, second: Floats) -> Floats:
    """Return ``sqrt(r1 / r2)``; 1 where a channel is dead on either side."""
    is_used = (first > 0.0) & (second > 0.0)
    return np.where(is_used, np.sqrt(first / np.where(is_used, second, 1.0)), 1.0)
