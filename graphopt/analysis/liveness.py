"""Which values the outputs of a model depend on, through the inputs and outputs of subgraphs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import onnx_ir as ir

from graphopt.analysis.annotations import is_annotated
from graphopt.analysis.loops import is_loop, is_scan
from graphopt.analysis.operands import int_attribute
from graphopt.analysis.operators import Operators
from graphopt.ir import may_hold_graphs, nodes_of_types, subgraphs_of

__all__ = ["Liveness", "Ports", "ports_of"]


@dataclass(frozen=True)
class Ports:
    """How inputs and outputs of an If, Loop or Scan belong to those of its subgraphs.

    Attributes:
        node: The node.
        bodies: Its subgraphs.
        state: How many values are carried from trip to trip: the first outputs.
        first_input: Index of the node's input that holds the first of them.
        first_body_input: Index of the body's input that holds the first of them.
        first_body_output: Index of the body's output that the first output of the node takes.
        scanned: How many inputs are cut into one part for each trip: the last inputs.
    """

    node: ir.Node
    bodies: tuple[ir.Graph, ...]
    state: int = 0
    first_input: int = 0
    first_body_input: int = 0
    first_body_output: int = 0
    scanned: int = 0

    def behind(self, index: int) -> Iterator[ir.Value]:
        """Yield what output ``index`` of the node is computed from directly."""
        for body in self.bodies:
            yield body.outputs[self.first_body_output + index]
        if index < self.state:
            yield from _given(self.node, self.first_input + index)

    def behind_input(self, index: int) -> Iterator[ir.Value]:
        """Yield where input ``index`` of the body gets its value from."""
        position = index - self.first_body_input
        if position < 0:
            return
        yield from _given(self.node, self.first_input + position)
        if position < self.state:
            yield self.bodies[0].outputs[self.first_body_output + position]

    def needed_to_run(self) -> Iterator[ir.Value]:
        """Yield what the node cannot do without, whichever of its outputs is read."""
        for index in range(self.first_input):
            yield from _given(self.node, index)
        for body in self.bodies:
            yield from body.outputs[: self.first_body_output]
        if self.scanned:  # the first tells how many trips there are
            yield from _given(self.node, len(self.node.inputs) - self.scanned)
            yield self.bodies[0].inputs[self.first_body_input + self.state]


def _given(node: ir.Node, index: int) -> Iterator[ir.Value]:
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is not None:
        yield value


_HOLDERS = frozenset({"If", "Loop", "Scan"})


def ports_of(node: ir.Node, operators: Operators) -> Ports | None:
    """Return the ports of an If, Loop or Scan, or ``None`` for every other node."""
    if node.op_type not in _HOLDERS or node.domain:
        return None
    bodies = subgraphs_of(node)
    if node.op_type == "If" and len(bodies) == 2:  # noqa: PLR2004 - its two branches
        return Ports(node, bodies, first_input=1)
    if is_loop(node):
        state = len(bodies[0].inputs) - 2
        return Ports(node, bodies, state, first_input=2, first_body_input=2, first_body_output=1)
    if is_scan(node, operators):
        scanned = int_attribute(node, "num_scan_inputs", 0)
        if scanned:
            return Ports(node, bodies, len(node.inputs) - scanned, scanned=scanned)
    return None


class Liveness:
    """The values and nodes that the outputs of a model, and of its functions, depend on.

    What an If, Loop or Scan returns is followed output by output: of its body only that counts
    which an output that is read, or the next trip, needs.

    Attributes:
        values: The values.
        nodes: The nodes that compute them, and those that hold the subgraphs with such nodes.
    """

    def __init__(self, model: ir.Model, operators: Operators) -> None:
        self.values: set[ir.Value] = set()
        self.nodes: set[ir.Node] = set()
        self._ports: dict[ir.Node, Ports] = {}
        self._bound: dict[ir.Value, tuple[Ports, int]] = {}
        for node in nodes_of_types(model, _HOLDERS, with_functions=True):
            ports = ports_of(node, operators)
            if ports is not None:
                self._ports[node] = ports
                for body in ports.bodies:
                    self._bound.update((v, (ports, i)) for i, v in enumerate(body.inputs))
        for graph in (model.graph, *(function.graph for function in model.functions.values())):
            self.mark(graph.outputs)

    def ports(self, node: ir.Node) -> Ports | None:
        """Return the ports of a node that was there when this was made; see `ports_of`."""
        return self._ports.get(node)

    def mark_node(self, node: ir.Node) -> None:
        """Count ``node`` among what is needed, whoever reads its outputs."""
        if node not in self.nodes:
            self.nodes.add(node)
            self.mark(self._needed(node))
        if node in self._ports and self.values.isdisjoint(node.outputs):
            self.mark(node.outputs[:1])  # such a node has to have one

    def mark_strays(self, ports: Ports) -> None:
        """Count among what is needed what subgraphs of needed nodes of a body read for nothing.

        Such nodes can only be removed with an output of the node that holds them.
        """
        strays: list[ir.Value] | None = None
        while strays is None or strays:
            dead = [node for body in ports.bodies for node in body if node not in self.nodes]
            inside = set(_within(dead))
            values = [value for node in dead for value in node.outputs]
            values += [v for body in ports.bodies for v in body.inputs if v not in self.values]
            strays = [v for v in values if any(user not in inside for user, _ in v.uses())]
            self.mark(strays)

    def mark(self, values: Iterable[ir.Value]) -> None:
        """Count ``values`` among what is needed."""
        pending = list(values)
        live, entered, ports = self.values, self.nodes, self._ports
        while pending:
            value = pending.pop()
            if value in live:
                continue
            live.add(value)
            producer = value.producer()
            if producer is None:
                if value in self._bound:
                    holder, index = self._bound[value]
                    pending.extend(holder.behind_input(index))
                continue
            if producer not in entered:
                entered.add(producer)
                if producer in ports or may_hold_graphs(producer):
                    pending += self._needed(producer)
                else:
                    pending += [given for given in producer.inputs if given is not None]
            if producer in ports:
                pending.extend(ports[producer].behind(value.index() or 0))

    def _needed(self, node: ir.Node) -> list[ir.Value]:
        """Return what ``node`` needs, whichever of its outputs is read."""
        ports = self._ports.get(node)
        if ports is not None:
            annotated = [value for value in node.outputs if is_annotated(value)]
            return [*ports.needed_to_run(), *annotated]
        read = [value for value in node.inputs if value is not None]
        for graph in subgraphs_of(node):
            read.extend(graph.outputs)
        return read


def _within(members: Iterable[ir.Node]) -> Iterator[ir.Node]:
    """Yield nodes and all nodes of their subgraphs."""
    for node in members:
        yield node
        for graph in subgraphs_of(node):
            yield from _within(graph)
