"""Loop and Scan: how often they run, and which input of the body is which."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from graphopt.analysis.operands import int_attribute, ints_attribute, operand
from graphopt.analysis.operators import Operators
from graphopt.ir import constant_array
from graphopt.rewrite import ShapeTable

__all__ = ["Loop", "certainly_runs", "is_loop", "is_scan"]

# Scan of opset 8 has an axis of batches, and lengths of sequences as its first input.
_SCAN_WITHOUT_BATCH_SINCE = 9


def is_loop(node: ir.Node) -> bool:
    """Tell whether ``node`` is a Loop with a body of its own."""
    return node.op_type == "Loop" and not node.domain and _has_body(node)


def is_scan(node: ir.Node, operators: Operators) -> bool:
    """Tell whether ``node`` is a Scan with a body of its own, of opset 9 or later."""
    version = operators.version(node) or 1
    is_scan = node.op_type == "Scan" and not node.domain and _has_body(node)
    return is_scan and version >= _SCAN_WITHOUT_BATCH_SINCE


def _has_body(node: ir.Node) -> bool:
    body = node.attributes.get("body")
    return body is not None and not body.is_ref()


@dataclass(frozen=True)
class Loop:
    """A Loop, taken apart.

    Attributes:
        node: The Loop.
    """

    node: ir.Node

    @property
    def body(self) -> ir.Graph:
        """The body: its inputs are the number of the trip, the condition, and the state."""
        return self.node.attributes["body"].as_graph()

    @property
    def state_count(self) -> int:
        """How many values are carried from trip to trip."""
        return len(self.body.inputs) - 2

    def initial_condition(self) -> bool | None:
        """Return whether the first trip is allowed; ``None`` where that is not known."""
        return _constant_flag(operand(self.node, 1), is_optional=True)

    def next_condition(self) -> bool | None:
        """Return whether each trip allows another one, given that it was allowed itself."""
        returned = self.body.outputs[0]
        for _ in range(_MAX_IDENTITIES):
            if returned is self.body.inputs[1]:
                return True
            producer = returned.producer()
            if producer is None or producer.op_type != "Identity" or producer.domain:
                break
            source = operand(producer, 0)
            if source is None:
                return None
            returned = source
        return _constant_flag(returned, is_optional=False)

    def limit(self) -> int | None:
        """Return the largest number of trips, or ``None`` where it is unknown or unlimited."""
        array = constant_array(operand(self.node, 0), 1)
        return None if array is None or array.size != 1 else max(0, int(array.reshape(-1)[0]))

    def has_limit(self) -> bool:
        """Tell whether the number of trips is limited, by a number that may not be known."""
        return operand(self.node, 0) is not None

    def trips(self) -> int | None:
        """Return how many trips every run makes, or ``None`` where that is not known."""
        first, further, limit = self.initial_condition(), self.next_condition(), self.limit()
        if first is False or limit == 0:
            return 0
        if first is None or (limit is None and self.has_limit()):
            return None
        # What the body returns is asked before the second trip only.
        if limit == 1 or further is False:
            return 1
        return limit if further else None


_MAX_IDENTITIES = 8


def _constant_flag(value: ir.Value | None, *, is_optional: bool) -> bool | None:
    if value is None:
        return True if is_optional else None
    array = constant_array(value, 1)
    return None if array is None or array.size != 1 else bool(array.reshape(-1)[0])


def certainly_runs(node: ir.Node, shapes: ShapeTable, operators: Operators) -> bool:
    """Tell whether a Loop or Scan makes at least one trip in every run."""
    if is_loop(node):
        loop = Loop(node)
        limit = loop.limit()
        return loop.initial_condition() is True and (not loop.has_limit() or bool(limit))
    return is_scan(node, operators) and _scans_something(node, shapes)


def _scans_something(node: ir.Node, shapes: ShapeTable) -> bool:
    scanned = int_attribute(node, "num_scan_inputs", 0)
    if not scanned:
        return False
    axes = ints_attribute(node, "scan_input_axes") or (0,) * scanned
    known = shapes.of(node.inputs[len(node.inputs) - scanned])
    if known is None or known.dims is None or not -len(known.dims) <= axes[0] < len(known.dims):
        return False
    size = known.dims[axes[0]]
    return isinstance(size, int) and size > 0
