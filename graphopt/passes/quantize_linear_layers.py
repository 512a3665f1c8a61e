"""Static 8-bit quantization of linear layers whose inputs have outlier channels."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis.contrib import CPU_PROVIDER, import_contrib
from graphopt.compression import (
    QuantizedWeights,
    parameters_from_range,
    remove_unread,
)
from graphopt.compression.compensated_rounding import Compensation
from graphopt.compression.integer_products import (
    LayerGroup,
    RoundedLayer,
    twofold,
    write_group,
)
from graphopt.compression.layer_rounding import compensations
from graphopt.compression.spread_columns import (
    choose_spread,
    rounding_sqnr_db,
    spread_weight,
)
from graphopt.compression.static_layers import Layer, LayerRefused, find_layer
from graphopt.compression.twofold_choice import choose_twofold
from graphopt.compression.weight_source import reader_count
from graphopt.compression.quantization import LARGEST_VALUE, SMALLEST_VALUE
from graphopt.ir import graphs, opset_version
from graphopt.rewrite import (
    Approximate,
    Contract,
    Editor,
    Facts,
    Needs,
    Pass,
    RangeMethod,
    option,
)

__all__ = ["QuantizeLinearLayers"]

_OPERATORS = frozenset({"MatMul", "Gemm"})
_MINIMUM_OPSET = 11  # Gather and Concat count axes from the end


@dataclass(frozen=True, kw_only=True)
class QuantizeLinearLayers(Pass):
    """Compute linear layers in 8-bit integers, outlier channels spread over extra columns.

    What it does
        `MatMul` and `Gemm` with a constant weight become `QuantizeLinear`, with a range measured
        on samples, and ONNX Runtime's `MatMulIntegerToFloat`, which adds the bias too. Channels
        of the activation that are far larger than the others, as trained transformers have them,
        are set apart, so that the step of all others becomes as small as if there were none.
        Where one layer reads them and its result is no wider than its input, they are multiplied
        in float and added. Elsewhere they are divided among up to `columns` extra columns, which
        hardly makes the product slower. Layers that read one activation share its quantization.
        Activations named by `twofold`, or worth `twofold_price_db` when each is rounded alone and
        the outputs are compared, are held in two integers per element, which are as precise as
        one of 16 bits, and multiplied twice: at most `twofold_share` of all products.
        What rounding the weights does to the mean of each output goes into the bias; with
        `rounding=compensated` each row of a weight makes up for the errors of those before it.

    When it refuses
        `weight-not-constant`  the layer has no constant weight.
        `weight-overridable`   the weight is also an input of the model.
        `already-quantized`    the weight comes from integers, or the layer multiplies outliers
                               that were set apart before.
        `not-float32`          the weight has another type.
        `weight-not-finite`    the weight holds NaN or infinity.
        `weight-rank`          the weight is not a matrix.
        `weight-shared`        something else reads the weight, and would keep a copy of it.
        `bias-not-constant`    the bias of a `Gemm` is not one finite constant per output.
        `unsupported-form`     a `Gemm` with transA, alpha or beta; an activation that may be a
                               vector.
        `range-unknown`        the activation has no finite range, or was 0 in every sample, or as good
                               as (1e-13).
        `too-small`            the weight has fewer than `minimum_elements`.
        `inside-subgraph`      the layer is in a branch, loop or function, which is not measured.
        `excluded`             the name matches `exclude`.
        `opset-too-old`        the model imports an opset below 11.
        `not-cpu`              the target runs on another provider, which has no such operator.

    What it keeps
        Inputs and outputs of the model, which stay float, and every operator that it does not name.

    Cost
        Reads each weight once: time and memory O(weights), beside one run per sample to measure
        ranges. `rounding=compensated` takes O(inputs^3) for each activation, and `twofold_price_db`
        2 to 8 runs. The file shrinks to about a quarter.

    Example
        options {minimum_elements=1}
        before  (float[N,2] x) => (float[N,1] y) <float[2,1] w = {127.0, -3.0}>
                { y = MatMul(x, w) }
        after   <ir_version: 10, opset_import: ["" : 20, "com.microsoft" : 1]>
                g (float[N,2] x) => (float[N,1] y)
                <float s = {0.03137255}, uint8 z = {127}, int8[2,1] w8 = {127, -3},
                 float[1] t = {1.0}, int8[1] o = {0}, float[1] b = {0.0}>
                { q = QuantizeLinear(x, s, z)
                  y = com.microsoft.MatMulIntegerToFloat(q, w8, s, t, z, o, b) }

    References
        Outliers: Dettmers et al. 2022, "LLM.int8()", section 3.2. Copies: Zhao et al. 2019,
        "Improving neural network quantization without retraining using outlier channel
        splitting", section 3.2. Means: Nagel et al. 2019, "Data-free quantization through weight
        equalization and bias correction", section 4.2. Rounding: Frantar et al. 2023, "GPTQ",
        section 3. ONNX `QuantizeLinear` (opset 10); ONNX
        Runtime contrib operator `MatMulIntegerToFloat`.
    """

    name: ClassVar[str] = "quantize-linear-layers"
    contract: ClassVar[Contract] = Contract(numerics=Approximate(metric="sqnr_db"))

    columns: int = option(
        32, help="most columns for outlier channels; 0 sets none apart", unit="columns", minimum=0
    )
    column_price_db: float = option(
        0.17,
        help="by how much each column must lower the error of rounding the activation",
        unit="dB",
        minimum=0.0,
    )
    enough_db: float = option(
        33.5,
        help="activations that are this precise in 8 bits need nothing apart",
        unit="dB",
        minimum=0.0,
    )
    method: str = option(
        "mse",
        help="how ranges are taken where nothing is set apart",
        choices=("minmax", "percentile", "entropy", "mse"),
    )
    correct_bias: bool = option(True, help="the bias makes up for what rounding does to means")
    rounding: str = option(
        "nearest",
        help="of weights: `compensated` lets each row make up for the errors of those before it",
        choices=("nearest", "compensated"),
    )
    reduce_range: bool = option(False, help="7-bit weights, for x86 processors without VNNI")
    reduce_range_layers: tuple[str, ...] = option(
        (), help="layers with 7-bit weights", unit="name pattern"
    )
    twofold: tuple[str, ...] = option(
        (), help="layers that read their activation in two integers", unit="name pattern"
    )
    twofold_price_db: float | None = option(
        None,
        help="those too where it lowers the outputs' error by so much for a tenth of all products",
        unit="dB",
        minimum=0.0,
    )
    twofold_share: float = option(
        0.34,
        help="most products that `twofold_price_db` lets be done twice",
        unit="share of all products",
        minimum=0.0,
        maximum=1.0,
    )
    minimum_elements: int = option(
        1024, help="smaller weights stay in float", unit="elements", minimum=1
    )
    exclude: tuple[str, ...] = option((), help="nodes that stay in float", unit="name pattern")

    def needs(self, model: ir.Model) -> Needs:
        """Ask for the range and the moments of what each layer reads, for shapes and the target."""
        names = {
            layer.activation.name or "": None
            for node in model.graph
            if isinstance(layer := self._examine(node, model), Layer)
        }
        values = tuple(names)
        is_needed = bool(values)
        return Needs(
            ranges=values,
            range_method=RangeMethod(name=self.method),
            moments=values,
            shapes=is_needed,
            target=is_needed,
            samples=is_needed and self._is_measuring(),
        )

    def _is_measuring(self) -> bool:
        return self.twofold_price_db is not None or self.rounding == "compensated"

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Quantize every layer that allows it; refuse the others one by one."""
        found: dict[ir.Value, list[Layer]] = {}
        for graph in graphs(model):
            for node in graph:
                if node.domain or node.op_type not in _OPERATORS:
                    continue
                layer = self._examine(node, model)
                if isinstance(layer, Layer):
                    layer = _measured_refusal(layer, facts) or layer
                if isinstance(layer, LayerRefused):
                    edit.refuse(node, layer.slug, why=layer.why)
                elif layer is not None:
                    found.setdefault(layer.activation, []).append(layer)
        constants = QuantizedWeights(model)
        operands = [value for layers in found.values() for value in _constants(layers)]
        groups = [self._group(layers, facts) for layers in found.values()]
        weights = self._all_rounded(model, groups, facts)
        chosen = self._with_twofold(model, groups, weights, facts)
        # Those that lost their columns for outliers hold other integers.
        pairs = zip(chosen, groups, strict=True)
        changed = [one for one, before in pairs if one.spread.columns != before.spread.columns]
        weights |= self._all_rounded(model, changed, facts)
        for group in chosen:
            with edit.rewrite(group.layers[0].node, because=_reason(group)) as change:
                import_contrib(model, change)
                write_group(change, constants, group, weights, facts.target.activation_type)
        remove_unread(model, edit, operands)

    def _all_rounded(
        self, model: ir.Model, groups: list[LayerGroup], facts: Facts
    ) -> dict[ir.Node, RoundedLayer]:
        """Return the weight of each layer in integers, by its node."""
        found: Iterable[tuple[LayerGroup, Compensation | None]]
        found = ((group, None) for group in groups)
        if self.rounding == "compensated" and facts.measure is not None:
            found = compensations(model, facts.measure, groups)
        return {
            layer.node: self._rounded(layer, group, facts.target.weight_type, compensation)
            for group, compensation in found
            for layer in group.layers
        }

    def _with_twofold(
        self,
        model: ir.Model,
        groups: list[LayerGroup],
        weights: Mapping[ir.Node, RoundedLayer],
        facts: Facts,
    ) -> list[LayerGroup]:
        """Hold some activations in two integers: those that are named, or are worth it."""
        kind, found = facts.target.activation_type, groups
        if self.twofold_price_db is not None and facts.measure is not None and groups:
            found = choose_twofold(
                model,
                facts.measure,
                groups,
                lambda layer: weights[layer.node].weight.effective,
                facts.moments,
                price_db=self.twofold_price_db,
                share=self.twofold_share,
                kind=kind,
            )
        return [
            twofold(group, facts.moments[group.activation.name or ""], kind)
            if any(_matches(layer.node, self.twofold) for layer in group.layers)
            else group
            for group in found
        ]

    def _examine(self, node: ir.Node, model: ir.Model) -> Layer | LayerRefused | None:
        """Return the layer that ``node`` is; ``None`` where it is of another kind."""
        if node.domain or node.op_type not in _OPERATORS:
            return None
        refused = self._choice_refusal(node, model)
        layer = find_layer(node) if refused is None else refused
        if isinstance(layer, LayerRefused):
            return layer
        if layer.weight.tensor.size < self.minimum_elements:
            return LayerRefused("too-small", f"{layer.weight.tensor.size} elements")
        if reader_count(layer.weight.origin) > 1:
            return LayerRefused("weight-shared", f"`{layer.weight.origin.name}` has other readers")
        return layer

    def _choice_refusal(self, node: ir.Node, model: ir.Model) -> LayerRefused | None:
        if _matches(node, self.exclude):
            return LayerRefused("excluded", "by the options of the pass")
        if node.graph is not model.graph:
            return LayerRefused("inside-subgraph", "its values cannot be measured")
        if opset_version(model) < _MINIMUM_OPSET:
            return LayerRefused("opset-too-old", f"the model imports {opset_version(model)}")
        return None

    def _group(self, layers: list[Layer], facts: Facts) -> LayerGroup:
        name = layers[0].activation.name or ""
        moments, span, kind = facts.moments[name], facts.ranges[name], facts.target.activation_type
        low, high = span.minimum, span.maximum
        if self.method != "minmax":  # outliers are what other methods leave out
            low, high = (
                float(limit) for limit in (moments.limits[0].min(), moments.limits[1].max())
            )
        plain = parameters_from_range(low, high, kind)
        is_enough = rounding_sqnr_db(plain, float(moments.second.mean())) >= self.enough_db
        # An addition to the whole result costs more than copies unless that is narrow.
        weight = layers[0].weight
        is_narrow = weight.shape[layers[0].axis] <= weight.shape[_inputs(layers[0])]
        spread = choose_spread(
            moments.largest,
            low,
            high,
            kind=kind,
            columns=0 if is_enough else self.columns,
            column_price_db=self.column_price_db,
            is_apart=len(layers) == 1 and is_narrow,
        )
        if not spread.columns:
            chosen = parameters_from_range(span.minimum, span.maximum, kind)
            spread = replace(spread, parameters=chosen)
        return LayerGroup(tuple(layers), spread, moments.mean)

    def _rounded(
        self, layer: Layer, group: LayerGroup, kind: str, compensation: Compensation | None
    ) -> RoundedLayer:
        """Return the weight of a layer in integers, and a bias that makes up for their means."""
        source = layer.weight.transposed() if _inputs(layer) == 1 else layer.weight
        weight = source.array()
        is_reduced = self.reduce_range or _matches(layer.node, self.reduce_range_layers)
        rounded = spread_weight(
            weight, kind, group.spread, reduce_range=is_reduced, compensation=compensation
        )
        bias = np.zeros(weight.shape[1]) if layer.bias is None else layer.bias.astype(np.float64)
        if self.correct_bias:
            bias = bias + group.mean @ (weight.astype(np.float64) - rounded.effective)
        return RoundedLayer(rounded, bias.astype(np.float32))


def _matches(node: ir.Node, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(node.name or "", pattern) for pattern in patterns)


def _reason(group: LayerGroup) -> str:
    if group.is_twofold:
        return "8-bit weights, the activation in two integers of 8 bits"
    return f"8-bit integers, {group.spread.columns} columns for outliers"


def _measured_refusal(layer: Layer, facts: Facts) -> LayerRefused | None:
    """Return why a layer stays in float for what is known of its input and the target."""
    if facts.target.provider != CPU_PROVIDER:
        return LayerRefused("not-cpu", f"the target runs on {facts.target.provider}")
    name = layer.activation.name or ""
    shape, span = facts.shapes.of(layer.activation), facts.ranges.get(name)
    if shape is None or shape.dims is None or len(shape.dims) < 2:  # noqa: PLR2004 - a matrix
        return LayerRefused("unsupported-form", f"`{name}` may be a vector")
    if span is None or not np.isfinite([span.minimum, span.maximum]).all():
        return LayerRefused("range-unknown", f"`{name}` has no finite range")
    largest = max(-span.minimum, span.maximum)
    if not SMALLEST_VALUE < largest < LARGEST_VALUE:
        why = "was 0 in every sample, or nearly" if largest < 1.0 else "reaches 1e30"
        return LayerRefused("range-unknown", f"`{name}` {why}")
    moments = facts.moments.get(name)
    if moments is None or not moments.is_finite:
        return LayerRefused("range-unknown", f"`{name}` was not measured by channel")
    return None


def _inputs(layer: Layer) -> int:
    """Return the axis of the input channels in the weight."""
    return 1 - layer.axis


def _constants(layers: Iterable[Layer]) -> list[ir.Value]:
    """Return what the layers read and nobody may read any more."""
    read = [layer.node.inputs[1] for layer in layers]
    read += [
        layer.bias_reader[0].inputs[layer.bias_reader[1]]
        for layer in layers
        if layer.bias_reader is not None
    ]
    return [value for value in read if value is not None]
