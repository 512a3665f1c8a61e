"""Moving the difficulty of quantization from activations to weights, channel by channel.

A product does not change when channel ``j`` of the activation is divided by ``s_j`` and row ``j``
of the weight multiplied by it: ``X W = (X diag(s)^-1) (diag(s) W)``. With
``s_j = max|X_j|^alpha / max|W_j|^(1 - alpha)`` both sides share outliers (Xiao et al. 2023,
"SmoothQuant", equations 3 and 4). What is lost to quantization on either side is estimated in
closed form from moments, so that ``alpha`` is searched without running anything.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from graphopt.compression.blockwise import BlockFormat, quantize_blocks
from graphopt.rewrite import ChannelMoments

__all__ = [
    "ALPHAS",
    "BLOCK_ALPHAS",
    "Smoothing",
    "block_error",
    "choose_block_smoothing",
    "choose_smoothing",
    "quantization_error",
    "smoothing_scales",
]

Floats = npt.NDArray[np.float64]

ALPHAS = tuple(float(step) / 20.0 for step in range(6, 19))
"""What is tried where ``alpha`` is searched: 0.3 to 0.9 in steps of 0.05."""

BLOCK_ALPHAS = tuple(float(step) / 10.0 for step in range(1, 11))
"""What is tried for weights in blocks: 0.1 to 1 in steps of 0.1."""

_COLUMNS = 256  # of a weight that are rounded for each `alpha`: others would choose the same
_ACTIVATION_STEPS, _WEIGHT_STEPS = 255.0, 127.0  # asymmetric 8 bits; symmetric by output channel
# Beyond it, float32 would begin to lose digits of what is scaled up on one side and down again.
_LARGEST_SCALE = 2.0**20


@dataclass(frozen=True, eq=False)
class Smoothing:
    """A choice of scales.

    Attributes:
        scales: What rows of the weight are multiplied by, float64, ``(channels,)``.
        alpha: Share of the difficulty that went to the weights.
        before: Expected squared error of the layers' outputs without scales, summed over outputs.
        after: The same with them.
    """

    scales: Floats
    alpha: float
    before: float
    after: float

    @property
    def gain_db(self) -> float:
        """How much smaller the expected error is, in dB."""
        if self.before <= 0.0:
            return 0.0
        return float(10.0 * np.log10(self.before / max(self.after, self.before * 1e-12)))


def smoothing_scales(largest: Floats, weight_largest: Floats, alpha: float) -> Floats:
    """Return ``max|X_j|^alpha / max|W_j|^(1 - alpha)``, with a geometric mean of 1.

    Channels that are always 0 on one side have scale 1.

    Args:
        largest: ``max|X_j|``, ``(channels,)``.
        weight_largest: ``max|W_j|``, ``(channels,)``.
        alpha: In [0, 1].
    """
    is_used = (largest > 0.0) & (weight_largest > 0.0)
    scales = np.ones_like(largest)
    if is_used.any():
        logarithms = alpha * np.log(largest[is_used])
        logarithms -= (1.0 - alpha) * np.log(weight_largest[is_used])
        # Common factors change nothing; without them the values stay about as large as they were.
        scales[is_used] = np.exp(logarithms - logarithms.mean())
    return np.clip(scales, 1.0 / _LARGEST_SCALE, _LARGEST_SCALE)


def quantization_error(scales: Floats, moments: ChannelMoments, weight: Floats) -> float:
    """Return the expected squared error of ``X W`` in 8 bits, summed over outputs, per row.

    Rounding errors are taken as independent and uniform: those of an activation with step ``d``
    are ``d^2 / 12`` each, or the channel itself where it is smaller than that; those of a weight
    column with step ``d_n`` meet the second moment of the activation. Activations have one range
    for all channels, that of all samples; weights one scale per column.

    Args:
        scales: ``(channels,)``.
        moments: Of the activation.
        weight: ``(channels, outputs)``, all layers that read the activation side by side.
    """
    low, high = moments.limits
    span = max(float((high / scales).max(initial=0.0)), 0.0)
    span -= min(float((low / scales).min(initial=0.0)), 0.0)
    second = moments.second / scales**2
    noise = np.minimum((span / _ACTIVATION_STEPS) ** 2 / 12.0, second)
    power = np.einsum("kn,kn->k", weight, weight) * scales**2
    from_activations = float(noise @ power)
    steps = np.abs(weight * scales[:, None]).max(axis=0, initial=0.0) / _WEIGHT_STEPS
    from_weights = float(second.sum() * (steps**2).sum() / 12.0)
    return from_activations + from_weights


def choose_smoothing(
    moments: ChannelMoments, weight: npt.NDArray[np.floating], alpha: float | None = None
) -> Smoothing:
    """Choose the scales with the least expected error.

    Args:
        moments: Of the activation, finite.
        weight: ``(channels, outputs)``, all layers that read the activation side by side.
        alpha: Only this one; searched among `ALPHAS` where ``None``.
    """
    wide = np.asarray(weight, np.float64)
    weight_largest = np.abs(wide).max(axis=1, initial=0.0)
    before = quantization_error(np.ones(len(wide)), moments, wide)
    tried = []
    for one in ALPHAS if alpha is None else (alpha,):
        scales = smoothing_scales(moments.largest, weight_largest, one)
        tried.append(Smoothing(scales, one, before, quantization_error(scales, moments, wide)))
    return min(tried, key=lambda choice: choice.after)


def block_error(scales: Floats, second: Floats, weight: Floats, form: BlockFormat) -> float:
    """Return the expected squared error of ``X W`` with ``diag(s) W`` rounded in blocks.

    Channels are taken as independent: an error of a row meets the mean square of its channel.

    Args:
        scales: What rows are multiplied by before they are rounded, ``(channels,)``.
        second: ``E[x^2]``, ``(channels,)``.
        weight: ``(channels, outputs)``.
        form: How it is stored.
    """
    scaled = (weight * scales[:, None]).astype(np.float32)
    rounded = quantize_blocks(scaled, form).dequantized() / scales[:, None]
    return float(second @ np.square(rounded - weight).sum(axis=1))


def choose_block_smoothing(
    moments: ChannelMoments,
    weight: npt.NDArray[np.floating],
    form: BlockFormat,
    alpha: float | None = None,
) -> Smoothing:
    """Choose scales for weights in blocks: rows that meet large channels become larger.

    ``s_j = E[x_j^2]^(alpha / 2)``, the activation-aware scaling of Lin et al. 2024, "AWQ", section
    3.2: within a block the step hardly changes, so that what is multiplied by ``s_j`` before it is
    rounded, and divided behind, has an error smaller by ``s_j``.

    Args:
        moments: Of the activation, finite.
        weight: ``(channels, outputs)``, all layers that read the activation side by side.
        form: How they will be stored.
        alpha: Only this one; searched among `BLOCK_ALPHAS` where ``None``.
    """
    step = max(weight.shape[1] // _COLUMNS, 1)
    wide = np.asarray(weight[:, ::step], np.float64)
    before = block_error(np.ones(len(wide)), moments.second, wide, form)
    tried = []
    for one in BLOCK_ALPHAS if alpha is None else (alpha,):
        scales = smoothing_scales(np.sqrt(moments.second), np.ones(len(wide)), one)
        error = block_error(scales, moments.second, wide, form)
        tried.append(Smoothing(scales, one, before, error))
    return min(tried, key=lambda choice: choice.after)
