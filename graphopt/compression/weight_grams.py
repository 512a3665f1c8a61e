"""Gram matrices of what is multiplied by each weight, a few layers at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.compression.weight_source import WeightSource
from graphopt.rewrite import Asked, Channels, Measure, Window

__all__ = ["multiplied_rows", "weight_grams"]

_MOST_LENGTH = 2048  # a larger matrix costs more time than its rounding is worth
_MEMORY_BYTES = 1 << 28
_POSITIONS = 4096  # of an image, per run: neighbours tell the same
_ROWS_PER_ELEMENT = 4
_MATRIX_RANK = 2
_IMAGE_RANK = 3
_RECURRENT = ("LSTM", "GRU", "RNN")


def multiplied_rows(
    graph: ir.Graph, node: ir.Node, weight: WeightSource, *, most_length: int = _MOST_LENGTH
) -> Channels | None:
    """Return how a value is read as rows that are multiplied by a weight.

    The elements of a row are in the order in which `weight_view` sees what is summed over.

    Args:
        graph: The main graph; values of others cannot be measured.
        node: Reads the weight.
        weight: What it reads.
        most_length: Longer rows are not wanted.

    Returns:
        The channels; ``None`` where the rows are no value of the graph, or too long.
    """
    value = _multiplied(node, weight)
    if value is None or not value.name or node.graph is not graph:
        return None
    shape = weight.shape
    if weight.is_reordered and len(shape) != _MATRIX_RANK:
        return None
    if node.op_type == "Conv":
        return _windows(node, value.name, shape, most_length)
    is_matrix = node.op_type in ("MatMul", "Gemm") and len(shape) == _MATRIX_RANK
    is_recurrent = node.op_type in _RECURRENT
    if not (is_matrix or is_recurrent) or node.attributes.get_int("transA"):
        return None
    length = shape[0] if is_matrix and not node.attributes.get_int("transB") else shape[-1]
    return Channels(value.name) if length <= most_length else None


def _multiplied(node: ir.Node, weight: WeightSource) -> ir.Value | None:
    """Return what is multiplied by the weight."""
    if node.op_type not in _RECURRENT or node.inputs[1] is weight.origin:
        return node.inputs[0]
    # The second weight of a recurrent layer is multiplied by the hidden state, step by step: by
    # what the layer returns for each step, or, as far as can be seen, by what it starts from.
    if node.outputs and node.outputs[0].name:
        return node.outputs[0]
    return node.inputs[5] if len(node.inputs) > 5 else None  # noqa: PLR2004 - initial_h


def _windows(node: ir.Node, name: str, shape: tuple[int, ...], most_length: int) -> Channels | None:
    padding = node.attributes.get_string("auto_pad", "NOTSET")
    if len(shape) < _IMAGE_RANK or padding not in ("NOTSET", "VALID"):
        return None
    if int(np.prod(shape[1:])) > most_length:
        return None
    axes = len(shape) - 2
    ones, zeros = (1,) * axes, (0,) * (2 * axes)
    window = Window(
        kernel=shape[2:],
        strides=_ints(node, "strides", ones),
        dilations=_ints(node, "dilations", ones),
        pads=_ints(node, "pads", zeros),
        groups=node.attributes.get_int("group") or 1,
    )
    return Channels(name, window=window, positions=_POSITIONS)


def _ints(node: ir.Node, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(node.attributes.get_ints(name) or default)


def weight_grams(
    model: ir.Model, measure: Measure, rows: Sequence[tuple[Channels, int]]
) -> Iterator[tuple[Channels, npt.NDArray[np.float64]]]:
    """Yield Gram matrices ``(groups, length, length)``, measured in batches that fit into memory.

    Those of which samples hold too few rows, or rows that are not finite, are left out.

    Args:
        model: The model.
        measure: Runs it on samples.
        rows: What is to be measured, each once, with the length of its rows.

    Raises:
        SessionLoadError, RuntimeFailure: The runtime refuses the model, or fails on a sample.
    """
    batch: list[Asked] = []
    held = 0
    for number, (channels, length) in enumerate(rows, start=1):
        batch.append(channels)
        held += 8 * length * length * (channels.window.groups if channels.window else 1)
        if held < _MEMORY_BYTES and number < len(rows):
            continue
        for asked, found in measure.moments(model, batch, grams=batch).items():
            if found.gram is None or not isinstance(asked, Channels) or not found.is_finite:
                continue
            grams = _grouped(found.gram)
            # Fewer rows would be fitted exactly, at the cost of all that samples did not show.
            if found.count >= _ROWS_PER_ELEMENT * grams.shape[-1]:
                yield asked, grams
        batch, held = [], 0


def _grouped(gram: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    return gram[None] if gram.ndim == 2 else gram  # noqa: PLR2004 - one matrix
