"""Writes the quantizers of a plan into a graph, and integers for its weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.compression.integer_plan import TYPED_OPSET, Carried, IntegerPlan
from graphopt.compression.quantization import (
    INTEGER_TYPES,
    QuantizationParameters,
    bias_parameters,
    parameters_from_range,
    quantize,
    weight_parameters,
    widen_for_bias,
)
from graphopt.compression.quantized_weights import QuantizedWeights, remove_unread
from graphopt.compression.static_layers import Layer
from graphopt.ir import opset_version
from graphopt.rewrite import Change, Editor, Facts, ShapeTable, ValueRange

__all__ = ["Scheme", "StaticQuantizer"]

_MATRIX_RANK = 2
_SUMMAND = 2  # the input of LayerNormalization
_ROOM = 2.0**30  # half of what 32 bits hold
_WIDE = ("u16", "s16")
_WIDE_TYPES = tuple(INTEGER_TYPES[kind].dtype for kind in _WIDE)
# What Qualcomm's processor takes for granted of 16-bit results.
_FIXED_RANGES = {"Sigmoid": ValueRange(0.0, 1.0), "Tanh": ValueRange(-1.0, 1.0)}


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """How numbers become integers.

    Attributes:
        activation: Integer type of values.
        weight: Integer type of weights.
        symmetric: The zero point of values is the middle of their type.
        per_channel: Tells which layers have one weight scale for each output channel.
        reduce_range: Tells which layers have 7-bit weights.
        integer_bias: Biases are 32-bit integers.
        domain: Of the quantizers of values; ``com.microsoft`` has 16-bit ones in every opset.
    """

    activation: str
    weight: str
    symmetric: bool
    per_channel: Callable[[ir.Node], bool]
    reduce_range: Callable[[ir.Node], bool]
    integer_bias: bool = True
    domain: str = ""


class StaticQuantizer:
    """Carries out a plan; each of its rewrites leaves a valid model."""

    def __init__(self, edit: Editor, plan: IntegerPlan, scheme: Scheme, facts: Facts) -> None:
        self._edit = edit
        self._plan = plan
        self._scheme = scheme
        self._constants = QuantizedWeights(edit.model)
        is_typed = opset_version(edit.model) >= TYPED_OPSET and scheme.activation == "s8"
        self._apart = {
            layer.node for layer in plan.layers if is_typed and _is_flattened(layer, facts.shapes)
        }
        self._biased = {
            layer.node
            for layer in plan.layers
            if scheme.integer_bias
            and layer.node not in self._apart
            and _quantizes_bias(layer, facts.shapes)
        }
        self._parameters = {
            carried.value: self._parameters_for(facts.ranges[carried.like.name or ""], carried)
            for carried in plan.carried
        }

        # Carrying a value gives its readers another input, so that these are looked up first.
        self._summand_scales = self._scales_of_summands()

    def _scales_of_summands(self) -> dict[ir.Node, float]:
        """Return the scale of each normalization's summand: that of its input times its factors'.

        The provider for Qualcomm's processor takes a normalization whose bias is of 32 bits alone.
        """
        found: dict[ir.Node, float] = {}
        for node, index, array in self._plan.constants:
            carried = self._parameters.get(node.inputs[0]) if node.inputs[0] is not None else None
            if node.op_type == "LayerNormalization" and index == 1 and carried is not None:
                factors = self._parameters_for(_range_of(array))
                found[node] = float(carried.scale) * float(factors.scale)
        return found

    def _parameters_for(
        self, measured: ValueRange, carried: Carried | None = None
    ) -> QuantizationParameters:
        kind = self._scheme.activation
        producer = carried.source.producer() if carried is not None else None
        if kind in _WIDE and producer is not None and producer.op_type in _FIXED_RANGES:
            measured = _FIXED_RANGES[producer.op_type]
        return parameters_from_range(
            measured.minimum, measured.maximum, kind, symmetric=self._scheme.symmetric
        )

    def run(self) -> None:
        """Quantize values, then constants beside them, then the layers that read them."""
        plan = self._plan
        # Carrying a value gives its layer another input, so that the scales are looked up first.
        scales = [self._parameters[layer.activation].scale for layer in plan.layers]
        for carried in plan.carried:
            with self._edit.rewrite(carried.value, because="carried as integers") as change:
                self._carry(change, carried)
        originals: list[ir.Value | None] = []
        for node, index, array in plan.constants:
            originals.append(node.inputs[index])
            with self._edit.rewrite(node, because="constant operand in integers") as change:
                self._quantize_operand(change, node, index, array)
        for layer, scale in zip(plan.layers, scales, strict=True):
            originals.append(layer.node.inputs[1])
            if layer.bias_reader is not None and layer.node in self._biased | self._apart:
                reader, index = layer.bias_reader
                originals.append(reader.inputs[index])
            with self._edit.rewrite(layer.node, because="integer weights") as change:
                self._quantize_layer(change, layer, scale)
        read = [value for value in originals if value is not None]
        remove_unread(self._edit.model, self._edit, read)

    def _carry(self, change: Change, carried: Carried) -> None:
        value, name = carried.value, carried.value.name
        scale, zero_point = self._pair(change, self._parameters[value], carried.like.name or "")
        quantized = change.node(
            "QuantizeLinear",
            [carried.source, scale, zero_point],
            domain=self._scheme.domain,
            name=f"{name}_QuantizeLinear",
        )
        restored = change.node(
            "DequantizeLinear",
            [quantized, scale, zero_point],
            domain=self._scheme.domain,
            name=f"{name}_DequantizeLinear",
            like=value,
        )
        if carried.readers is None:
            change.replace(value, restored)
        else:
            for reader, index in carried.readers:
                change.set_input(reader, index, restored)
        if carried.limiter is not None:
            change.remove(carried.limiter)

    def _quantize_operand(
        self, change: Change, node: ir.Node, index: int, array: npt.NDArray[np.float32]
    ) -> None:
        parameters = self._parameters_for(_range_of(array))
        if index == _SUMMAND and node in self._summand_scales:
            parameters = _summand_parameters(array, self._summand_scales[node])
        name = f"{node.name}_operand_{index}"
        integers = self._constants.constant(
            change, node, quantize(array, parameters), f"{name}_quantized"
        )
        change.set_input(node, index, self._dequantized(change, integers, parameters, name, node))

    def _quantize_layer(
        self, change: Change, layer: Layer, input_scale: npt.NDArray[np.float32]
    ) -> None:
        scheme = self._scheme
        axis = layer.axis if scheme.per_channel(layer.node) else None
        parameters = weight_parameters(
            layer.weight.array(),
            axis,
            scheme.weight,
            reduce_range=scheme.reduce_range(layer.node),
        )
        is_biased = layer.node in self._biased
        # What is left in float, the runtime turns into integers of this scale at load.
        if layer.bias is not None and (is_biased or layer.holds_bias):
            parameters = widen_for_bias(parameters, layer.bias, float(input_scale))
        if is_biased:
            self._quantize_bias(change, layer, bias_parameters(parameters, input_scale))
        if layer.node in self._apart:
            self._set_bias_apart(change, layer)
        node, name = layer.node, layer.weight.origin.name or ""
        integers = self._constants.integers(change, node, layer.weight, parameters)
        change.set_input(node, 1, self._dequantized(change, integers, parameters, name, node))

    def _quantize_bias(
        self, change: Change, layer: Layer, parameters: QuantizationParameters
    ) -> None:
        assert layer.bias is not None
        assert layer.bias_reader is not None
        reader, index = layer.bias_reader
        original = reader.inputs[index]
        assert original is not None
        integers = self._constants.constant(
            change, reader, quantize(layer.bias, parameters), f"{original.name}_quantized"
        )
        restored = self._dequantized(change, integers, parameters, original.name or "", layer.node)
        change.set_input(reader, index, restored)

    def _set_bias_apart(self, change: Change, layer: Layer) -> None:
        """Give a bias a form with which the runtime leaves its sum alone: a row."""
        assert layer.bias is not None
        assert layer.bias_reader is not None
        reader, index = layer.bias_reader
        original = reader.inputs[index]
        assert original is not None
        row = layer.bias.reshape(1, -1)
        change.set_input(
            reader, index, self._constants.constant(change, reader, row, f"{original.name}_row")
        )

    def _dequantized(
        self,
        change: Change,
        integers: ir.Value,
        parameters: QuantizationParameters,
        name: str,
        before: ir.Node,
    ) -> ir.Value:
        scale, zero_point = self._pair(change, parameters, name)
        is_wide = parameters.zero_point.dtype in _WIDE_TYPES
        return change.node(
            "DequantizeLinear",
            [integers, scale, zero_point],
            domain=self._scheme.domain if is_wide else "",
            attributes={} if parameters.axis is None else {"axis": parameters.axis},
            name=f"{name}_DequantizeLinear",
            before=before,
        )

    def _pair(
        self, change: Change, parameters: QuantizationParameters, name: str
    ) -> tuple[ir.Value, ir.Value]:
        scale = self._constants.constant(change, None, parameters.scale, f"{name}_scale")
        zero_point = self._constants.constant(
            change, None, parameters.zero_point, f"{name}_zero_point"
        )
        return scale, zero_point


def _quantizes_bias(layer: Layer, shapes: ShapeTable) -> bool:
    """Tell whether the bias of a layer becomes integers, too.

    The runtime turns a product and a sum into a ``Gemm``, which has an integer kernel only with an
    integer bias, unless the activation has more axes than two and one without a fixed size.
    There the sum stays what it is, and would restore integers on every run.
    """
    if layer.bias_reader is None or layer.node.op_type != "MatMul":
        return layer.bias_reader is not None
    found = shapes.of(layer.activation)
    dims = found.dims if found is not None else None
    return (
        dims is None or len(dims) <= _MATRIX_RANK or not any(isinstance(dim, str) for dim in dims)
    )


def _is_flattened(layer: Layer, shapes: ShapeTable) -> bool:
    """Tell whether the runtime makes a ``Gemm`` of a product and a sum behind a ``Reshape``.

    It moves quantizers across that, which it must not where those that it makes are refused.
    """
    if layer.bias_reader is None or layer.holds_bias:
        return False
    found = shapes.of(layer.activation)
    dims = found.dims if found is not None else None
    return dims is not None and len(dims) > _MATRIX_RANK and _quantizes_bias(layer, shapes)


def _range_of(array: npt.NDArray[np.float32]) -> ValueRange:
    return ValueRange(float(array.min()), float(array.max()))


def _summand_parameters(array: npt.NDArray[np.float32], scale: float) -> QuantizationParameters:
    """Return parameters of 32 bits; a scale that is too fine for the largest element grows."""
    wanted = np.float32(max(scale, float(np.abs(array).max()) / _ROOM))
    limits = np.iinfo(np.int32)
    return QuantizationParameters(
        scale=np.asarray(wanted, np.float32),
        zero_point=np.zeros((), np.int32),
        axis=None,
        limits=(int(limits.min), int(limits.max)),
    )
