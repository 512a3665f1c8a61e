"""LSTM layers that ONNX Runtime computes in integers: ``DynamicQuantizeLSTM``.

Its weights are transposed against those of ``LSTM``, symmetric, with one scale for each gate of
each hidden unit; what enters and what is fed back are quantized at every step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis.contrib import CONTRIB_DOMAIN, import_contrib
from graphopt.compression.quantization import weight_parameters
from graphopt.compression.quantized_weights import QuantizedWeights
from graphopt.compression.weight_source import NoWeight, WeightSource, trace_weight
from graphopt.rewrite import Change

__all__ = ["RecurrentLayer", "find_recurrent", "quantize_recurrent"]

_INPUTS, _WEIGHTS_RANK = 8, 3
_ATTRIBUTES = (
    "activation_alpha",
    "activation_beta",
    "activations",
    "clip",
    "direction",
    "hidden_size",
    "input_forget",
)


@dataclass(frozen=True)
class RecurrentLayer:
    """An ``LSTM`` with constant weights.

    Attributes:
        node: The operator.
        weights: For the input and for the hidden state, ``(directions, 4 * hidden, inputs)``.
    """

    node: ir.Node
    weights: tuple[WeightSource, WeightSource]

    @property
    def elements(self) -> int:
        """Elements of both weights."""
        return sum(weight.tensor.size for weight in self.weights)


def find_recurrent(node: ir.Node) -> RecurrentLayer | NoWeight:
    """Return the layer that ``node`` is, or why there is no integer kernel for it.

    Args:
        node: ``LSTM``, ``GRU`` or ``RNN``.
    """
    if node.op_type != "LSTM":
        return NoWeight("no-integer-kernel", "pack-weights holds its weights in 8 bits")
    if node.attributes.get_int("layout"):
        return NoWeight("no-integer-kernel", "the batch comes first")
    found: list[WeightSource] = []
    for index in (1, 2):
        weight = trace_weight(node.inputs[index])
        if isinstance(weight, NoWeight):
            return weight
        if len(weight.shape) != _WEIGHTS_RANK:
            return NoWeight("weight-rank", f"the weight has rank {len(weight.shape)}")
        if not np.all(np.isfinite(weight.array())):
            return NoWeight("weight-not-finite", "the weight holds NaN or infinity")
        found.append(weight)
    return RecurrentLayer(node, (found[0], found[1]))


def quantize_recurrent(
    change: Change, constants: QuantizedWeights, layer: RecurrentLayer, *, reduce_range: bool
) -> None:
    """Put ``DynamicQuantizeLSTM`` in the place of a layer; nothing else is touched.

    Args:
        change: The rewrite.
        constants: Where integers and scales are kept.
        layer: What is replaced.
        reduce_range: Use 7 bits, see `weight_parameters`.
    """
    node = layer.node
    quantized = [
        _quantized(change, constants, node, weight, reduce_range=reduce_range)
        for weight in layer.weights
    ]
    (weight, *weight_pair), (recurrence, *recurrence_pair) = quantized
    others = [*node.inputs[3:_INPUTS], *[None] * (_INPUTS - len(node.inputs))]
    inputs = [node.inputs[0], weight, recurrence, *others, *weight_pair, *recurrence_pair]
    import_contrib(change.model, change)
    unused = [index for index, output in enumerate(node.outputs) if not output.name]
    outputs = change.multi_output_node(
        "DynamicQuantizeLSTM",
        inputs,
        len(node.outputs),
        attributes={name: node.attributes[name] for name in _ATTRIBUTES if name in node.attributes},
        domain=CONTRIB_DOMAIN,
        name=f"{node.name or 'LSTM'}_quantized",
        unused=unused,
    )
    for index, (old, new) in enumerate(zip(node.outputs, outputs, strict=True)):
        if index not in unused:
            change.replace(old, new)
    change.remove(node)


def _quantized(
    change: Change,
    constants: QuantizedWeights,
    node: ir.Node,
    weight: WeightSource,
    *,
    reduce_range: bool,
) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Return integers ``(directions, inputs, 4 * hidden)``, scales and zero points."""
    array = weight.array()
    directions, gates, inputs = array.shape
    parameters = weight_parameters(
        array.reshape(directions * gates, inputs), 0, reduce_range=reduce_range
    )
    scale = parameters.scale.reshape(directions, gates)
    integers: npt.NDArray[np.int8] = np.clip(
        np.rint(array / scale[:, :, None]), *parameters.limits
    ).astype(np.int8)
    name = weight.origin.name or "weight"
    moved = np.ascontiguousarray(integers.transpose(0, 2, 1))
    return (
        constants.constant(change, node, moved, f"{name}_quantized"),
        constants.constant(change, node, scale, f"{name}_scale"),
        constants.constant(change, node, np.zeros_like(scale, np.int8), f"{name}_zero_point"),
    )
