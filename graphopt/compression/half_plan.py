"""Which nodes of a graph compute in 16-bit floats, and why the others do not.

Every node with a float32 result is judged on its own first: by its operator, by what its values
span on samples, by its constants. Then what is left is looked at together: a few cheap nodes
between others that stay would only add conversions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis import Effect, Operators
from graphopt.compression.half_formats import STANDS_FOR_INFINITY, HalfFormat
from graphopt.compression.half_operators import KEPT_OPERATORS, half_slots, provider_lacks
from graphopt.compression.half_stand_ins import LIMITING, Masks, find_masks, position_arithmetic
from graphopt.ir import constant_tensor, subgraphs_of
from graphopt.rewrite import ShapeTable, ValueRange

__all__ = ["HalfPlan", "Ranges", "plan_half"]

Ranges = Mapping[str, ValueRange] | None

# A conversion costs about as much as one of the other operators: around these alone it pays.
_HEAVY = frozenset(
    {"Attention", "Conv", "ConvTranspose", "FusedGemm", "FusedMatMul", "GRU", "Gemm", "LSTM"}
    | {"GroupQueryAttention", "LayerNormalization", "MatMul", "MultiHeadAttention", "RNN"}
    | {"Softmax"}
)
_LARGE_CONSTANT = 1024
_ADDED_STEPS = 16


@dataclass
class HalfPlan:
    """What becomes of a graph.

    Attributes:
        nodes: Nodes that compute in 16 bits, in order.
        followers: Nodes without a float32 result that read 16-bit values as they are.
        values: Results that are 16-bit floats.
        masks: Values that may hold what stands for infinity.
        refused: Nodes that stay, with a documented slug and details.
    """

    nodes: dict[ir.Node, None] = field(default_factory=dict)
    followers: dict[ir.Node, None] = field(default_factory=dict)
    values: set[ir.Value] = field(default_factory=set)
    masks: set[ir.Value] = field(default_factory=set)
    refused: list[tuple[ir.Node, str, str]] = field(default_factory=list)


def plan_half(
    graph: ir.Graph,
    half: HalfFormat,
    *,
    shapes: ShapeTable,
    operators: Operators,
    ranges: Ranges,
    provider: str,
    limit: float,
    is_kept: Callable[[ir.Node], str | None],
) -> HalfPlan:
    """Decide which nodes of ``graph`` become 16-bit; nothing is changed.

    Args:
        graph: The main graph of a model.
        half: The type.
        shapes: Types of its values.
        operators: Its operators.
        ranges: What values span on samples; ``None`` where nothing was measured.
        provider: The execution provider that will run it.
        limit: Largest magnitude that a value may have.
        is_kept: Why the user keeps a node, or ``None``.
    """
    planner = _Planner(graph, half, shapes, operators, ranges, provider, limit, is_kept)
    return planner.plan()


@dataclass
class _Planner:
    graph: ir.Graph
    half: HalfFormat
    shapes: ShapeTable
    operators: Operators
    ranges: Ranges
    provider: str
    limit: float
    is_kept: Callable[[ir.Node], str | None]
    masks: Masks = field(default_factory=Masks)
    exact: set[ir.Node] = field(default_factory=set)
    result: HalfPlan = field(default_factory=HalfPlan)

    def plan(self) -> HalfPlan:
        nodes = list(self.graph)
        self.masks = find_masks(nodes, self.ranges, self.half)
        self.exact = position_arithmetic(nodes, self.shapes)
        self.result.masks = self.masks.values
        for node in nodes:
            if self._is_float_node(node) and not self._restores(node):
                self._judge(node)
        self._drop_lone_islands()
        for node in self.result.nodes:
            self.result.values.update(self._half_results(node))
        for node in nodes:
            if self._follows(node):
                self.result.followers[node] = None
        return self.result

    # -- one node ----------------------------------------------------------------------------

    def _is_float(self, value: ir.Value | None) -> bool:
        known = self.shapes.of(value)
        return known is not None and known.dtype == ir.DataType.FLOAT

    def _is_float_node(self, node: ir.Node) -> bool:
        """Tell whether ``node`` computes float32; constants are converted with who reads them."""
        if node.op_type == "Constant" and not node.domain:
            return False
        is_typed = [self._is_float(value) or self._is_unknown(value) for value in node.outputs]
        return any(is_typed) or bool(subgraphs_of(node))

    def _is_unknown(self, value: ir.Value | None) -> bool:
        known = self.shapes.of(value)
        return bool(value is not None and value.name) and (known is None or known.dtype is None)

    def _restores(self, node: ir.Node) -> bool:
        """Tell whether ``node`` turns 16-bit floats into float32: an end of a converted part."""
        known = self.shapes.of(node.inputs[0]) if node.op_type == "Cast" else None
        return known is not None and known.dtype == self.half.dtype

    def _judge(self, node: ir.Node) -> None:
        found = self._operator_refusal(node) or self._value_refusal(node)
        if found is None:
            self.result.nodes[node] = None
        else:
            self.result.refused.append((node, *found))

    def _operator_refusal(self, node: ir.Node) -> tuple[str, str] | None:
        if (why := self.is_kept(node)) is not None:
            return "excluded", why
        if subgraphs_of(node):
            return "inside-subgraph", "values of its subgraphs are not measured"
        if not node.domain and node.op_type in KEPT_OPERATORS:
            return "block-list", KEPT_OPERATORS[node.op_type]
        return self._type_refusal(node) or self._use_refusal(node)

    def _type_refusal(self, node: ir.Node) -> tuple[str, str] | None:
        if half_slots(node, self.operators, self.half) is None:
            return "unknown-operator", "nothing is known of its types"
        # An optional result that nobody reads may be of any type: none depends on it.
        results = [item for item in node.outputs if item.uses() or item.is_graph_output()]
        for value in (*node.inputs, *results):
            if value is not None and self._is_unknown(value):
                return "unknown-operator", f"nothing is known of the type of `{value.name}`"
        if not self._half_results(node):
            return "no-half-type", f"its result cannot be {self.half.name}"
        if provider_lacks(node, self.provider, self.half):
            return "no-half-type", f"{self.provider} has no {self.half.name} kernel"
        return None

    def _use_refusal(self, node: ir.Node) -> tuple[str, str] | None:
        if self.operators.effect(node) is Effect.RANDOM:
            return "block-list", "it draws random numbers, or updates statistics"
        if node in self.exact:
            return "position-arithmetic", "counts and angles need more than 11 bits"
        return None

    def _half_results(self, node: ir.Node) -> list[ir.Value]:
        slots = half_slots(node, self.operators, self.half)
        flags = slots.outputs if slots is not None else ()
        pairs = zip(node.outputs, flags, strict=False)
        return [value for value, can in pairs if can and self._is_float(value)]

    def _converted_operands(self, node: ir.Node) -> Iterator[ir.Value]:
        slots = half_slots(node, self.operators, self.half)
        flags = slots.inputs if slots is not None else ()
        for value, can in zip(node.inputs, flags, strict=False):
            if value is not None and can and self._is_float(value):
                yield value

    # -- values ------------------------------------------------------------------------------

    def _value_refusal(self, node: ir.Node) -> tuple[str, str] | None:
        if node in self.masks.refused:
            return "range-exceeds", f"a constant reaches {self.masks.refused[node]:g}"
        for value in (*self._converted_operands(node), *self._half_results(node)):
            tensor = constant_tensor(value)
            found = (
                self._measured_refusal(value)
                if tensor is None
                else self._constant_refusal(node, tensor.numpy())
            )
            if found is not None:
                return found[0], f"`{value.name}` {found[1]}"
        return None

    def _measured_refusal(self, value: ir.Value) -> tuple[str, str] | None:
        if self.ranges is None:
            return None
        measured = self.ranges.get(value.name or "")
        if value in self.masks.values:
            return self._mask_refusal(measured)
        if measured is None or not _is_finite(measured):
            return "range-unknown", "has no finite range"
        return self._size_refusal(value, measured)

    def _size_refusal(self, value: ir.Value, measured: ValueRange) -> tuple[str, str] | None:
        largest = max(abs(measured.minimum), abs(measured.maximum))
        if largest >= STANDS_FOR_INFINITY and value.producer() is None:
            return None  # a mask that the caller makes
        if largest > self.limit:
            return "range-exceeds", f"reaches {largest:g}, more than {self.limit:g}"
        if 0.0 < largest < self.half.least_normal:
            return "range-too-small", f"is at most {largest:g}"
        return None

    def _mask_refusal(self, measured: ValueRange | None) -> tuple[str, str] | None:
        """Judge the side of a value on which there is no mask; -inf alone leaves no range."""
        if measured is None or not _is_finite(measured):
            return None
        other = measured.maximum if measured.minimum < -self.limit else -measured.minimum
        if other > self.limit:
            return "range-exceeds", f"reaches {other:g} beside a mask"
        return None

    def _constant_refusal(
        self, node: ir.Node, array: npt.NDArray[np.float32]
    ) -> tuple[str, str] | None:
        if node.op_type in LIMITING and array.size == 1:
            return None  # a limit that nothing reaches is one in any type
        finite = np.abs(array[np.isfinite(array)])
        largest = float(finite.max(initial=0.0))
        # What is only added, as the 1e-6 of a normalization, may lose some of its digits.
        added = array.size == 1 and node.op_type in ("Add", "Max")
        least = _ADDED_STEPS * self.half.least if added else self.half.least_normal
        if 0.0 < largest < least:
            return "constant-underflows", f"is {largest:g}, which {self.half.name} cannot hold"
        return None

    # -- all together ------------------------------------------------------------------------

    def _drop_lone_islands(self) -> None:
        for island in self._islands():
            if any(self._is_heavy(node) for node in island):
                continue
            for node in island:
                del self.result.nodes[node]
                why = "conversions around it would cost more than it"
                self.result.refused.append((node, "lone-island", why))

    def _is_heavy(self, node: ir.Node) -> bool:
        if node.op_type in _HEAVY:
            return True
        tensors = [constant_tensor(value) for value in node.inputs]
        return any(t is not None and t.size >= _LARGE_CONSTANT for t in tensors)

    def _islands(self) -> list[list[ir.Node]]:
        """Return the connected parts of what becomes 16-bit."""
        left, found = dict(self.result.nodes), []
        while left:
            start = next(iter(left))
            del left[start]
            island, queue = [start], [start]
            while queue:
                for other in self._neighbours(queue.pop()):
                    if other in left:
                        del left[other]
                        island.append(other)
                        queue.append(other)
            found.append(island)
        return found

    def _neighbours(self, node: ir.Node) -> Iterator[ir.Node]:
        for value in self._converted_operands(node):
            producer = value.producer()
            if producer is not None and producer in self.result.nodes:
                yield producer
        for value in self._half_results(node):
            yield from (user for user, _ in value.uses() if user in self.result.nodes)

    def _follows(self, node: ir.Node) -> bool:
        """Tell whether ``node`` has no float32 result and takes 16-bit operands as they are."""
        if node in self.result.nodes or self._is_float_node(node):
            return False
        if subgraphs_of(node) or (not node.domain and node.op_type in KEPT_OPERATORS):
            return False
        floats = [value for value in node.inputs if self._is_float(value)]
        computed = [value for value in floats if constant_tensor(value) is None]
        if not computed or any(value not in self.result.values for value in computed):
            return False
        return list(self._converted_operands(node)) == floats


def _is_finite(measured: ValueRange) -> bool:
    return bool(np.isfinite([measured.minimum, measured.maximum]).all())
