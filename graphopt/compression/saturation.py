"""What x86 processors without VNNI lose in 8-bit products, replayed on real activations.

Their widest 8-bit multiplication, ``vpmaddubsw``, multiplies unsigned by signed bytes, adds two
neighbouring products and saturates the sum at 16 bits: ``x0 w0 + x1 w1`` reaches
``2 * 255 * 127 = 64770``, and 32767 is what is left of it. ONNX Runtime packs the depth of a
product in its own order, so that neighbours are the depths ``2i`` and ``2i + 1``; for a convolution
the depth runs over kernel positions and, within each, over input channels. Processors with VNNI
(or AMX) add four products in 32 bits, and lose nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Saturation", "replay_saturation", "saturation_excess"]

_LOWEST, _HIGHEST = -(2**15), 2**15 - 1
_REDUCED_STEP = 127 / 64  # 7 bits instead of 8 make the step of a weight larger by this
_EXTRA = _REDUCED_STEP**2 - 1


@dataclass(frozen=True)
class Saturation:
    """What saturation does to one layer, over rows of activations.

    Powers are sums over all outputs, in squares of activation steps times weight units; only their
    ratios mean anything.

    Attributes:
        pairs: Sums of two products that were formed.
        saturated: Those that do not fit into 16 bits.
        signal: Power of the outputs.
        lost: Power of what saturation takes from them.
        rounding: Power of the noise that 8-bit activations and weights have anyway, ``step^2 / 12``
            for each rounded number.
        weight_rounding: The part of it that comes from weights.
    """

    pairs: int = 0
    saturated: int = 0
    signal: float = 0.0
    lost: float = 0.0
    rounding: float = 0.0
    weight_rounding: float = 0.0

    def __add__(self, other: Saturation) -> Saturation:
        """Return the result over the rows of both."""
        return Saturation(
            pairs=self.pairs + other.pairs,
            saturated=self.saturated + other.saturated,
            signal=self.signal + other.signal,
            lost=self.lost + other.lost,
            rounding=self.rounding + other.rounding,
            weight_rounding=self.weight_rounding + other.weight_rounding,
        )

    @property
    def rate(self) -> float:
        """Share of the sums that saturate, a fraction."""
        return self.saturated / self.pairs if self.pairs else 0.0

    @property
    def sqnr_db(self) -> float | None:
        """Expected signal-to-noise ratio of the layer's output with VNNI."""
        return _decibels(self.signal, self.rounding)

    @property
    def saturated_sqnr_db(self) -> float | None:
        """The same without VNNI."""
        return _decibels(self.signal, self.rounding + self.lost)

    @property
    def is_worse_than_seven_bits(self) -> bool:
        """Whether weights of 7 bits, which never saturate, would cost less than saturation."""
        return self.lost > _EXTRA * self.weight_rounding


def replay_saturation(
    activations: npt.NDArray[np.uint8],
    weights: npt.NDArray[np.int8],
    zero_point: int,
    scale: npt.NDArray[np.float32],
) -> Saturation:
    """Multiply as ``vpmaddubsw`` does, and as it should be, and compare.

    Args:
        activations: (rows, depth), in the order in which the kernel packs the depth.
        weights: (depth, columns), likewise.
        zero_point: Of the activations, in [0, 255].
        scale: Of the weights, shape (columns,) or ().
    """
    columns = weights.shape[1]
    steps = np.broadcast_to(np.asarray(scale, np.float64).reshape(-1), (columns,))
    wide = weights.astype(np.float32)  # sums of up to 2^24 stay exact, larger ones nearly so
    centred = activations.astype(np.float32) - np.float32(zero_point)
    excess, saturated = saturation_excess(activations, weights)
    rows, depth = activations.shape
    squares = np.sum(np.square(wide, dtype=np.float64), axis=0)
    weight_rounding = float(np.sum(np.square(centred, dtype=np.float64))) * np.sum(steps**2) / 12
    return Saturation(
        pairs=rows * ((depth + 1) // 2) * columns,
        saturated=saturated,
        signal=float(np.sum(np.square((centred @ wide) * steps))),
        lost=float(np.sum(np.square(excess * steps))),
        rounding=float(rows * np.sum(squares * steps**2) / 12 + weight_rounding),
        weight_rounding=float(weight_rounding),
    )


def saturation_excess(
    activations: npt.NDArray[np.uint8], weights: npt.NDArray[np.int8]
) -> tuple[npt.NDArray[np.int64], int]:
    """Return what the sums lose, (rows, columns), and how many pairs do.

    The exact product is the saturated one plus this. Only pairs that can saturate with the largest
    activations at hand are formed: of normally distributed weights a few percent.
    """
    excess = np.zeros((activations.shape[0], weights.shape[1]), np.int64)
    count = 0
    if not activations.size:
        return excess, count
    for first in range(0, weights.shape[0] - 1, 2):
        pair = activations[:, first : first + 2].astype(np.int32)
        factors = weights[first : first + 2].astype(np.int32)
        largest = pair.max(axis=0)
        highest = largest @ np.maximum(factors, 0)
        lowest = largest @ np.minimum(factors, 0)
        at_risk = np.flatnonzero((highest > _HIGHEST) | (lowest < _LOWEST))
        if not at_risk.size:
            continue
        sums = pair @ factors[:, at_risk]
        beyond = sums - np.clip(sums, _LOWEST, _HIGHEST)
        excess[:, at_risk] += beyond
        count += int(np.count_nonzero(beyond))
    return excess, count


def _decibels(signal: float, noise: float) -> float | None:
    """Return ``10 log10(signal / noise)``, or ``None`` where one of them is 0."""
    return 10.0 * math.log10(signal / noise) if signal > 0.0 and noise > 0.0 else None
