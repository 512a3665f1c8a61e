"""Least squares that lets the units that stay make up for those that went.

    W* = P + (A^T A + lambda mean(diag A^T A) I)^-1 A^T (Y - A P)

A: what enters the layer after pruning, with a column of ones; Y: what it computed before; P: the
weights that stayed, with the bias: the solution is drawn towards them, not towards zero. Only the
moments of A and Y are needed, never the rows themselves.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from graphopt.rewrite import CrossMoments

__all__ = ["Affine", "compensate", "shifted_bias"]

Array = npt.NDArray[Any]
_LEAST_PULL = 1e-10


class Affine(NamedTuple):
    """What a layer computes of its input: ``x @ matrix + bias``.

    Attributes:
        matrix: float[inputs, outputs].
        bias: float[outputs].
    """

    matrix: Array
    bias: Array


def compensate(kept: Affine, full: Affine, moments: CrossMoments, ridge: float) -> Affine:
    """Return the layer with the least squared error of what it computes, in double precision.

    Args:
        kept: The layer with the weights that stayed.
        full: The layer before pruning.
        moments: First of what enters now, with its Gram matrix; second of what entered before;
            and their product.
        ridge: Strength of the pull towards what stayed, relative to the mean energy of an input.
    """
    gram, product = moments.first.gram, moments.product
    assert gram is not None
    assert product is not None
    size = len(gram)
    left = np.empty((size + 1, size + 1))
    left[:size, :size] = gram
    left[:size, size] = left[size, :size] = moments.first.mean
    left[size, size] = 1.0
    target = np.empty((size + 1, full.matrix.shape[1]))
    target[:size] = product @ full.matrix + np.outer(moments.first.mean, full.bias)
    target[size] = moments.second.mean @ full.matrix + full.bias
    prior = np.vstack([kept.matrix, kept.bias[None]]).astype(np.float64)
    # Where nothing enters, or without a ridge, what stayed is the solution nearest to itself.
    pull = max(ridge * float(np.diag(gram).mean()), _LEAST_PULL)
    system = left + pull * np.eye(size + 1)
    found = prior + np.linalg.solve(system, target - left @ prior)
    return Affine(found[:size], found[size])


def shifted_bias(kept: Affine, full: Affine, moments: CrossMoments) -> Affine:
    """Return the layer with the bias that keeps the mean of what it computes; see `compensate`."""
    now, before = moments.first.mean, moments.second.mean
    return Affine(kept.matrix, full.bias + before @ full.matrix - now @ kept.matrix)
