"""How far a layer is from what it computed before, told by moments alone."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from graphopt.compression.compensation import Affine
from graphopt.rewrite import ChannelMoments, CrossMoments

__all__ = ["Teacher", "relative_error"]


class Teacher(NamedTuple):
    """A layer as it was, and what it computed.

    Attributes:
        layer: What it computed of its input, of those outputs that stay.
        output: Moments of them, without the bias where that is added behind the layer; ``None``
            where they were not measured.
        is_biased: ``output`` has the bias in it.
    """

    layer: Affine
    output: ChannelMoments | None
    is_biased: bool


def relative_error(layer: Affine, teacher: Teacher, moments: CrossMoments) -> float | None:
    """Return ``E|y - y0|^2 / Var(y0)``, summed over the outputs; ``None`` where that is unknown.

    Args:
        layer: Computes ``y`` of what enters now.
        teacher: Computed ``y0`` of what entered before.
        moments: First of what enters now, with its Gram matrix; second of what entered before;
            and their product, over the same rows as `Teacher.output`.
    """
    gram, product, output = moments.first.gram, moments.product, teacher.output
    if gram is None or product is None or output is None or gram.ndim != 2:  # noqa: PLR2004
        return None
    if output.count != moments.first.count or not output.is_finite:
        return None
    new, old = layer.matrix.astype(np.float64), teacher.layer.matrix.astype(np.float64)
    bias, old_bias = layer.bias, teacher.layer.bias
    mean, old_mean = moments.first.mean @ new, moments.second.mean @ old
    energy = _energy(output, old_bias, is_biased=teacher.is_biased)
    now = _diagonal(new, gram @ new) + 2 * bias * mean + bias**2
    both = _diagonal(new, product @ old) + mean * old_bias + bias * old_mean + bias * old_bias
    variance = float((energy - (old_mean + old_bias) ** 2).sum())
    error = float((now - 2 * both + energy).sum())
    if not (np.isfinite(error) and variance > 0.0):
        return None
    return max(0.0, error / variance)


def _energy(output: ChannelMoments, bias: npt.NDArray[Any], *, is_biased: bool) -> Any:
    return output.second if is_biased else output.second + 2 * bias * output.mean + bias**2


def _diagonal(left: npt.NDArray[Any], right: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.asarray(np.einsum("kn,kn->n", left, right))
