"""Writing linear layers as products of 8-bit integers: ONNX Runtime's `MatMulIntegerToFloat`.

An activation is held in one integer per element, some of whose columns may be set apart
(`spread_columns`), or in two: ``x ~ s q + t p``, where ``p`` is what rounding to ``s q`` left over.
As that is at most half a step, ``t`` is ``s / 255``, and both together hold 16 bits. Both are
multiplied by the same integer weights, and the products added.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis.contrib import CONTRIB_DOMAIN
from graphopt.compression.quantization import QuantizationParameters, parameters_from_range
from graphopt.compression.quantized_weights import QuantizedWeights
from graphopt.compression.spread_columns import Spread, SpreadWeight
from graphopt.compression.static_layers import Layer
from graphopt.rewrite import Change, ChannelMoments

__all__ = [
    "LayerGroup",
    "RoundedLayer",
    "last_node",
    "remainder_parameters",
    "twofold",
    "write_group",
]

_MARGIN = 1.5


@dataclass(frozen=True, eq=False)
class LayerGroup:
    """Layers that read one activation.

    Attributes:
        layers: At least one.
        spread: How the activation is quantized.
        mean: Mean of each of its channels, float64.
        is_twofold: What rounding the activation leaves is rounded and multiplied, too.
    """

    layers: tuple[Layer, ...]
    spread: Spread
    mean: npt.NDArray[np.float64]
    is_twofold: bool = False

    @property
    def activation(self) -> ir.Value:
        """What they read now: an earlier rewrite may have replaced what they read at first."""
        return self.layers[0].activation


class RoundedLayer(NamedTuple):
    """What is stored of a layer.

    Attributes:
        weight: In integers.
        bias: That goes with it, ``(outputs,)``.
    """

    weight: SpreadWeight
    bias: npt.NDArray[np.float32]


class _Integers(NamedTuple):
    """An activation in integers, with their scale and zero point."""

    values: ir.Value
    scale: ir.Value
    zero_point: ir.Value


class _Weight(NamedTuple):
    """A weight in integers, with their scale and zero point."""

    values: ir.Value
    scale: ir.Value
    zero_point: ir.Value


def remainder_parameters(parameters: QuantizationParameters, kind: str) -> QuantizationParameters:
    """Return scale and zero point of what rounding to ``parameters`` leaves: half a step at most.

    Args:
        parameters: One scale for the whole tensor.
        kind: Integer type, ``u8`` or ``s8``.
    """
    half = float(parameters.scale) / 2
    return parameters_from_range(-half, half, kind)


def twofold(group: LayerGroup, moments: ChannelMoments, kind: str) -> LayerGroup:
    """Return a group whose activation is held in two integers, which need no columns for outliers.

    Args:
        group: As it would be quantized in one.
        moments: Of the activation.
        kind: Integer type, ``u8`` or ``s8``.
    """
    # 16 bits have room for what no sample showed.
    low, high = (float(limit) for limit in (moments.limits[0].min(), moments.limits[1].max()))
    parameters = parameters_from_range(_MARGIN * low, _MARGIN * high, kind)
    nothing = Spread(
        parameters=parameters,
        is_apart=False,
        channels=np.zeros(0, np.int64),
        factors=np.zeros(0, np.float32),
        offsets=np.zeros(0, np.float32),
    )
    return replace(group, spread=nothing, is_twofold=True)


def last_node(layer: Layer) -> ir.Node:
    """Return the node that computes the result: the layer, or the addition of its bias."""
    return layer.node if layer.bias_reader is None else layer.bias_reader[0]


def write_group(
    change: Change,
    constants: QuantizedWeights,
    group: LayerGroup,
    weights: Mapping[ir.Node, RoundedLayer],
    kind: str,
) -> None:
    """Compute the layers of a group in integers.

    Args:
        change: Where it is done.
        constants: Scales and zero points are taken from it.
        group: The layers.
        weights: By the node of each layer; there may be others.
        kind: Integer type of the activation, ``u8`` or ``s8``.
    """
    integers = _rounded(change, constants, group.activation, group.spread.parameters)
    remainder = _remainder(change, constants, group, integers, kind) if group.is_twofold else None
    outliers = _outliers(change, group) if group.spread.columns else None
    if outliers is not None and not group.spread.is_apart:
        integers = _with_copies(change, group, integers, outliers)
    for layer in group.layers:
        spread, bias = weights[layer.node]
        name = layer.weight.origin.name
        weight = _Weight(
            change.initializer(spread.integers, name=f"{name}_quantized"),
            change.initializer(spread.parameters.scale, name=f"{name}_scale"),
            change.initializer(spread.parameters.zero_point, name=f"{name}_zero_point"),
        )
        output = _product(change, layer, integers, weight, bias)
        if remainder is not None:
            output = _plus(change, layer, output, _product(change, layer, remainder, weight, None))
        if outliers is not None and group.spread.is_apart:
            output = _plus(change, layer, output, _in_float(change, layer, outliers, spread.apart))
        change.replace(last_node(layer).outputs[0], output)
        for node in dict.fromkeys((last_node(layer), layer.node)):
            change.remove(node)


def _rounded(
    change: Change,
    constants: QuantizedWeights,
    activation: ir.Value,
    parameters: QuantizationParameters,
) -> _Integers:
    name = activation.name
    scale = constants.constant(change, None, parameters.scale, f"{name}_scale")
    zero_point = constants.constant(change, None, parameters.zero_point, f"{name}_zero_point")
    values = change.node(
        "QuantizeLinear", [activation, scale, zero_point], name=f"{name}_quantized"
    )
    return _Integers(values, scale, zero_point)


def _remainder(
    change: Change,
    constants: QuantizedWeights,
    group: LayerGroup,
    integers: _Integers,
    kind: str,
) -> _Integers:
    """Return what the integers leave of the activation, in integers of a smaller step."""
    name = group.activation.name
    restored = change.node("DequantizeLinear", list(integers), name=f"{name}_restored")
    rest = change.node("Sub", [group.activation, restored], name=f"{name}_rest")
    return _rounded(change, constants, rest, remainder_parameters(group.spread.parameters, kind))


def _outliers(change: Change, group: LayerGroup) -> ir.Value:
    """Return the channels that are set apart, as often as they are copied."""
    name = group.activation.name
    channels = change.initializer(group.spread.channels, name=f"{name}_channels")
    return change.node(
        "Gather", [group.activation, channels], attributes={"axis": -1}, name=f"{name}_outliers"
    )


def _with_copies(
    change: Change, group: LayerGroup, integers: _Integers, copies: ir.Value
) -> _Integers:
    """Return the quantized activation, and behind its channels their shares in integers."""
    name, spread = group.activation.name, group.spread
    factors = change.initializer(spread.factors, name=f"{name}_factors")
    offsets = change.initializer(spread.offsets, name=f"{name}_offsets")
    shares = change.node("Mul", [copies, factors], name=f"{name}_shares")
    moved = change.node("Add", [shares, offsets], name=f"{name}_moved")
    rounded = change.node(
        "QuantizeLinear",
        [moved, integers.scale, integers.zero_point],
        name=f"{name}_shares_quantized",
    )
    both = change.node(
        "Concat", [integers.values, rounded], attributes={"axis": -1}, name=f"{name}_spread"
    )
    return integers._replace(values=both)


def _product(
    change: Change,
    layer: Layer,
    activation: _Integers,
    weight: _Weight,
    bias: npt.NDArray[np.float32] | None,
) -> ir.Value:
    """Multiply integers, scale the sums and add the bias, in one operator."""
    operands = [activation.values, weight.values, activation.scale, weight.scale]
    operands += [activation.zero_point, weight.zero_point]
    if bias is not None:
        operands.append(change.initializer(bias, name=f"{layer.weight.origin.name}_bias"))
    # What rounding left over has no bias, which is how the two products are told apart.
    kind = "quantized" if bias is not None else "remainder"
    return change.node(
        "MatMulIntegerToFloat",
        operands,
        domain=CONTRIB_DOMAIN,
        name=f"{_prefix(layer)}_{kind}",
        like=last_node(layer).outputs[0],
        before=layer.node,
    )


def _in_float(
    change: Change, layer: Layer, outliers: ir.Value, rows: npt.NDArray[np.float32]
) -> ir.Value:
    """Multiply the channels set apart by their rows."""
    kept = change.initializer(rows, name=f"{layer.weight.origin.name}_outliers")
    name = f"{_prefix(layer)}_outliers"
    return change.node("MatMul", [outliers, kept], name=name, before=layer.node)


def _plus(change: Change, layer: Layer, product: ir.Value, share: ir.Value) -> ir.Value:
    return change.node(
        "Add",
        [product, share],
        name=f"{_prefix(layer)}_whole",
        like=last_node(layer).outputs[0],
        before=layer.node,
    )


def _prefix(layer: Layer) -> str:
    return layer.node.name or layer.node.op_type
