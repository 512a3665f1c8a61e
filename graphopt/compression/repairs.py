"""What repairs of integer weights share: which layers, what they stand for, in which order."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from graphopt.compression.integer_layers import IntegerLayer, NoIntegerLayer, integer_layers
from graphopt.compression.integer_matrices import (
    Floats,
    IntegerMatrix,
    float_matrix,
    integer_matrix,
    is_scaled,
    read_channels,
)
from graphopt.ir import graphs, nodes
from graphopt.rewrite import ChannelMoments, Channels, Editor

__all__ = ["Repairable", "Unrepairable", "repairable_layers", "rounding_noise", "store_integers"]

_STEPS = 255.0  # of an activation in 8 bits


class Unrepairable(NamedTuple):
    """A layer with integer weights that stays as it is: a documented slug, and details."""

    node: ir.Node
    slug: str
    why: str


@dataclass(frozen=True, eq=False)
class Repairable:
    """A layer with integer weights beside the layer of the original that it stands for.

    Attributes:
        layer: The layer.
        matrix: Its integers.
        weight: The weight in the original, float64, ``(groups, channels, outputs)``.
        original: The layer of the original.
        reads: What it multiplies by a row of the weight.
    """

    layer: IntegerLayer
    matrix: IntegerMatrix
    weight: Floats
    original: ir.Node
    reads: Channels

    @property
    def node(self) -> ir.Node:
        """The layer's node."""
        return self.layer.node

    @property
    def target(self) -> Channels:
        """The result of the original, over the rows of `reads`."""
        axis = 1 if self.node.op_type == "Conv" else -1
        return Channels(self.original.outputs[0].name or "", axis, positions=self.reads.positions)


def repairable_layers(
    model: ir.Model, original: ir.Model, exclude: Sequence[str]
) -> Iterator[Repairable | Unrepairable]:
    """Yield every layer with integer weights, in the order of the graph.

    Args:
        model: The quantized model.
        original: The model before it was quantized.
        exclude: Name patterns of layers that stay.
    """
    layers = {node.name or "": node for node in nodes(original)}
    for graph in graphs(model):
        for layer in integer_layers(graph):
            if graph is not model.graph:
                yield Unrepairable(layer.node, "inside-subgraph", "its values cannot be measured")
            elif any(fnmatch.fnmatchcase(layer.node.name or "", one) for one in exclude):
                yield Unrepairable(layer.node, "excluded", "by the options of the pass")
            elif isinstance(layer, NoIntegerLayer):
                yield Unrepairable(layer.node, "unsupported-form", layer.why)
            else:
                yield _repairable(layer, layers)


def _repairable(layer: IntegerLayer, layers: Mapping[str, ir.Node]) -> Repairable | Unrepairable:
    node = layer.node
    matrix, reads = integer_matrix(layer), read_channels(layer)
    if isinstance(matrix, str):
        return Unrepairable(node, "unsupported-form", matrix)
    if reads is None:
        return Unrepairable(node, "unsupported-form", "the padding of the Conv is automatic")
    # `quantize-dynamic` names the product after the layer that it replaces.
    name = node.name or ""
    original = layers.get(name) or layers.get(name.removesuffix("_quantized"))
    weight = None if original is None else _weight(original, matrix)
    if original is None or weight is None:
        why = f"the original has no layer `{name}` with such a weight"
        return Unrepairable(node, "no-counterpart", why)
    return Repairable(layer, matrix, weight, original, reads)


def _weight(original: ir.Node, matrix: IntegerMatrix) -> Floats | None:
    if original.domain or original.op_type not in ("Conv", "Gemm", "MatMul"):
        return None
    if is_scaled(original):
        return None  # the scale of the integers may hold alpha, or not
    found = float_matrix(original)
    fits = found is not None and found.shape == matrix.integers.shape
    return found if fits and found is not None and np.isfinite(found).all() else None


def rounding_noise(item: Repairable, moments: ChannelMoments) -> float:
    """Return what rounding adds to the square of each channel, where it is not in the moments.

    An activation that `DynamicQuantizeLinear` quantizes is measured before it does.
    """
    if item.node.op_type != "MatMulInteger":
        return 0.0
    low, high = moments.limits
    span = max(float(high.max(initial=0.0)), 0.0) - min(float(low.min(initial=0.0)), 0.0)
    return (span / _STEPS) ** 2 / 12.0


def store_integers(item: Repairable, integers: Floats, edit: Editor, because: str) -> ir.Value:
    """Let a layer read other integers; return the constant that they took the place of."""
    reader, index = item.layer.weight_reader
    old = item.layer.integers
    with edit.rewrite(item.node, because=because) as change:
        new = change.initializer(item.matrix.stored(integers), name=f"{old.name}_repaired")
        change.set_input(reader, index, new)
    return old
