"""What is multiplied by weights, measured step by step in the order of the graph."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.compression.gptq import shrunk_gram
from graphopt.compression.levels import divided, levels_of
from graphopt.compression.packed_weight import WeightView
from graphopt.compression.read_weights import ReadWeight
from graphopt.compression.weight_grams import multiplied_rows
from graphopt.rewrite import Asked, ChannelMoments, Channels, Measure

__all__ = ["NotMeasured", "ReadInputs", "measured_weights"]

_MEMORY_BYTES = 1 << 28
_MOST_LENGTH = 8192  # a Gram matrix of half a GB, and some minutes for its factor
Array = npt.NDArray[np.float64]


class ReadInputs(NamedTuple):
    """What all readers of a weight together multiply by it.

    Attributes:
        view: What they sum over.
        second: ``E[x^2]``, ``(groups, length)``; groups are those of a convolution.
        grams: ``E[x x^T]``, ``(groups, length, length)``, shrunk by what is chance; ``None`` where
            not wanted.
    """

    view: WeightView
    second: Array
    grams: Array | None


class NotMeasured(NamedTuple):
    """Why it is not known what enters the readers of a weight: a slug, and a sentence.

    The slug is ``not-measured``, or ``read-both-ways`` where one layer reads it transposed.
    """

    slug: str
    why: str


class _Asked(NamedTuple):
    weight: ReadWeight
    rows: list[Channels]
    view: WeightView


def measured_weights(
    model: ir.Model,
    measure: Measure,
    weights: Iterable[ReadWeight],
    *,
    grams: bool,
    runs: int,
) -> Iterator[tuple[ReadWeight, ReadInputs | NotMeasured]]:
    """Yield weights with what is multiplied by them, each after those that it depends on.

    What is measured is the model as it is when a step begins: a caller who changes each weight as
    it comes sees what the weights before make of the inputs. Weights of which not every reader's
    inputs can be measured come first.

    Args:
        model: The model.
        measure: Runs it.
        weights: No tables without a layer that reads them too.
        grams: Whether Gram matrices are wanted.
        runs: Most steps.
    """
    planned: dict[ir.Node, list[_Asked]] = {}  # a recurrent layer has two weights
    for weight in weights:
        found = _planned(model.graph, weight, grams=grams)
        if isinstance(found, NotMeasured):
            yield weight, found
        else:
            first = next(item.node for item in weight.readings if not item.is_lookup)
            planned.setdefault(first, []).append(found)
    for step in divided(levels_of(model.graph, list(planned)), runs):
        for part in _parts([item for node in step for item in planned[node]], grams=grams):
            asked: list[Asked] = list(dict.fromkeys(rows for item in part for rows in item.rows))
            moments = measure.moments(model, asked, grams=asked if grams else ())
            for item in part:
                seen = [moments[rows] for rows in item.rows if rows in moments]
                if len(seen) == len(item.rows) and all(one.is_finite and one.count for one in seen):
                    yield item.weight, _together(item.view, seen, grams=grams)
                else:
                    why = "what enters was empty or not finite on the samples"
                    yield item.weight, NotMeasured("not-measured", why)


def _planned(graph: ir.Graph, weight: ReadWeight, *, grams: bool) -> _Asked | NotMeasured:
    layers = [reading for reading in weight.readings if not reading.is_lookup]
    views = {reading.view for reading in layers}
    if len(views) > 1:
        return NotMeasured("read-both-ways", f"`{weight.name}` is read transposed, too")
    most = _MOST_LENGTH if grams else 1 << 31
    rows = [
        multiplied_rows(graph, reading.node, reading.source, most_length=most) for reading in layers
    ]
    known = [found for found in rows if found is not None]
    if not layers or len(known) < len(rows):
        why = "what enters a reader cannot be measured: it is in a branch, or of another form"
        return NotMeasured("not-measured", why)
    return _Asked(weight, known, views.pop())


def _parts(step: Sequence[_Asked], *, grams: bool) -> Iterator[list[_Asked]]:
    """Yield parts of a step whose Gram matrices fit into memory together."""
    part: list[_Asked] = []
    held: dict[Channels, int] = {}
    for item in step:
        groups = [rows.window.groups if rows.window else 1 for rows in item.rows]
        size = 8 * item.view.length**2 if grams else 0
        new = {rows: size * count for rows, count in zip(item.rows, groups, strict=True)}
        if part and sum({**held, **new}.values()) > _MEMORY_BYTES:
            yield part
            part, held = [], {}
        part.append(item)
        held.update(new)
    if part:
        yield part


def _together(view: WeightView, seen: Sequence[ChannelMoments], *, grams: bool) -> ReadInputs:
    """Return the moments of all rows that any reader multiplies."""
    count = sum(one.count for one in seen)
    second = sum((one.second * (one.count / count) for one in seen), np.zeros(()))
    if not grams:
        return ReadInputs(view, second.reshape(-1, view.length), None)
    shape = (-1, view.length, view.length)
    whole = np.zeros(())
    for one in seen:
        assert one.gram is not None
        whole = whole + one.gram.reshape(shape) * (one.count / count)
    # Of few rows, chance products of inputs would be taken for what they have in common.
    shrunk = np.stack([shrunk_gram(gram, count) for gram in whole])
    return ReadInputs(view, second.reshape(-1, view.length), shrunk)
