"""Integers for a weight that make the error of its product small, not that of the weight.

Rounding each weight to the nearest integer is best for the weight alone. What counts is
``E |x (Q - W)|^2 = tr((Q - W)^T H (Q - W))`` with ``H = E[x x^T]``: errors of channels that go
together can cancel. One weight at a time is set to the integer that is best given all others, in
rounds, so that the error never grows (Behdin et al. 2023, "QuantEase", algorithm 2; the aim is
that of Nagel et al. 2020, "Up or Down? Adaptive Rounding for Post-Training Quantization").
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Grid", "anchored_solution", "damped", "product_error", "rounded_on"]

Floats = npt.NDArray[np.float64]

_BLOCK = 64  # channels whose errors are kept up to date one by one; those of others by the block
_SETTLED = 1e-4  # a round that gains less than that part of the error is the last


@dataclass(frozen=True, eq=False)
class Grid:
    """What integers stand for, weight by weight.

    Attributes:
        scale: Positive, ``(channels, outputs)``, or what broadcasts to it.
        zero_point: The same.
        least: Smallest integer.
        most: Largest integer.
    """

    scale: Floats
    zero_point: Floats
    least: int
    most: int

    def nearest(self, weight: Floats, rows: slice = slice(None)) -> Floats:
        """Return the integers nearest to some rows of a weight."""
        scale, point = self._rows(rows)
        return np.clip(np.rint(weight / scale + point), self.least, self.most)

    def values(self, integers: Floats, rows: slice = slice(None)) -> Floats:
        """Return what the integers of some rows stand for."""
        scale, point = self._rows(rows)
        found: Floats = (integers - point) * scale
        return found

    def _rows(self, rows: slice) -> tuple[Floats, Floats]:
        def taken(array: Floats) -> Floats:
            return array[rows] if array.ndim > 1 and len(array) > 1 else array

        return taken(self.scale), taken(self.zero_point)


def damped(gram: Floats, share: float, noise: float = 0.0) -> Floats:
    """Return a Gram matrix with ``share`` of its mean diagonal, and ``noise``, on the diagonal.

    Noise is what rounding adds to each channel of an activation, independent of all others:
    ``step^2 / 12``.
    """
    mean = float(np.trace(gram)) / max(len(gram), 1)
    extra = share * mean + noise
    # A channel that is always 0 must not divide by it.
    found: Floats = gram + (extra if extra > 0.0 else 1.0) * np.eye(len(gram))
    return found


def product_error(gram: Floats, difference: Floats) -> float:
    """Return ``E |x D|^2`` for a difference of weights, summed over outputs."""
    return float(np.einsum("kn,kn->", difference, gram @ difference))


def anchored_solution(
    gram: Floats, product: Floats, anchor: Floats, share: float, noise: float = 0.0
) -> Floats:
    """Return the weight nearest to ``anchor`` that makes ``x W`` nearest to a target ``y``.

    ``W = P + (E[x x^T] + lambda I)^-1 (E[x y^T] - E[x x^T] P)`` with ``lambda`` a share of the mean
    of the diagonal: ridge regression that shrinks towards the anchor and not towards 0.

    Args:
        gram: ``E[x x^T]``.
        product: ``E[x y^T]``.
        anchor: ``P``, ``(channels, outputs)``.
        share: Share of the mean diagonal of ``gram`` that is ``lambda``.
        noise: As for `damped`.
    """
    noisy = gram + noise * np.eye(len(gram))
    change = np.linalg.solve(damped(noisy, share), product - noisy @ anchor)
    found: Floats = anchor + change
    return found


def rounded_on(grid: Grid, weight: Floats, gram: Floats, start: Floats, rounds: int) -> Floats:
    """Return integers with a small error of the product, at most that of ``start``.

    Args:
        grid: What integers stand for.
        weight: What they ought to stand for, ``(channels, outputs)``.
        gram: ``E[x x^T]``, positive definite.
        start: Integers to begin with.
        rounds: Most times to go through all channels.
    """
    integers = start.copy()
    difference = grid.values(integers) - weight
    error = product_error(gram, difference)
    for _ in range(rounds):
        for begin in range(0, len(gram), _BLOCK):
            _improve(grid, integers, difference, gram, slice(begin, begin + _BLOCK))
        before, error = error, product_error(gram, difference)
        if error >= before * (1.0 - _SETTLED):
            break
    return integers


def _improve(grid: Grid, integers: Floats, difference: Floats, gram: Floats, block: slice) -> None:
    """Set the integers of some channels, one after the other, to what is best for all outputs."""
    pull = gram[block] @ difference  # half the gradient of the error
    inner = gram[block, block]
    for place in range(len(inner)):
        row = block.start + place
        one = slice(row, row + 1)
        value = grid.values(integers[one], one)
        best = grid.nearest(value - pull[place] / inner[place, place], one)
        step = grid.values(best, one) - value
        if not step.any():
            continue
        integers[one] = best
        difference[one] += step
        # After the first round few integers change, and what is above is not looked at again.
        changed = np.flatnonzero(step[0])
        pull[place + 1 :, changed] += inner[place + 1 :, place : place + 1] * step[:, changed]
