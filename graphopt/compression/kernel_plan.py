"""Which values of a graph are carried as integers where each operator has a kernel of its own.

Convolutions and linear layers decide. A value that a layer reads is quantized anyway, so that an
operator between two layers computes in integers if all it reads is quantized and somebody wants
its result so; every other operator stays in float. ONNX Runtime finds its integer kernels by the
``QuantizeLinear`` behind, and the ``DequantizeLinear`` before, each operator.
"""

from __future__ import annotations

import onnx_ir as ir

from graphopt.compression.integer_operators import (
    COMPUTING,
    LIFTED,
    MOVING,
    has_integer_kernel,
    is_averaged_wrongly,
    is_limiter,
    needs_another_form,
    operands,
    quantizable_constant,
)
from graphopt.compression.integer_plan import Carried, IntegerPlan, PlanQuestion
from graphopt.compression.static_layers import (
    LAYER_OPERATORS,
    Layer,
    LayerRefused,
    find_layer,
    sum_refusal,
)
from graphopt.ir import constant_tensor

__all__ = ["plan_kernels"]

_FEW_CHANNELS = 3
# The runtime moves quantizers from before these to behind them.
_CROSSED = frozenset({"MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})
_FLOAT_ONLY = {
    "HardSwish": "ONNX Runtime computes it in float only",
    "Pad": "quantizers are not moved across it; `fold-padding` makes it part of a layer",
}

_FLOAT_RESULT = LayerRefused(
    "no-integer-kernel",
    "it has none with a float result; `flatten-products` makes a Gemm of a linear layer",
)


def plan_kernels(
    question: PlanQuestion, *, leaves_slow_layers: bool, integer_results: bool = False
) -> IntegerPlan:
    """Decide which values are carried as integers; nothing is changed.

    Args:
        question: The graph, and what is known of it.
        leaves_slow_layers: Convolutions whose integer kernel is no faster than the float one stay
            in float, as measured on x86: those of an image of up to three channels, which leave
            most of each vector empty, and depthwise ones between float operators, which save less
            than quantizing costs.
        integer_results: The runtime has no integer kernel with a float result: that of a ``Gemm``
            is quantized, whoever reads it, and a ``MatMul`` stays in float.
    """
    always = frozenset({"Conv", "Gemm"} if integer_results else {"Conv"})
    slow: dict[ir.Node, LayerRefused] = {}
    while True:
        planner = _Planner(question, slow, always, takes_matmul=not integer_results)
        plan = planner.plan()
        found = planner.slow_layers() if leaves_slow_layers else {}
        if not found:
            return plan
        # Whoever stays in float is a float neighbour of others.
        slow.update(found)


class _Planner:
    def __init__(
        self,
        question: PlanQuestion,
        slow: dict[ir.Node, LayerRefused],
        always: frozenset[str],
        *,
        takes_matmul: bool,
    ) -> None:
        self._graph = question.graph
        self._always = always  # whose results are integers, whoever reads them
        self._takes_matmul = takes_matmul
        self._question = question
        self._slow = slow
        self._without_range = question.without_range
        self._absorbs_limits = question.absorbs_limits
        self._layers: dict[ir.Node, Layer] = {}
        self._able: set[ir.Value] = set()
        self._integer: set[ir.Node] = set()
        self._lifted: set[ir.Node] = set()
        self._like: dict[ir.Value, ir.Value] = {}
        self._plan = IntegerPlan()

    def plan(self) -> IntegerPlan:
        self._find_layers()
        between = [node for node in self._graph if self._mark_able(node)]
        self._choose(between)
        for node in self._graph:
            self._carry_node(node)
        self._plan.layers = list(self._layers.values())
        self._plan.refused += self._float_neighbours()
        return self._plan

    def _float_neighbours(self) -> list[tuple[ir.Node, LayerRefused]]:
        """Return operators beside integer layers that stay in float, and cost quantizers."""
        found = []
        for node in self._graph:
            if node.domain or node.op_type not in _FLOAT_ONLY:
                continue
            source = node.inputs[0].producer() if node.inputs[0] is not None else None
            if source in self._layers or self._feeds_layer(node.outputs[0]):
                refused = LayerRefused("no-integer-kernel", _FLOAT_ONLY[node.op_type])
                found.append((node, refused))
        return found

    def _find_layers(self) -> None:
        for node in self._graph:
            if node.domain or node.op_type not in LAYER_OPERATORS:
                continue
            if node.op_type == "MatMul" and not self._takes_matmul:
                self._plan.refused.append((node, _FLOAT_RESULT))
                continue
            layer = self._examine(node)
            if isinstance(layer, LayerRefused):
                self._plan.refused.append((node, layer))
            else:
                self._layers[node] = layer

    def _examine(self, node: ir.Node) -> Layer | LayerRefused:
        if self._question.is_excluded(node):
            return LayerRefused("excluded", "by the options of the pass")
        if (refused := self._slow.get(node)) is not None:
            return refused
        layer = find_layer(node)
        if isinstance(layer, Layer) and self._question.is_signed_and_typed:
            layer = sum_refusal(layer, self._question.shapes) or layer
        if isinstance(layer, LayerRefused):
            return layer
        source = _moved_from(layer.activation)
        if source is not None and self._is_averaged_wrongly(source):
            why = f"`{source.name}` would become integers, too, and its kernel divides wrongly"
            return LayerRefused("wrong-kernel", why)
        needed = [layer.activation]
        if node.op_type in self._always:
            needed.append(self._result(node)[0])
        for value in needed:
            if value in self._without_range:
                why = f"`{value.name}` has no usable range, or was 0 in every sample"
                return LayerRefused("range-unknown", why)
        return layer

    def _is_averaged_wrongly(self, node: ir.Node) -> bool:
        """Tell whether the runtime would find a kernel for ``node`` that gets it wrong.

        It looks at the quantizers around, and knows nothing of what was excluded.
        """
        is_left = node.op_type == "AveragePool" and self._question.is_excluded(node)
        return is_averaged_wrongly(node) or (is_left and needs_another_form(node))

    def _result(self, node: ir.Node) -> tuple[ir.Value, ir.Node | None]:
        """Return what ``node`` computes, behind a limiting operator that it can absorb."""
        output = node.outputs[0]
        if not self._absorbs_limits or output.is_graph_output() or node.op_type in MOVING:
            return output, None
        readers = {user for user, _ in output.uses()}
        limiter = next(iter(readers), None)
        if len(readers) != 1 or limiter is None or limiter.graph is not self._graph:
            return output, None
        return (limiter.outputs[0], limiter) if is_limiter(limiter, output) else (output, None)

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
        if node.op_type in COMPUTING and result in self._without_range:
            return False
        self._able.update(node.outputs if node.op_type in MOVING else [result])
        return True

    def _is_between(self, node: ir.Node) -> bool:
        if not self._has_kernel(node):
            return False
        values = operands(node)
        computed = [value for value in values if constant_tensor(value) is None]
        constants = [value for value in values if constant_tensor(value) is not None]
        return (
            bool(computed)
            and all(value in self._able or self._feeds_layer(value) for value in computed)
            and all(quantizable_constant(value) is not None for value in constants)
        )

    def _choose(self, between: list[ir.Node]) -> None:
        """Keep those operators whose result somebody wants as integers, from back to front."""
        wanted = {layer.activation for layer in self._layers.values()}
        for node in reversed(between):
            results = [self._result(node)[0]] if node.op_type in COMPUTING else node.outputs
            if any(result in wanted for result in results):
                self._integer.add(node)
                wanted.update(operands(node))
        for node in between:
            if node not in self._integer and self._is_last_sum(node):
                self._integer.add(node)
        for node in reversed(self._graph):
            if node not in self._integer and self._is_lifted(node):
                self._integer.add(node)
                self._lifted.add(node)
        self._integer.update(self._not_to_be_crossed(between))

    def _not_to_be_crossed(self, between: list[ir.Node]) -> set[ir.Node]:
        """Return operators that move integer results, and that quantizers must stand behind.

        ONNX Runtime 1.32 moves quantizers across such operators. Where a branch or loop reads what
        they return it ends the process, and from opset 21 on it gives signed integers a zero point
        of another type; where quantizers stand behind them already there is nothing to move.
        """
        restored = {self._result(node)[0] for node in self._layers if node.op_type in self._always}
        restored.update(value for node in self._integer for value in node.outputs)
        restored.update(self._result(node)[0] for node in self._integer)
        moving = []
        for node in between:
            if (
                node.op_type in _CROSSED
                and node not in self._integer
                and node.inputs[0] in restored
            ):
                restored.update(node.outputs)
                moving.append(node)
        if self._question.is_signed_and_typed:
            return set(moving)
        found: set[ir.Node] = set()
        for node in reversed(moving):
            uses = [user for output in node.outputs for user, _ in output.uses()]
            if any(user.graph is not self._graph or user in found for user in uses):
                found.add(node)
        return found

    def _has_kernel(self, node: ir.Node) -> bool:
        question = self._question
        return not question.is_excluded(node) and has_integer_kernel(node, question.shapes)

    def _is_lifted(self, node: ir.Node) -> bool:
        """Tell whether quantizing what ``node`` reads is better than what it moves.

        All of its results are quantized anyway, and bytes are moved faster than floats.
        """
        if node.op_type not in LIFTED or not self._has_kernel(node):
            return False
        source, result = node.inputs[0], node.outputs[0]
        if source is None or source in self._without_range or constant_tensor(source) is not None:
            return False
        uses = tuple(result.uses())
        if not uses or result.is_graph_output():
            return False
        return all(self._reads_integers(*use) for use in uses)

    def slow_layers(self) -> dict[ir.Node, LayerRefused]:
        """Return planned convolutions whose integer kernel is no faster than the float one."""
        results = {
            carried.value
            for carried in self._plan.carried
            if carried.readers is None and carried.value.producer() not in self._lifted
        }
        slow: dict[ir.Node, LayerRefused] = {}
        for node, layer in self._layers.items():
            if node.op_type != "Conv" or layer.activation in results:
                continue
            channels, kernel = layer.weight.shape[1], layer.weight.shape[2:]
            readers = [use for use in self._result(node)[0].uses() if self._reads_integers(*use)]
            if _is_depthwise(node, layer):
                if not readers:
                    why = "depthwise between float operators: quantizing costs more than it saves"
                    slow[node] = LayerRefused("not-faster", why)
            elif channels <= _FEW_CHANNELS and max(kernel) > 1:
                if any(user.op_type == "MaxPool" for user, _ in readers):
                    continue  # its integer kernel needs the layout of an integer convolution
                why = f"{channels} input channels leave most of an integer vector empty"
                slow[node] = LayerRefused("not-faster", why)
        return slow

    def _is_last_sum(self, node: ir.Node) -> bool:
        """Tell whether ``node`` adds two integer results for somebody who reads floats.

        Adding first leaves one value to turn into floats, not two.
        """
        if node.op_type != "Add" or self._result(node)[0].is_graph_output():
            return False
        producers = [self._producer(value) for value in operands(node)]
        return all(
            producer in self._integer
            or (
                producer in self._layers
                and producer is not None
                and producer.op_type in self._always
            )
            for producer in producers
        )

    def _producer(self, value: ir.Value) -> ir.Node | None:
        """Return who computes ``value``, seen through a limiting operator that it absorbs."""
        node = value.producer()
        if node is None or node.op_type not in ("Relu", "Clip") or node.inputs[0] is None:
            return node
        source = node.inputs[0].producer()
        absorbed = source is not None and self._result(source)[1] is node
        return source if absorbed else node

    def _carry_node(self, node: ir.Node) -> None:
        """Carry what ``node`` reads from float operators, then what it computes."""
        if node in self._layers:
            self._carry_operand(self._layers[node].activation)
            if node.op_type in self._always or self._only_integers_read(node):
                self._carry_result(node)
        elif node in self._integer:
            for index, value in enumerate(operands(node)):
                constant = quantizable_constant(value)
                if constant is None:
                    self._carry_operand(value)
                else:
                    self._plan.constants.append((node, index, constant))
            if needs_another_form(node):
                self._plan.averages.append(node)
            self._carry_result(node)

    def _carry_operand(self, value: ir.Value) -> None:
        if value in self._like:
            return
        readers = tuple(use for use in value.uses() if self._reads_integers(*use))
        self._like[value] = value
        self._plan.carried.append(Carried(value, value, value, None, readers))

    def _carry_result(self, node: ir.Node) -> None:
        if node.op_type in MOVING:
            for output in node.outputs:
                like = self._like[operands(node)[0]]
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
        return user in self._integer and index < len(operands(user))


def _is_depthwise(node: ir.Node, layer: Layer) -> bool:
    groups = node.attributes.get_int("group", 1) or 1
    return groups > 1 and layer.weight.shape[1] == 1


def _moved_from(value: ir.Value) -> ir.Node | None:
    """Return who computes ``value``, apart from operators that only move elements."""
    node = value.producer()
    while node is not None and node.op_type in MOVING and not node.domain:
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    return node
