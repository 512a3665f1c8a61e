"""Static 8-bit quantization of convolutional and linear layers."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.compression import (
    LAYER_OPERATORS,
    Carried,
    IntegerPlan,
    Layer,
    QuantizationParameters,
    QuantizedWeights,
    bias_parameters,
    opset_obstacle,
    parameters_from_range,
    plan_integers,
    quantize,
    remove_unread,
    weight_parameters,
    widen_for_bias,
)
from graphopt.ir import graphs, opset_version
from graphopt.rewrite import (
    Approximate,
    Change,
    Contract,
    Editor,
    Facts,
    Needs,
    Pass,
    RangeMethod,
    ValueRange,
    option,
)

__all__ = ["QuantizeStatic"]

_MINIMUM_OPSET = 13  # DequantizeLinear with one scale per channel
_LEVELS, _SYMMETRIC_LEVELS = 256, 255
# Beyond it is what stands for infinity, as in masks: no scale has room for it and for numbers.
_LARGEST_VALUE = 1e30


@dataclass(frozen=True, kw_only=True)
class QuantizeStatic(Pass):
    """Compute layers in 8-bit integers, with ranges measured on samples.

    What it does
        Puts `QuantizeLinear` and `DequantizeLinear` around `Conv`, `Gemm` and `MatMul` with
        constant weights, and around what lies between them and has an integer kernel (`Add`,
        `Mul`, `Concat`, pooling, `Sigmoid`, operators that only move elements), so that whole
        convolutional graphs run in integers. A `Relu` or `Clip` behind an integer operator becomes
        the saturation of its quantizer. Weights are symmetric with one scale per output channel,
        biases 32-bit with the product of the other two scales. `MatMul`, and a `Gemm` whose
        result somebody reads as float, keep a float result.

    When it refuses
        `range-unknown`        a value that the layer reads or computes has no finite range, or one
                               that reaches what stands for infinity (1e30), or was 0 in every
                               sample.
        `weight-not-constant`  the layer has no constant weight.
        `weight-overridable`   the weight is also an input of the model.
        `already-quantized`    the weight comes from integers.
        `not-float32`          the weight has another type.
        `weight-not-finite`    the weight holds NaN or infinity.
        `weight-rank`          the weight has a rank for which there is no integer kernel.
        `bias-not-constant`    the bias is not one finite constant per channel.
        `unsupported-form`     a `Gemm` with transA, alpha or beta.
        `no-integer-kernel`    ONNX Runtime computes the operator in float only.
        `inside-subgraph`      the layer is in a branch, loop or function, which is not measured.
        `excluded`             the name matches `exclude`.
        `opset-too-old`        the model imports an opset below 13, and an operator in it would
                               change its meaning under 13.

    What it keeps
        Inputs and outputs of the model, which stay float, and every operator that it does not name.

    Cost
        Reads each weight once: time and memory O(weights), beside one run per sample to measure
        ranges. The file shrinks to about a quarter.

    Example
        before  (float[N,2] x) => (float[N,1] y) <float[2,1] w = {127.0, -3.0}>
                { y = MatMul(x, w) }
        after   (float[N,2] x) => (float[N,1] y)
                <float s = {0.03137255}, uint8 z = {127}, int8[2,1] w8 = {127, -3},
                 float[1] t = {1.0}, int8[1] o = {0}>
                { q = QuantizeLinear(x, s, z)
                  d = DequantizeLinear(q, s, z)
                  e = DequantizeLinear<axis = 1>(w8, t, o)
                  y = MatMul(d, e) }

    References
        ONNX `QuantizeLinear`, `DequantizeLinear` (opset 13). Jacob et al. 2018, sections 2.1 to
        2.4. Per-channel weights: Krishnamoorthi 2018, "Quantizing deep convolutional networks for
        efficient inference: A whitepaper", section 3.1.
    """

    name: ClassVar[str] = "quantize-static"
    contract: ClassVar[Contract] = Contract(numerics=Approximate(metric="sqnr_db"))

    activation_type: str | None = option(
        None, help="integer type of activations; the target's by default", choices=("u8", "s8")
    )
    weight_type: str | None = option(
        None, help="integer type of weights; the target's by default", choices=("u8", "s8")
    )
    symmetric: bool = option(False, help="activations have their zero point in the middle")
    per_channel: bool = option(True, help="one weight scale per output channel, not per tensor")
    reduce_range: bool = option(False, help="7-bit weights, for x86 processors without VNNI")
    method: str = option(
        "minmax",
        help="how ranges are taken from samples",
        choices=("minmax", "percentile", "entropy", "mse"),
    )
    percentile: float = option(
        99.99, help="values that `percentile` keeps", unit="percent", minimum=50.0, maximum=100.0
    )
    exclude: tuple[str, ...] = option((), help="nodes that stay in float", unit="name pattern")

    def needs(self, model: ir.Model) -> Needs:
        """Ask for the range of every value that would be quantized, and for the target."""
        if _obstacle(model) is not None:
            return Needs()
        names = {
            carried.like.name or "": None for carried in self._plan(model, frozenset()).carried
        }
        return Needs(ranges=tuple(names), range_method=self._method(), target=bool(names))

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Quantize every layer that allows it; refuse the others one by one."""
        if (obstacle := _obstacle(model)) is not None:
            _refuse_layers(model, edit, "opset-too-old", obstacle)
            return
        _refuse_layers(model, edit, "inside-subgraph", "its values cannot be measured")
        plan = self._measured_plan(model, facts.ranges)
        for node, refused in plan.refused:
            edit.refuse(node, refused.slug, why=refused.why)
        if plan.layers and opset_version(model) < _MINIMUM_OPSET:
            with edit.rewrite(model.graph, because="one scale per channel") as change:
                change.set_opset("", _MINIMUM_OPSET)
        _Quantizer(self, plan, edit, facts).run()

    def _method(self) -> RangeMethod:
        return RangeMethod(
            name=self.method,
            percentile=self.percentile,
            levels=_SYMMETRIC_LEVELS if self.symmetric else _LEVELS,
            symmetric=self.symmetric,
        )

    def _plan(self, model: ir.Model, without_range: frozenset[ir.Value]) -> IntegerPlan:
        return plan_integers(
            model.graph,
            is_excluded=lambda node: any(
                fnmatch.fnmatchcase(node.name or "", pattern) for pattern in self.exclude
            ),
            without_range=without_range,
            absorbs_limits=not self.symmetric,
        )

    def _measured_plan(self, model: ir.Model, ranges: Mapping[str, ValueRange]) -> IntegerPlan:
        """Return a plan that quantizes only values whose range is known and finite."""
        unknown: frozenset[ir.Value] = frozenset()
        while True:
            plan = self._plan(model, unknown)
            missing = {
                carried.like
                for carried in plan.carried
                if not _is_known(ranges.get(carried.like.name or ""))
            }
            if not missing:
                return plan
            unknown |= missing


def _obstacle(model: ir.Model) -> str | None:
    """Return why the model cannot hold quantized layers, or ``None``."""
    opset = opset_version(model)
    if opset >= _MINIMUM_OPSET:
        return None
    found = opset_obstacle(model, _MINIMUM_OPSET)
    return None if found is None else f"the model imports opset {opset}: {found}"


def _is_known(found: ValueRange | None) -> bool:
    if found is None or not np.isfinite([found.minimum, found.maximum]).all():
        return False
    # What was 0 in every sample has no scale: any other value that it takes later would be lost.
    return 0.0 < max(-found.minimum, found.maximum) < _LARGEST_VALUE


def _refuse_layers(model: ir.Model, edit: Editor, slug: str, why: str) -> None:
    """Refuse every layer, or, for ``inside-subgraph``, those that are not in the main graph."""
    for graph in graphs(model):
        if slug == "inside-subgraph" and graph is model.graph:
            continue
        for node in graph:
            if not node.domain and node.op_type in LAYER_OPERATORS:
                edit.refuse(node, slug, why=why)


class _Quantizer:
    """Carries out a plan; each of its rewrites leaves a valid model."""

    def __init__(
        self, options: QuantizeStatic, plan: IntegerPlan, edit: Editor, facts: Facts
    ) -> None:
        self._options = options
        self._plan = plan
        self._edit = edit
        self._weight_type = options.weight_type or facts.target.weight_type
        self._constants = QuantizedWeights(edit.model)
        kind = options.activation_type or facts.target.activation_type
        self._kind = kind
        self._parameters = {
            carried.value: _activation_parameters(
                facts.ranges[carried.like.name or ""], kind, symmetric=options.symmetric
            )
            for carried in plan.carried
        }

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
            if layer.bias_reader is not None:
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
            "QuantizeLinear", [carried.source, scale, zero_point], name=f"{name}_QuantizeLinear"
        )
        restored = change.node(
            "DequantizeLinear",
            [quantized, scale, zero_point],
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
        measured = ValueRange(float(array.min()), float(array.max()))
        parameters = _activation_parameters(measured, self._kind, symmetric=self._options.symmetric)
        name = f"{node.name}_operand_{index}"
        integers = self._constants.constant(
            change, node, quantize(array, parameters), f"{name}_quantized"
        )
        change.set_input(node, index, self._dequantized(change, integers, parameters, name, node))

    def _quantize_layer(
        self, change: Change, layer: Layer, input_scale: npt.NDArray[np.float32]
    ) -> None:
        axis = layer.axis if self._options.per_channel else None
        parameters = weight_parameters(
            layer.weight.array(),
            axis,
            self._weight_type,
            reduce_range=self._options.reduce_range,
        )
        if layer.bias is not None and layer.bias_reader is not None:
            parameters = widen_for_bias(parameters, layer.bias, float(input_scale))
            self._quantize_bias(change, layer, bias_parameters(parameters, input_scale))
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

    def _dequantized(
        self,
        change: Change,
        integers: ir.Value,
        parameters: QuantizationParameters,
        name: str,
        before: ir.Node,
    ) -> ir.Value:
        scale, zero_point = self._pair(change, parameters, name)
        return change.node(
            "DequantizeLinear",
            [integers, scale, zero_point],
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


def _activation_parameters(
    measured: ValueRange, kind: str, *, symmetric: bool
) -> QuantizationParameters:
    return parameters_from_range(measured.minimum, measured.maximum, kind, symmetric=symmetric)
