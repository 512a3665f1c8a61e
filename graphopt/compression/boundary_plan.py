"""Which values are quantized where the runtime looks at operands, or at every value.

TensorRT and OpenVINO compute an operator in integers if its operands are quantized, and find out by
themselves what follows from that; the Hexagon processor of Qualcomm's chips knows no floats at all.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.compression.integer_operators import (
    MOVING,
    is_limiter,
    operands,
    quantizable_constant,
)
from graphopt.compression.integer_plan import (
    Carried,
    ConstantOperand,
    IntegerPlan,
    PlanQuestion,
)
from graphopt.compression.static_layers import (
    LAYER_OPERATORS,
    Layer,
    LayerRefused,
    find_layer,
    sum_refusal,
)
from graphopt.compression.weight_source import reader_count
from graphopt.ir import constant_tensor

__all__ = ["plan_everything", "plan_operands"]

_ELEMENTWISE = frozenset({"Add", "Mul"})
# Constants of other operators say how they compute, and are no numbers that they compute with.
_WITH_CONSTANTS = frozenset(
    {"Add", "Concat", "Div", "Gather", "LayerNormalization", "Mul", "Pow", "Sub"}
)
_POOLING = frozenset({"AveragePool", "GlobalAveragePool"})


def plan_operands(question: PlanQuestion, *, all_sums: bool) -> IntegerPlan:
    """Quantize what layers, products of two activations and residual sums read.

    Args:
        question: The graph, and what is known of it.
        all_sums: Both operands of every ``Add`` and ``Mul`` behind quantized operators, and what
            is averaged, are quantized, too. Otherwise only the operand of a residual ``Add`` that
            no convolution computes for it alone: the other one is added within the convolution.
    """
    refusals: list[tuple[ir.Node, LayerRefused]] = []
    plan = IntegerPlan(layers=_layers(question, refusals), refused=refusals)
    wanted: dict[ir.Value, list[tuple[ir.Node, int]]] = {}
    layers = {layer.node: layer for layer in plan.layers}
    quantized: set[ir.Value] = set()
    for node in question.graph:
        indices = _quantized_operands(node, layers, quantized, all_sums=all_sums)
        if question.is_excluded(node) or not _have_range(node, indices, question):
            continue
        if node not in layers and not _are_floats(node, indices, question):
            continue
        for index in indices:
            value = node.inputs[index]
            assert value is not None
            wanted.setdefault(value, []).append((node, index))
        if indices:
            quantized.update(node.outputs)
    plan.carried = [
        Carried(value, value, value, None, tuple(readers)) for value, readers in wanted.items()
    ]
    return plan


def _layers(question: PlanQuestion, refusals: list[tuple[ir.Node, LayerRefused]]) -> list[Layer]:
    """Return the layers of a graph, transposed convolutions included."""
    found: list[Layer] = []
    for node in question.graph:
        if node.domain or node.op_type not in LAYER_OPERATORS:
            continue
        layer = _examine(node, question)
        if isinstance(layer, Layer):
            found.append(layer)
        elif not _multiplies_activations(node):
            refusals.append((node, layer))
    return found


def _examine(node: ir.Node, question: PlanQuestion) -> Layer | LayerRefused:
    if question.is_excluded(node):
        return LayerRefused("excluded", "by the options of the pass")
    layer = find_layer(node, with_transposed=True)
    if isinstance(layer, Layer) and question.is_signed_and_typed:
        layer = sum_refusal(layer, question.shapes) or layer
    if isinstance(layer, Layer) and layer.activation in question.without_range:
        why = f"`{layer.activation.name}` has no usable range, or was 0 in every sample"
        return LayerRefused("range-unknown", why)
    return layer


def _have_range(node: ir.Node, indices: tuple[int, ...], question: PlanQuestion) -> bool:
    return not any(node.inputs[index] in question.without_range for index in indices)


def _are_floats(node: ir.Node, indices: tuple[int, ...], question: PlanQuestion) -> bool:
    """Tell whether operands have 32 bits, as the weight says of what a layer reads."""
    values = [value for index in indices if (value := node.inputs[index]) is not None]
    return all(_is_float(value, question) for value in values)


def _multiplies_activations(node: ir.Node) -> bool:
    """Tell whether a ``MatMul`` has two operands that are computed at run time."""
    if node.domain or node.op_type != "MatMul":
        return False
    return all(value is not None and _is_computed(value) for value in node.inputs)


def _is_computed(value: ir.Value) -> bool:
    return constant_tensor(value) is None and (
        value.producer() is not None or (value.is_graph_input() and value.const_value is None)
    )


def _quantized_operands(
    node: ir.Node, layers: dict[ir.Node, Layer], quantized: set[ir.Value], *, all_sums: bool
) -> tuple[int, ...]:
    """Return the inputs of ``node`` that are quantized, apart from constant ones."""
    if node in layers:
        return (0,)
    if _multiplies_activations(node):
        return (0, 1)
    if node.domain or not all(value is not None and _is_computed(value) for value in node.inputs):
        return ()
    is_behind = any(_behind(value, quantized) for value in node.inputs if value is not None)
    if not all_sums:
        return _shortcut(node, layers)
    if is_behind and node.op_type in _ELEMENTWISE:
        return (0, 1)
    # ONNX Runtime's own kernel is wrong where a window reaches beyond the image.
    is_plain = node.op_type in _POOLING and not node.attributes.get_int("ceil_mode")
    return (0,) if is_behind and is_plain else ()


def _behind(value: ir.Value, quantized: set[ir.Value]) -> bool:
    producer = value.producer()
    if producer is not None and is_limiter(producer, producer.inputs[0] or value):
        return producer.inputs[0] in quantized
    return value in quantized


def _shortcut(node: ir.Node, layers: dict[ir.Node, Layer]) -> tuple[int, ...]:
    """Return the operand of a residual sum that no convolution computes for it alone."""
    if node.op_type != "Add":
        return ()
    alone = [
        index
        for index, value in enumerate(node.inputs)
        if value is not None
        and (producer := value.producer()) in layers
        and producer is not None
        and producer.op_type in ("Conv", "ConvTranspose")
        and len(tuple(value.uses())) == 1
    ]
    # Of two convolutions, the last one adds the other's result.
    return (1 - alone[-1],) if alone else ()


def plan_everything(question: PlanQuestion) -> IntegerPlan:
    """Quantize every float value, those at the boundary of the graph included.

    Where a size is not fixed nothing is quantized, and every layer is refused: the processor takes
    fixed sizes alone.
    """
    refusals: list[tuple[ir.Node, LayerRefused]] = []
    layers = [_without_sum(layer) for layer in _layers(question, refusals)]
    plan = IntegerPlan(layers=layers, refused=refusals)
    if (open_value := _value_without_size(question)) is not None:
        why = f"the size of `{open_value.name}` is not fixed"
        plan.refused += [(layer.node, LayerRefused("dynamic-shape", why)) for layer in plan.layers]
        plan.layers = []
        return plan
    nodes = {layer.node for layer in plan.layers}
    like: dict[ir.Value, ir.Value] = {}
    for value in question.graph.inputs:
        if value.const_value is None and tuple(value.uses()) and _is_float(value, question):
            like[value] = value
            readers = tuple(use for use in value.uses() if use[0].graph is question.graph)
            plan.carried.append(Carried(value, value, value, None, readers))
    for node in question.graph:
        if question.is_excluded(node):
            continue
        _carry_results(node, question, like, plan)
        if node not in nodes and node.op_type in _WITH_CONSTANTS and not node.domain:
            plan.constants += _constants(node, plan)
    for layer in plan.layers:
        if layer.activation not in like:  # computed by an operator that stays in float
            like[layer.activation] = layer.activation
            value = layer.activation
            plan.carried.append(Carried(value, value, value, None, ((layer.node, 0),)))
    return plan


def _without_sum(layer: Layer) -> Layer:
    """Leave the bias to the ``Add`` behind a ``MatMul``: its operands have one type there."""
    return replace(layer, bias=None, bias_reader=None) if layer.node.op_type == "MatMul" else layer


def _value_without_size(question: PlanQuestion) -> ir.Value | None:
    shapes = question.shapes
    if shapes is None:
        return None
    values = [*question.graph.inputs, *(value for node in question.graph for value in node.outputs)]
    for value in values:
        found = shapes.of(value)
        if found is not None and found.dtype == ir.DataType.FLOAT and not found.is_static():
            return value
    return None


def _is_float(value: ir.Value, question: PlanQuestion) -> bool:
    found = question.shapes.of(value) if question.shapes is not None else None
    if question.shapes is None:
        return value.dtype in (None, ir.DataType.FLOAT)
    return found is not None and found.dtype == ir.DataType.FLOAT


def _carry_results(
    node: ir.Node, question: PlanQuestion, like: dict[ir.Value, ir.Value], plan: IntegerPlan
) -> None:
    absorbed = {carried.limiter for carried in plan.carried if carried.limiter is not None}
    if node in absorbed or node.op_type == "Constant":
        return
    for output in node.outputs:
        source, limiter = output, None
        result = output
        readers = {user for user, _ in output.uses()}
        if question.absorbs_limits and len(readers) == 1 and not output.is_graph_output():
            (reader,) = readers
            is_beside = reader.graph is question.graph
            if is_beside and node.op_type not in MOVING and is_limiter(reader, output):
                result, limiter = reader.outputs[0], reader
        if result in question.without_range or not _is_float(result, question):
            continue
        first = operands(node)[0] if node.op_type in MOVING and operands(node) else None
        like[result] = like.get(first, result) if first is not None else result
        plan.carried.append(Carried(result, like[result], source, limiter, None))


def _constants(node: ir.Node, plan: IntegerPlan) -> list[ConstantOperand]:
    biases = {layer.bias_reader for layer in plan.layers if layer.bias_reader is not None}
    found: list[ConstantOperand] = []
    for index, value in enumerate(node.inputs):
        if value is None or (node, index) in biases:
            continue
        array = _table(node, index) if node.op_type == "Gather" else quantizable_constant(value)
        if array is not None:
            found.append((node, index, array))
    return found


def _table(node: ir.Node, index: int) -> npt.NDArray[np.float32] | None:
    """Return the table whose rows a ``Gather`` alone reads, whatever its size."""
    value = node.inputs[index]
    tensor = constant_tensor(value)
    if index or value is None or tensor is None or tensor.dtype != ir.DataType.FLOAT:
        return None
    if reader_count(value) > 1:
        return None  # it would be there twice
    array: npt.NDArray[np.float32] = tensor.numpy()
    return array if array.size and np.isfinite(array).all() else None
