"""Least squares that lets the units that stay make up for those that went.

    W* = P + (A^T A + lambda mean(diag A^T A) I)^-1 A^T (Y - A P)

A: what enters the layer after pruning, with a column of ones; Y: what it should compute; P: the
weights that stayed, with the bias: the solution is drawn towards them, not towards zero. Only the
moments of A and Y are needed, never the rows themselves: the error of any weights, on these rows
or on others that were held out, follows from moments too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["RIDGES", "Affine", "Fit", "NormalEquations", "best_fit", "bias_fit", "ridge_fit"]

Array = npt.NDArray[Any]
_LEAST_PULL = 1e-10

RIDGES = (1e-3, 1e-2, 1e-1)
"""Strengths of the pull among which rows that were held out choose: few rows want a strong one."""


class Affine(NamedTuple):
    """What a layer computes of its input: ``x @ matrix + bias``.

    Attributes:
        matrix: float[inputs, outputs].
        bias: float[outputs].
    """

    matrix: Array
    bias: Array

    def stacked(self) -> Array:
        """Return the matrix with the bias as its last row, float64[inputs + 1, outputs]."""
        return np.vstack([self.matrix, self.bias[None]]).astype(np.float64)


@dataclass(frozen=True, eq=False)
class NormalEquations:
    """All that least squares needs to know of rows ``a = [x, 1]`` and of what is wanted of them.

    Attributes:
        count: Rows.
        system: ``E[a a^T]``, float64[inputs + 1, inputs + 1].
        target: ``E[a y^T]``, float64[inputs + 1, outputs].
        energy: ``E|y|^2``, summed over the outputs.
    """

    count: int
    system: Array
    target: Array
    energy: float

    def joined(self, other: NormalEquations) -> NormalEquations:
        """Return the equations of the rows of both."""
        count = self.count + other.count
        mine, others = self.count / count, other.count / count
        return NormalEquations(
            count,
            mine * self.system + others * other.system,
            mine * self.target + others * other.target,
            mine * self.energy + others * other.energy,
        )

    def error(self, layer: Affine) -> float | None:
        """Return ``E|y - x W - b|^2 / Var(y)``, summed over the outputs, for any weights.

        ``None`` where nothing is wanted but constants, or a number is not finite.
        """
        weights = layer.stacked()
        squares = np.einsum("kn,kn->", weights, self.system @ weights - 2.0 * self.target)
        variance = self.energy - float(np.square(self.target[-1]).sum())
        error = self.energy + float(squares)
        if not (np.isfinite(error) and variance > 0.0):
            return None
        return max(0.0, error / variance)


class Fit(NamedTuple):
    """A layer with other weights.

    Attributes:
        layer: The weights.
        method: ``off``, ``bias`` or ``least-squares``.
        error: `NormalEquations.error` on the rows that it was judged by: those that it was fitted
            to, or those that were held out.
        ridge: Pull of least squares; 0 for all else.
    """

    layer: Affine
    method: str
    error: float | None
    ridge: float = 0.0


def ridge_fit(equations: NormalEquations, prior: Affine, ridge: float) -> Fit:
    """Return the layer with the least squared error, drawn towards ``prior``; in double precision.

    Args:
        equations: What enters, and what is wanted.
        prior: The layer with the weights that stayed.
        ridge: Strength of the pull, relative to the mean energy of an input.

    Raises:
        numpy.linalg.LinAlgError: The equations have no solution.
    """
    system, weights = equations.system, prior.stacked()
    size = len(system) - 1
    # Where nothing enters, or without a ridge, what stayed is the solution nearest to itself.
    pull = max(ridge * float(np.diag(system)[:size].mean()), _LEAST_PULL)
    left = system + pull * np.eye(size + 1)
    found = weights + np.linalg.solve(left, equations.target - system @ weights)
    layer = Affine(found[:size], found[size])
    return Fit(layer, "least-squares", equations.error(layer), ridge)


def bias_fit(equations: NormalEquations, prior: Affine) -> Fit:
    """Return the layer with the bias that gives what it computes the mean that is wanted."""
    mean = equations.system[-1, :-1]
    layer = Affine(prior.matrix, equations.target[-1] - mean @ prior.matrix)
    return Fit(layer, "bias", equations.error(layer))


def best_fit(
    fitted: NormalEquations,
    held_out: NormalEquations,
    prior: Affine,
    ridges: Sequence[float] = RIDGES,
) -> Fit:
    """Return what does best on rows held out: nothing, the bias, or least squares by some ridge.

    What was chosen is fitted again to all rows.

    Args:
        fitted: The rows to fit to.
        held_out: Other rows, to judge by.
        prior: The layer with the weights that stayed.
        ridges: Pulls to try.
    """
    tried = [Fit(prior, "off", None), bias_fit(fitted, prior)]
    tried += [ridge_fit(fitted, prior, ridge) for ridge in ridges]
    judged = [fit._replace(error=held_out.error(fit.layer)) for fit in tried]
    chosen = min(judged, key=lambda fit: np.inf if fit.error is None else fit.error)
    everything = fitted.joined(held_out)
    if chosen.method == "least-squares":
        again = ridge_fit(everything, prior, chosen.ridge)
    else:
        again = bias_fit(everything, prior) if chosen.method == "bias" else chosen
    return again._replace(error=chosen.error)
