"""What a layer that lost inputs is fitted to: what the original model computed at the same place.

Where the layer's result is added to a stream that goes around it, that is the stream behind the
sum: what the layer should add is then what the stream lacks there, the errors of the layers before
included (Park et al. 2024, *K-prune*, section 3.4). Where there is no such stream, it is the
result of the layer itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from graphopt.analysis.readers import only_reader
from graphopt.compression.contractions import Contraction
from graphopt.compression.layer_bias import bias_of
from graphopt.ir import constant_tensor
from graphopt.rewrite import ShapeTable

__all__ = ["FitTarget", "counterpart", "fit_target"]


@dataclass(frozen=True)
class FitTarget:
    """Where to read what a layer should come to.

    Attributes:
        value: Computed by the layer with its bias, or, where there is a stream, behind the sum.
        sum: What adds the result of the layer to a stream; ``None``: nothing does.
        operand: Which input of `sum` is the stream.
    """

    value: ir.Value
    sum: ir.Node | None = None
    operand: int = 0

    @property
    def stream(self) -> ir.Value | None:
        """What the result of the layer is added to, now."""
        return self.sum.inputs[self.operand] if self.sum is not None else None


def fit_target(layer: Contraction, shapes: ShapeTable) -> FitTarget:
    """Return where a layer's result goes.

    Args:
        layer: A layer of a model as it is now.
        shapes: Of that model; they tell a stream from what is broadcast.
    """
    result = _behind_bias(layer)
    reader = only_reader(result)
    if reader is None or reader.op_type != "Add":
        return FitTarget(result)
    operand = 1 if reader.inputs[0] is result else 0
    stream = reader.inputs[operand]
    if stream is None or stream is result or constant_tensor(stream) is not None:
        return FitTarget(result)
    dims = [shapes.of(value) for value in (stream, result, reader.outputs[0])]
    known = [shape.dims for shape in dims if shape is not None and shape.dims is not None]
    # A dimension that nobody knows may be one that is broadcast.
    if len(known) != len(dims) or len(set(known)) != 1 or None in known[0]:
        return FitTarget(result)
    return FitTarget(reader.outputs[0], reader, operand)


def _behind_bias(layer: Contraction) -> ir.Value:
    outputs = layer.matrix().shape[1]
    node = bias_of(layer.node, outputs).node
    return (layer.node if node is None else node).outputs[0]


def counterpart(value: ir.Value, found: ir.Value | None) -> ir.Value | None:
    """Return a value of another model of the same name, if the same operator computes it there."""
    ours, theirs = value.producer(), found.producer() if found is not None else None
    if ours is None or theirs is None or ours.op_identifier() != theirs.op_identifier():
        return None
    return found
