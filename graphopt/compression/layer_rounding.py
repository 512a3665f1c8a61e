"""Integer weights of linear layers, rounded for what samples say they are multiplied by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from graphopt.compression.compensated_rounding import Compensation, compensation_for
from graphopt.compression.gptq import shrunk_gram
from graphopt.compression.integer_products import LayerGroup
from graphopt.compression.spread_columns import plain_channels
from graphopt.rewrite import Asked, ChannelMoments, Channels, Measure

__all__ = ["compensations"]

# Of matrices that are held at once: less than what values of one run may take, with which they are
# gathered, so that a model is run once for all of them.
_MEMORY_BYTES = 3 << 26
_POSITIONS = 128  # of a sample: neighbours tell much the same, and every row costs as much


def compensations(
    model: ir.Model, measure: Measure, groups: Sequence[LayerGroup]
) -> Iterator[tuple[LayerGroup, Compensation | None]]:
    """Yield each group with how weights of what its layers read make up for each other's errors.

    By covariances about the mean, as biases make up for what rounding weights does to the mean of
    outputs. What may be chance is shrunk. ``None`` stands where the samples tell nothing of the
    activation.

    Args:
        model: The model in float.
        measure: Runs it on samples.
        groups: Layers by activation.

    Raises:
        SessionLoadError, RuntimeFailure: The runtime refuses the model, or fails on a sample.
    """
    for batch in _batches(groups):
        asked: list[Asked] = [_rows(one) for one in batch]
        found = measure.moments(model, asked, grams=asked)
        for one in batch:
            yield one, _compensation(one, found.pop(_rows(one), None))


def _batches(groups: Sequence[LayerGroup]) -> Iterator[list[LayerGroup]]:
    batch: list[LayerGroup] = []
    held = 0
    for group in groups:
        size = 8 * len(group.mean) ** 2
        if batch and held + size > _MEMORY_BYTES:
            yield batch
            batch, held = [], 0
        batch.append(group)
        held += size
    if batch:
        yield batch


def _compensation(group: LayerGroup, moments: ChannelMoments | None) -> Compensation | None:
    if moments is None or moments.gram is None or not moments.is_finite:
        return None
    matrix = moments.gram - np.outer(moments.mean, moments.mean)
    plain = plain_channels(len(matrix), group.spread)
    return compensation_for(shrunk_gram(matrix, moments.count)[np.ix_(plain, plain)])


def _rows(group: LayerGroup) -> Channels:
    return Channels(group.activation.name or "", positions=_POSITIONS)
