"""Which values of a graph are carried as integers under static quantization.

Convolutions and linear layers decide. A value that a layer reads is quantized anyway, so that an
operator between two layers computes in integers if all it reads is quantized and somebody wants
its result so; every other operator stays in float. ONNX Runtime finds its integer kernels by the
``QuantizeLinear`` behind, and the ``DequantizeLinear`` before, each operator.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.compression.static_layers import LAYER_OPERATORS, Layer, LayerRefused, find_layer
from graphopt.ir import constant_array, constant_tensor

__all__ = ["Carried", "IntegerPlan", "plan_integers"]

# Their result has a range of its own. Kernels: QLinearAdd, QLinearMul, QLinearConcat, ...
_COMPUTING = frozenset(
    {"Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "LeakyRelu", "Sigmoid"}
)
# Their result holds only values that they read: it keeps scale and zero point.
_MOVING = frozenset(
    {
        "MaxPool",
        "Reshape",
        "Transpose",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "Slice",
        "Split",
        "Resize",
    }
)
_LIMITING = frozenset({"Relu", "Clip"})
_LARGEST_CONSTANT = 1 << 20


@dataclass(frozen=True)
class Carried:
    """A value that travels through a quantizer.

    Attributes:
        value: The value.
        like: The value whose range gives the parameters; another one behind operators that only
            move elements.
        source: What the quantizer reads: `value`, or what the limiting operator behind it reads.
        limiter: A ``Relu`` or ``Clip`` that the saturation of the quantizer stands for.
        readers: Who reads the quantized value, node and input; ``None`` for everybody.
    """

    value: ir.Value
    like: ir.Value
    source: ir.Value
    limiter: ir.Node | None
    readers: tuple[tuple[ir.Node, int], ...] | None


@dataclass
class IntegerPlan:
    """What static quantization does to one graph.

    Attributes:
        layers: Layers that compute in integers.
        carried: Quantized values, in the order in which they are computed.
        constants: Constant operands of integer operators: node, input, array.
        refused: Layers that stay in float, and why.
    """

    layers: list[Layer] = field(default_factory=list)
    carried: list[Carried] = field(default_factory=list)
    constants: list[tuple[ir.Node, int, npt.NDArray[np.float32]]] = field(default_factory=list)
    refused: list[tuple[ir.Node, LayerRefused]] = field(default_factory=list)


def plan_integers(
    graph: ir.Graph,
    *,
    is_excluded: Callable[[ir.Node], bool],
    without_range: frozenset[ir.Value] = frozenset(),
    absorbs_limits: bool = True,
) -> IntegerPlan:
    """Decide which values of ``graph`` are carried as integers; nothing is changed.

    Args:
        graph: The main graph of a model.
        is_excluded: Tells which nodes stay in float.
        without_range: Values that cannot be quantized because their range is not known.
        absorbs_limits: A ``Relu`` or ``Clip`` behind an integer operator becomes the saturation
            of its quantizer. False where the zero point is fixed, since the integers then reach
            below 0.
    """
    return _Planner(graph, is_excluded, without_range, absorbs_limits).plan()


class _Planner:
    def __init__(
        self,
        graph: ir.Graph,
        is_excluded: Callable[[ir.Node], bool],
        without_range: frozenset[ir.Value],
        absorbs_limits: bool,
    ) -> None:
        self._graph = graph
        self._is_excluded = is_excluded
        self._without_range = without_range
        self._absorbs_limits = absorbs_limits
        self._layers: dict[ir.Node, Layer] = {}
        self._able: set[ir.Value] = set()
        self._integer: set[ir.Node] = set()
        self._like: dict[ir.Value, ir.Value] = {}
        self._plan = IntegerPlan()

    def plan(self) -> IntegerPlan:
        self._find_layers()
        between = [node for node in self._graph if self._mark_able(node)]
        self._choose(between)
        for node in self._graph:
            self._carry_node(node)
        self._plan.layers = list(self._layers.values())
        return self._plan

    def _find_layers(self) -> None:
        for node in self._graph:
            if node.domain or node.op_type not in LAYER_OPERATORS:
                continue
            layer = self._examine(node)
            if isinstance(layer, LayerRefused):
                self._plan.refused.append((node, layer))
            else:
                self._layers[node] = layer

    def _examine(self, node: ir.Node) -> Layer | LayerRefused:
        if self._is_excluded(node):
            return LayerRefused("excluded", "by the options of the pass")
        layer = find_layer(node)
        if isinstance(layer, LayerRefused):
            return layer
        needed = [layer.activation]
        if node.op_type == "Conv":
            needed.append(self._result(node)[0])
        for value in needed:
            if value in self._without_range:
                why = f"`{value.name}` has no usable range, or was 0 in every sample"
                return LayerRefused("range-unknown", why)
        return layer

    def _result(self, node: ir.Node) -> tuple[ir.Value, ir.Node | None]:
        """Return what ``node`` computes, behind a limiting operator that it can absorb."""
        output = node.outputs[0]
        if not self._absorbs_limits or output.is_graph_output() or node.op_type in _MOVING:
            return output, None
        readers = {user for user, _ in output.uses()}
        limiter = next(iter(readers), None)
        if len(readers) != 1 or limiter is None or limiter.graph is not self._graph:
            return output, None
        return (limiter.outputs[0], limiter) if _is_limiter(limiter, output) else (output, None)

    def _feeds_layer(self, value: ir.Value) -> bool:
        return any(index == 0 and user in self._layers for user, index in value.uses())

    def _mark_able(self, node: ir.Node) -> bool:
        """Mark the results that can be integers; tell whether ``node`` is such an operator."""
        layer = self._layers.get(node)
        if layer is not None:
            result, _ = self._result(node)
            if node.op_type != "MatMul" and result not in self._without_range:
                self._able.add(result)
            return False
        if not self._is_between(node):
            return False
        result, _ = self._result(node)
        if node.op_type in _COMPUTING and result in self._without_range:
            return False
        self._able.update(node.outputs if node.op_type in _MOVING else [result])
        return True

    def _is_between(self, node: ir.Node) -> bool:
        if not _has_integer_kernel(node) or self._is_excluded(node):
            return False
        values = _operands(node)
        computed = [value for value in values if constant_tensor(value) is None]
        constants = [value for value in values if constant_tensor(value) is not None]
        return (
            bool(computed)
            and all(value in self._able or self._feeds_layer(value) for value in computed)
            and all(_quantizable_constant(value) is not None for value in constants)
        )

    def _choose(self, between: list[ir.Node]) -> None:
        """Keep those operators whose result somebody wants as integers, from back to front."""
        wanted = {layer.activation for layer in self._layers.values()}
        for node in reversed(between):
            results = [self._result(node)[0]] if node.op_type in _COMPUTING else node.outputs
            if any(result in wanted for result in results):
                self._integer.add(node)
                wanted.update(_operands(node))
        for node in between:
            if node not in self._integer and self._is_last_sum(node):
                self._integer.add(node)

    def _is_last_sum(self, node: ir.Node) -> bool:
        """Tell whether ``node`` adds two integer results for somebody who reads floats.

        Adding first leaves one value to turn into floats, not two.
        """
        if node.op_type != "Add" or self._result(node)[0].is_graph_output():
            return False
        producers = [self._producer(value) for value in _operands(node)]
        return all(
            producer in self._integer
            or (producer in self._layers and producer is not None and producer.op_type == "Conv")
            for producer in producers
        )

    def _producer(self, value: ir.Value) -> ir.Node | None:
        """Return who computes ``value``, seen through a limiting operator that it absorbs."""
        node = value.producer()
        if node is None or node.op_type not in _LIMITING or node.inputs[0] is None:
            return node
        source = node.inputs[0].producer()
        absorbed = source is not None and self._result(source)[1] is node
        return source if absorbed else node

    def _carry_node(self, node: ir.Node) -> None:
        """Carry what ``node`` reads from float operators, then what it computes."""
        if node in self._layers:
            self._carry_operand(self._layers[node].activation)
            if node.op_type == "Conv" or self._only_integers_read(node):
                self._carry_result(node)
        elif node in self._integer:
            for index, value in enumerate(_operands(node)):
                constant = _quantizable_constant(value)
                if constant is None:
                    self._carry_operand(value)
                else:
                    self._plan.constants.append((node, index, constant))
            self._carry_result(node)

    def _carry_operand(self, value: ir.Value) -> None:
        if value in self._like:
            return
        readers = tuple(use for use in value.uses() if self._reads_integers(*use))
        self._like[value] = value
        self._plan.carried.append(Carried(value, value, value, None, readers))

    def _carry_result(self, node: ir.Node) -> None:
        if node.op_type in _MOVING:
            for output in node.outputs:
                like = self._like[_operands(node)[0]]
                self._like[output] = like
                self._plan.carried.append(Carried(output, like, output, None, None))
            return
        result, limiter = self._result(node)
        self._like[result] = result
        self._plan.carried.append(Carried(result, result, node.outputs[0], limiter, None))

    def _only_integers_read(self, node: ir.Node) -> bool:
        """Tell whether the result of a ``Gemm`` is better kept as integers than as float."""
        result, _ = self._result(node)
        if node.op_type != "Gemm" or result not in self._able or result.is_graph_output():
            return False
        uses = tuple(result.uses())
        return bool(uses) and all(self._reads_integers(*use) for use in uses)

    def _reads_integers(self, user: ir.Node, index: int) -> bool:
        if user in self._layers:
            return index == 0
        return user in self._integer and index < len(_operands(user))


def _has_integer_kernel(node: ir.Node) -> bool:
    if node.domain:
        return False
    if node.op_type == "Resize":
        return node.attributes.get_string("mode", "nearest") == "nearest"
    if node.op_type == "AveragePool":
        return all(step == 1 for step in node.attributes.get_ints("dilations", ()))
    if node.op_type == "MaxPool":
        return len(node.outputs) == 1
    return node.op_type in _COMPUTING or node.op_type in _MOVING


def _operands(node: ir.Node) -> list[ir.Value]:
    """Return the inputs that hold numbers; shapes, axes and sizes are left out."""
    inputs = node.inputs if node.op_type in ("Add", "Mul", "Concat") else node.inputs[:1]
    return [value for value in inputs if value is not None]


def _quantizable_constant(value: ir.Value) -> npt.NDArray[np.float32] | None:
    tensor = constant_tensor(value)
    if tensor is None or tensor.dtype != ir.DataType.FLOAT or tensor.size > _LARGEST_CONSTANT:
        return None
    array: npt.NDArray[np.float32] = tensor.numpy()
    return array if array.size and np.all(np.isfinite(array)) else None


def _is_limiter(node: ir.Node, value: ir.Value) -> bool:
    """Tell whether ``node`` only limits ``value``, to constant bounds around 0."""
    if node.domain or node.op_type not in _LIMITING or node.inputs[0] is not value:
        return False
    if node.op_type == "Relu":
        return True
    bounds = [constant_array(bound, 1) for bound in node.inputs[1:]]
    given = [bound is not None for bound in node.inputs[1:]]
    if any(is_given and bound is None for is_given, bound in zip(given, bounds, strict=True)):
        return False
    low, high = (*bounds, None, None)[:2]
    # The range of a quantizer holds 0, so that it cannot stand for a limit on the other side.
    return (low is None or bool(low <= 0)) and (high is None or bool(high >= 0))
