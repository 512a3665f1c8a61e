"""Dynamic 8-bit quantization of linear layers and embedding tables."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import numpy as np
import onnx_ir as ir

from graphopt.analysis import Operators
from graphopt.analysis.contrib import CPU_PROVIDER
from graphopt.compression import (
    NoWeight,
    QuantizationParameters,
    QuantizedWeights,
    WeightSource,
    remove_unread,
    trace_weight,
    weight_parameters,
)
from graphopt.compression.integer_layers import is_outlier_product
from graphopt.compression.recurrent_layers import (
    RecurrentLayer,
    find_recurrent,
    quantize_recurrent,
)
from graphopt.ir import graphs, opset_version
from graphopt.rewrite import (
    Approximate,
    Change,
    Contract,
    Editor,
    Facts,
    Pass,
    TargetFacts,
    option,
)

__all__ = ["QuantizeDynamic"]

_OPERATORS = ("MatMul", "Gemm", "Gather", "Conv")
_RECURRENT = ("LSTM", "GRU", "RNN")
# Times `minimum_elements`: quantizing what enters and what is fed back, at every step, takes as
# long as the products of a small layer.
_RECURRENT_FACTOR = 256
_MINIMUM_OPSET = 11  # DynamicQuantizeLinear
_MATRIX_RANK = 2
_SHORTEST_ROW = 8  # below, the scale of a row outweighs what its integers save


class _Refused(NamedTuple):
    slug: str
    why: str


class _Layer(NamedTuple):
    node: ir.Node
    weight: WeightSource
    parameters: QuantizationParameters


@dataclass(frozen=True, kw_only=True)
class QuantizeDynamic(Pass):
    """Store constant weights in 8 bits, and quantize activations as they come.

    What it does
        `MatMul` and `Gemm` with a constant right operand become `DynamicQuantizeLinear` (unsigned
        8 bits, one range per run) and `MatMulInteger` with signed symmetric weights, one scale
        per output column, followed by the scaling that ONNX Runtime fuses into
        `MatMulIntegerToFloat` together with a bias. Operators that read one activation share its
        quantization. A `Gather` from a constant table reads 8-bit rows and one scale per row; a
        table that is also the weight of an output layer is stored once. A large `LSTM` becomes
        `DynamicQuantizeLSTM`, an operator of ONNX Runtime's CPU provider. Layers in branches, loop
        bodies and functions are treated like all others; with `inside` they are there whatever
        `ops` says, for passes that measure values leave them in float.

    When it refuses
        `conv-not-dynamic`     a convolution is slower this way than in float.
        `no-integer-kernel`    a recurrent layer that ONNX Runtime computes in float only: `GRU`,
                               `RNN`, an `LSTM` whose batch comes first, in a function, or on
                               another provider.
        `weight-not-constant`  there is no constant operand on the right, or no constant table.
        `weight-overridable`   the weight is also an input of the model.
        `already-quantized`    the weight comes from integers, or the rest of the product does:
                               outlier channels that another pass set apart.
        `not-float32`          the weight has another type.
        `weight-not-finite`    the weight holds NaN or infinity.
        `weight-rank`          the weight is not a matrix, the table not a list of rows.
        `too-small`            it has fewer than `minimum_elements` (256 times as many for a
                               recurrent layer), or its rows are too short.
        `unsupported-form`     a transposed activation, or a table gathered along another axis.
        `excluded`             the name matches `exclude`, or the operator is not in `ops`.
        `opset-too-old`        the model imports an opset below 11.

    What it keeps
        Inputs and outputs of the model, biases, and every operator that it does not name.

    Cost
        Reads each weight once: time and memory O(weights). The file shrinks to about a quarter.

    Example
        options {minimum_elements=1}
        before  (float[N,2] x) => (float[N,2] y) <float[2,2] w = {127.0, 64.0, -3.0, -254.0}>
                { y = MatMul(x, w) }
        after   (float[N,2] x) => (float[N,2] y)
                <int8[2,2] w8 = {127, 32, -3, -127}, float[2] w_scale = {1.0, 2.0}>
                { q, x_scale, zero = DynamicQuantizeLinear(x)
                  i = MatMulInteger(q, w8, zero)
                  f = Cast<to = 1>(i)
                  scale = Mul(x_scale, w_scale)
                  y = Mul(f, scale) }

    References
        ONNX `DynamicQuantizeLinear` (opset 11), `MatMulInteger` (opset 10); ONNX Runtime contrib
        operator `DynamicQuantizeLSTM`. Jacob et al. 2018,
        section 2. Symmetric weights: Krishnamoorthi 2018, "Quantizing deep convolutional networks
        for efficient inference: A whitepaper", section 3.1.
    """

    name: ClassVar[str] = "quantize-dynamic"
    contract: ClassVar[Contract] = Contract(numerics=Approximate(metric="sqnr_db"))

    ops: tuple[str, ...] = option(
        ("MatMul", "Gemm", "Gather", "LSTM"),
        help="operators to quantize",
        unit="op_type",
        choices=("MatMul", "Gemm", "Gather", "LSTM"),
    )
    inside: bool = option(
        False, help="in branches, loop bodies and functions all operators, also those not in `ops`"
    )
    per_channel: bool = option(True, help="one scale per output column or row, not per tensor")
    reduce_range: bool = option(False, help="7-bit weights, for x86 processors without VNNI")
    reduce_range_layers: tuple[str, ...] = option(
        (), help="layers with 7-bit weights", unit="name pattern"
    )
    minimum_elements: int = option(
        1024, help="smaller weights stay in float", unit="elements", minimum=1
    )
    exclude: tuple[str, ...] = option((), help="nodes to leave alone", unit="name pattern")

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Quantize every layer and table that allows it; refuse the others one by one."""
        weights = QuantizedWeights(model)
        recurrent = self._recurrent(model, edit, facts.target)
        layers = self._layers(model, edit)
        tables = {layer.weight.origin for layer in layers if layer.node.op_type == "Gather"}
        operands = [layer.node.inputs[_weight_index(layer.node)] for layer in layers]
        for group in _by_activation(layers):
            if group[0].node.op_type == "Gather":
                with edit.rewrite(group[0].node, because="8-bit table") as change:
                    _quantize_table(change, weights, group[0])
            else:
                with edit.rewrite(group[0].node, because="8-bit weights and activations") as change:
                    _quantize_group(change, weights, group, tables)
        for layer in recurrent:
            is_reduced = self.reduce_range or _matches(layer.node, self.reduce_range_layers)
            operands += layer.node.inputs[1:3]
            with edit.rewrite(layer.node, because="8-bit weights and activations") as change:
                quantize_recurrent(change, weights, layer, reduce_range=is_reduced)
        remove_unread(model, edit, [value for value in operands if value is not None])

    def _recurrent(
        self, model: ir.Model, edit: Editor, target: TargetFacts
    ) -> list[RecurrentLayer]:
        operators, found = Operators(model), list[RecurrentLayer]()
        for graph in graphs(model):
            for node in graph:
                if node.domain or node.op_type not in _RECURRENT:
                    continue
                layer = self._examine_recurrent(
                    node,
                    target,
                    is_wanted=self._is_wanted(node, model),
                    is_apart=operators.is_in_function(graph),
                )
                if isinstance(layer, RecurrentLayer):
                    found.append(layer)
                else:
                    edit.refuse(node, layer.slug, why=layer.why)
        return found

    def _examine_recurrent(
        self, node: ir.Node, target: TargetFacts, *, is_wanted: bool, is_apart: bool
    ) -> RecurrentLayer | _Refused:
        if node.op_type == "LSTM" and not is_wanted:
            return _Refused("excluded", "by the options of the pass")
        if target.provider != CPU_PROVIDER:
            return _Refused("no-integer-kernel", f"{target.provider} has none")
        if is_apart:
            return _Refused("no-integer-kernel", "functions keep to standard operators")
        layer = find_recurrent(node)
        if isinstance(layer, NoWeight):
            return _Refused(layer.slug, layer.why)
        if layer.elements < self.minimum_elements * _RECURRENT_FACTOR:
            return _Refused("too-small", f"{layer.elements} elements: as fast in float")
        return layer

    def _layers(self, model: ir.Model, edit: Editor) -> list[_Layer]:
        opset = opset_version(model)
        found: list[_Layer] = []
        for graph in graphs(model):
            for node in graph:
                if node.domain or node.op_type not in _OPERATORS:
                    continue
                layer = self._examine(node, opset, is_wanted=self._is_wanted(node, model))
                if isinstance(layer, _Refused):
                    edit.refuse(node, layer.slug, why=layer.why)
                else:
                    found.append(layer)
        return found

    def _is_wanted(self, node: ir.Node, model: ir.Model) -> bool:
        is_chosen = node.op_type in self.ops or (self.inside and node.graph is not model.graph)
        return is_chosen and not _matches(node, self.exclude)

    def _examine(self, node: ir.Node, opset: int, *, is_wanted: bool) -> _Layer | _Refused:
        """Return the layer with its parameters, or why it stays in float."""
        if (refused := self._choice_refusal(node, opset, is_wanted=is_wanted)) is not None:
            return refused
        weight = trace_weight(node.inputs[_weight_index(node)])
        if isinstance(weight, NoWeight):
            return _Refused(weight.slug, weight.why)
        if is_outlier_product(node):
            return _Refused("already-quantized", "the rest of this product is in integers")
        if (refused := self._form_refusal(node, weight)) is not None:
            return refused
        is_table = node.op_type == "Gather"
        if node.op_type == "Gemm" and _integer(node, "transB"):
            weight = weight.transposed()
        axis = (0 if is_table else 1) if self.per_channel else None
        is_reduced = self.reduce_range or _matches(node, self.reduce_range_layers)
        try:
            parameters = weight_parameters(
                weight.array(), axis, reduce_range=is_reduced and not is_table
            )
        except ValueError as error:
            return _Refused("weight-not-finite", str(error))
        return _Layer(node, weight, parameters)

    def _choice_refusal(self, node: ir.Node, opset: int, *, is_wanted: bool) -> _Refused | None:
        if node.op_type == "Conv":
            return _Refused("conv-not-dynamic", "quantize-static is the pass for convolutions")
        if not is_wanted:
            return _Refused("excluded", "by the options of the pass")
        if opset < _MINIMUM_OPSET:
            return _Refused("opset-too-old", f"the model imports opset {opset}")
        return None

    def _form_refusal(self, node: ir.Node, weight: WeightSource) -> _Refused | None:
        rank, is_table = len(weight.shape), node.op_type == "Gather"
        if rank < _MATRIX_RANK or (rank > _MATRIX_RANK and not is_table):
            return _Refused("weight-rank", f"the weight has rank {rank}")
        if weight.tensor.size < self.minimum_elements:
            return _Refused("too-small", f"{weight.tensor.size} elements")
        if is_table:
            row = weight.tensor.size // max(weight.shape[0], 1)
            if row < _SHORTEST_ROW:
                return _Refused("too-small", f"rows of {row} elements")
            if _integer(node, "axis") not in (0, -rank):
                return _Refused("unsupported-form", "gathered along another axis than the first")
        if node.op_type == "Gemm" and _integer(node, "transA"):
            return _Refused("unsupported-form", "the activation is transposed")
        return None


def _integer(node: ir.Node, attribute: str) -> int:
    found = node.attributes.get_int(attribute)
    return found or 0


def _weight_index(node: ir.Node) -> int:
    return 0 if node.op_type == "Gather" else 1


def _by_activation(layers: Iterable[_Layer]) -> list[list[_Layer]]:
    """Group layers that read one activation in one graph; each table is a group of its own."""
    groups: dict[object, list[_Layer]] = {}
    for layer in layers:
        is_table = layer.node.op_type == "Gather"
        key = layer.node if is_table else (layer.node.inputs[0], layer.node.graph)
        groups.setdefault(key, []).append(layer)
    return list(groups.values())


def _quantize_table(change: Change, weights: QuantizedWeights, table: _Layer) -> None:
    """Gather integers and scales, then multiply: no float copy of the table ever exists."""
    node, indices = table.node, table.node.inputs[1]
    prefix, result = node.name or "Gather", node.outputs[0]
    rows = weights.integers(change, node, table.weight, table.parameters)
    gathered = change.node("Gather", [rows, indices], name=f"{prefix}_quantized")
    gathered_float = change.node(
        "Cast", [gathered], attributes={"to": ir.DataType.FLOAT}, name=f"{prefix}_cast"
    )
    scale = table.parameters.shaped_for(len(table.weight.shape))[0]
    factor = weights.constant(change, node, scale, f"{table.weight.origin.name}_scale")
    if table.parameters.axis is not None:
        factor = change.node("Gather", [factor, indices], name=f"{prefix}_scale")
    rescaled = change.node("Mul", [gathered_float, factor], name=f"{prefix}_rescaled", like=result)
    change.replace(result, rescaled)
    change.remove(node)


def _quantize_group(
    change: Change, weights: QuantizedWeights, group: list[_Layer], tables: set[ir.Value]
) -> None:
    activation = group[0].node.inputs[0]
    assert activation is not None
    quantized = change.multi_output_node(
        "DynamicQuantizeLinear", [activation], 3, name=f"{activation.name}_quantized"
    )
    for layer in group:
        node, result = layer.node, layer.node.outputs[0]
        if layer.weight.origin in tables:
            integers = _transposed_table(change, weights, layer)
        else:
            integers = weights.integers(change, node, layer.weight, layer.parameters)
        output = _product(change, weights, layer, quantized, integers)
        if node.op_type == "Gemm":
            output = _plus_bias(change, weights, node, output)
        change.replace(result, output)
        change.remove(node)


def _product(
    change: Change,
    weights: QuantizedWeights,
    layer: _Layer,
    quantized: tuple[ir.Value, ...],
    integers: ir.Value,
) -> ir.Value:
    """Multiply integers and scale the sums, in the form that the runtime fuses."""
    node, (values, value_scale, zero_point) = layer.node, quantized
    prefix = node.name or node.op_type
    alpha = np.float32(node.attributes.get_float("alpha", 1.0))
    combined = np.asarray(layer.parameters.scale * alpha, np.float32)
    scale = weights.constant(change, node, combined, f"{layer.weight.origin.name}_scale")
    sums = change.node(
        "MatMulInteger", [values, integers, zero_point], name=f"{prefix}_quantized", before=node
    )
    sums_float = change.node(
        "Cast",
        [sums],
        attributes={"to": ir.DataType.FLOAT},
        name=f"{prefix}_cast",
        before=node,
    )
    factor = change.node("Mul", [value_scale, scale], name=f"{prefix}_scale", before=node)
    return change.node(
        "Mul", [sums_float, factor], name=f"{prefix}_rescaled", like=node.outputs[0], before=node
    )


def _transposed_table(change: Change, weights: QuantizedWeights, layer: _Layer) -> ir.Value:
    """Read the weight of an output layer from the embedding table that it is tied to.

    The runtime folds the transposition when it loads the model; the file holds one copy.
    """
    parameters = layer.parameters
    if not layer.weight.is_reordered:
        return weights.integers(change, layer.node, layer.weight, parameters)
    if parameters.axis is not None:
        parameters = replace(parameters, axis=0)
    rows = weights.integers(change, layer.node, layer.weight.transposed(), parameters)
    return change.node(
        "Transpose",
        [rows],
        attributes={"perm": [1, 0]},
        name=f"{layer.weight.origin.name}_transposed",
        before=layer.node,
    )


def _plus_bias(
    change: Change, weights: QuantizedWeights, node: ir.Node, product: ir.Value
) -> ir.Value:
    prefix, bias = node.name or node.op_type, next(iter(node.inputs[2:]), None)
    if bias is None:
        return product
    beta = node.attributes.get_float("beta", 1.0)
    if beta != 1.0:
        factor = weights.constant(change, node, np.array(beta, np.float32), f"{prefix}_beta")
        bias = change.node("Mul", [bias, factor], name=f"{prefix}_bias", before=node)
    return change.node(
        "Add", [product, bias], name=f"{prefix}_biased", like=node.outputs[0], before=node
    )


def _matches(node: ir.Node, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(node.name or "", pattern) for pattern in patterns)
