"""Covariances of what enters layers, measured for a few layers at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.compression.contractions import Contraction
from graphopt.rewrite import Asked, ChannelMoments, Measure

__all__ = ["Covariances"]

Array = npt.NDArray[Any]

_HELD_BYTES = 256 << 20  # of Gram matrices at once; every further part is a further run
_FLOAT64_BYTES = 8


class Covariances:
    """Answers for the layers of one group after the other.

    Args:
        model: The model.
        measure: Runs it on samples.
        layers: Of all groups, in the order in which they will be asked for.
    """

    def __init__(
        self, model: ir.Model, measure: Measure, layers: Sequence[Sequence[Contraction]]
    ) -> None:
        self._model, self._measure = model, measure
        self._ahead = list(layers)
        self._held: dict[Asked, ChannelMoments] = {}

    def of(self, layers: Sequence[Contraction]) -> list[Array] | None:
        """Return the covariance of what enters each layer of a group, float64[inputs, inputs].

        ``None`` where one was not measured, or is not finite.
        """
        if any(layer.entering() not in self._held for layer in layers):
            self._fetch(layers)
        found = []
        for layer in layers:
            moments = self._held.get(layer.entering())
            if moments is None or moments.gram is None or not moments.is_finite:
                return None
            found.append(moments.gram - np.outer(moments.mean, moments.mean))
        return found

    def _fetch(self, layers: Sequence[Contraction]) -> None:
        """Measure the layers of a group, and of as many behind it as may be held."""
        place = self._ahead.index(layers) if layers in self._ahead else len(self._ahead)
        asked, held = {layer.entering(): None for layer in layers}, sum(map(_bytes, layers))
        for more in self._ahead[place + 1 :]:
            held += sum(map(_bytes, more))
            if held > _HELD_BYTES:
                break
            asked.update((layer.entering(), None) for layer in more)
        self._held.clear()
        self._held = self._measure.moments(self._model, [], grams=list(asked))


def _bytes(layer: Contraction) -> int:
    return len(layer.matrix()) ** 2 * _FLOAT64_BYTES
