"""Integer weights of linear layers, rounded for what samples say they are multiplied by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.compression.gptq import shrunk_gram
from graphopt.compression.integer_products import LayerGroup
from graphopt.rewrite import Asked, Channels, Measure

__all__ = ["covariances"]

_MEMORY_BYTES = 1 << 28  # of matrices that are held at once
_POSITIONS = 128  # of a sample: neighbours tell much the same, and every row costs as much


def covariances(
    model: ir.Model, measure: Measure, groups: Sequence[LayerGroup]
) -> Iterator[tuple[LayerGroup, npt.NDArray[np.float64] | None]]:
    """Yield each group with the covariance of the channels that its layers read.

    About the mean, as biases make up for what rounding weights does to the mean of outputs. What
    may be chance is shrunk. ``None`` stands where the samples tell nothing of the activation.

    Args:
        model: The model in float.
        measure: Runs it on samples.
        groups: Layers by activation.

    Raises:
        SessionLoadError, RuntimeFailure: The runtime refuses the model, or fails on a sample.
    """
    batch: list[LayerGroup] = []
    held = 0
    for number, group in enumerate(groups, start=1):
        batch.append(group)
        held += 8 * len(group.mean) ** 2
        if held < _MEMORY_BYTES and number < len(groups):
            continue
        asked: list[Asked] = [_rows(one) for one in batch]
        found = measure.moments(model, asked, grams=asked)
        for one in batch:
            moments = found.pop(_rows(one), None)
            if moments is None or moments.gram is None or not moments.is_finite:
                yield one, None
                continue
            matrix = moments.gram - np.outer(moments.mean, moments.mean)
            yield one, shrunk_gram(matrix, moments.count)
        batch, held = [], 0


def _rows(group: LayerGroup) -> Channels:
    return Channels(group.activation.name or "", positions=_POSITIONS)
