"""What stands in for sub-layers that went: an affine map of the stream, near to none.

    y = x T + b

``T`` is the identity (``bias``), diagonal (``scale``) or any matrix (``affine``: Bhattacharyya et
al. 2025, *ReplaceMe*, equation 6, with a bias and drawn towards the identity). Fitted to what the
stream was behind the sub-layers in the model before.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.compression.compensation import Affine
from graphopt.rewrite import Change, CrossMoments

__all__ = ["REPLACEMENTS", "emit_affine", "fit_stream", "is_full", "stream_errors"]

Array = npt.NDArray[Any]

_LEAST_PULL = 1e-10

REPLACEMENTS = ("off", "bias", "scale", "affine")


def is_full(replacement: str) -> bool:
    """Tell whether a fit needs the products of all channels with each other."""
    return replacement == "affine"


def fit_stream(moments: CrossMoments, replacement: str, ridge: float) -> Affine | None:
    """Return the map with the least squared error, in double precision; ``None`` where none is.

    Args:
        moments: First of the stream that is there now, ``x``; second of what it was, ``y``; with
            products where `is_full`.
        replacement: One of `REPLACEMENTS`; the matrix of ``scale`` and ``bias`` is its diagonal,
            ``(channels,)``.
        ridge: Strength of the pull towards the identity, relative to the energy of each channel:
            streams have a few channels that are a hundred times as strong as the others, which
            a pull by the mean energy would hold fast.
    """
    x, y = moments.first, moments.second
    if not (x.is_finite and y.is_finite) or moments.shift is None or moments.error is None:
        return None
    ones = np.ones(x.channels)
    if replacement == "bias":
        return Affine(ones, moments.shift)
    if replacement == "affine":
        found = _full(moments, ridge)
    else:
        # E[x (y - x)], less the product of the means.
        slope = (y.second - x.second - moments.error) / 2 - x.mean * moments.shift
        pull = ridge * x.second + np.finfo(np.float64).tiny
        scale = ones + slope / (x.variance + pull)
        found = Affine(scale, y.mean - x.mean * scale)
    return found if all(np.isfinite(part).all() for part in found) else None


def _full(moments: CrossMoments, ridge: float) -> Affine:
    """Return ``T = I + (G + ridge diag(G))^-1 (E[x^T y] - G)``, all with a row for the bias."""
    x, y = moments.first, moments.second
    assert x.gram is not None
    assert moments.product is not None
    gram, product = x.gram, moments.product
    size = x.channels
    system, target = np.empty((size + 1, size + 1)), np.empty((size + 1, size))
    system[:size, :size], system[:size, size], system[size, :size] = gram, x.mean, x.mean
    system[size, size] = 1.0
    target[:size], target[size] = product, y.mean
    prior = np.eye(size + 1, size)
    # In units of each channel: what has never been seen stays as it is.
    units = np.sqrt(np.maximum(np.diag(system), np.finfo(np.float64).tiny))
    scaled = system / np.outer(units, units) + max(ridge, _LEAST_PULL) * np.eye(size + 1)
    left = np.linalg.solve(scaled, (target - system @ prior) / units[:, None])
    found = prior + left / units[:, None]
    return Affine(found[:size], found[size])


def stream_errors(moments: CrossMoments, found: Affine) -> tuple[float, float]:
    """Return ``E|x - y|^2`` and ``E|x T + b - y|^2``, both over ``E|y|^2``, on the same samples."""
    x, y = moments.first, moments.second
    assert moments.error is not None
    energy = max(float(y.second.sum()), np.finfo(np.float64).tiny)
    matrix, bias = found
    crossed = 2 * bias * (matrix * x.mean if matrix.ndim == 1 else x.mean @ matrix)
    if matrix.ndim == 1:
        both = (y.second + x.second - moments.error) / 2
        squares = matrix**2 * x.second - 2 * matrix * both
    else:
        assert x.gram is not None
        assert moments.product is not None
        squares = (matrix * (x.gram @ matrix - 2 * moments.product)).sum(0)
    left = float((squares + crossed + bias**2 - 2 * bias * y.mean + y.second).sum())
    return float(moments.error.sum()) / energy, max(left, 0.0) / energy


def emit_affine(
    change: Change, stream: ir.Value, found: Affine, *, axis: int, rank: int, dtype: Any
) -> ir.Value:
    """Create ``x T + b`` and return it.

    Args:
        change: The rewrite; the nodes are placed by it.
        stream: ``x``.
        found: As of `fit_stream`.
        axis: Axis of the channels: 1 or -1.
        rank: Of ``x``.
        dtype: Element type of ``x``.
    """
    matrix, bias = found.matrix.astype(dtype), found.bias.astype(dtype)
    spatial = (1,) * (rank - 2) if axis == 1 else ()
    if matrix.ndim == 1:
        if (matrix != 1).any():
            factor = change.initializer(matrix.reshape(-1, *spatial), name="stream_scale")
            stream = change.node("Mul", [stream, factor], like=stream)
        shift = change.initializer(bias.reshape(-1, *spatial), name="stream_shift")
        return change.node("Add", [stream, shift], like=stream)
    shift = change.initializer(bias, name="stream_shift")
    if axis == 1:
        kernel = np.ascontiguousarray(matrix.T).reshape(*matrix.shape, *spatial)
        weight = change.initializer(kernel, name="stream_map")
        return change.node("Conv", [stream, weight, shift], like=stream)
    weight = change.initializer(matrix, name="stream_map")
    product = change.node("MatMul", [stream, weight], like=stream)
    return change.node("Add", [product, shift], like=stream)
