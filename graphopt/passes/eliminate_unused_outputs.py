"""Elimination of outputs that nobody reads, and of what only they need."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import onnx_ir as ir

from graphopt.analysis import Effect, Operators, is_annotated
from graphopt.analysis.liveness import Liveness, Ports
from graphopt.ir import nodes, nodes_of_types, subgraphs_of
from graphopt.rewrite import Change, Contract, Editor, Exact, Facts, Pass

__all__ = ["EliminateUnusedOutputs"]


@dataclass(frozen=True, kw_only=True)
class EliminateUnusedOutputs(Pass):
    """Drop outputs that nobody reads, from operators that can do without and from subgraphs.

    What it does
        Leaves out optional outputs: masks of Dropout, statistics of LayerNormalization, states of
        recurrent layers, indices of Unique. Of an If, Loop or Scan it drops what the subgraphs
        return to nobody, what is carried from trip to trip for nothing, and parts of scanned
        inputs that the body does not look at, with the nodes of the body that only they need.

    When it refuses
        `annotated`       a quantization annotation describes the output.

    What it keeps
        The model's inputs and outputs, their names, order, types and shapes; every bit of them.
        Outputs that choose a mode or a kernel: those of BatchNormalization and of MaxPool.

    Cost
        Time O(nodes + edges); memory O(nodes). No weight is read.

    Example
        before  (float[2] x, bool c) => (float[2] z) { z, u = If(c) < then_branch = t () => (float[2] a, float[2] k) { a = Exp(x)  k = Neg(x) }, else_branch = e () => (float[2] b, float[2] l) { b = Sin(x)  l = Cos(x) }> }
        after   (float[2] x, bool c) => (float[2] z) { z = If(c) < then_branch = t () => (float[2] a) { a = Exp(x) }, else_branch = e () => (float[2] b) { b = Sin(x) }> }

    References
        Dead-code elimination through phi functions: Cytron et al., 1991, section 7.1.
    """  # noqa: E501 - the example is one line of ONNX text

    name: ClassVar[str] = "eliminate-unused-outputs"
    contract: ClassVar[Contract] = Contract(numerics=Exact(), is_idempotent=True)
    anchors: ClassVar[frozenset[str] | None] = frozenset(
        {"Dropout", "GRU", "If", "LSTM", "LayerNormalization", "Loop", "RNN", "Scan", "Unique"}
    )

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:  # noqa: ARG002
        """Drop outputs: those of subgraphs first, what they need may be one of an operator."""
        if nodes_of_types(model, _HOLDERS, with_functions=True):
            for _ in range(_MAX_ROUNDS):
                if not _trim_subgraphs(model, edit):
                    break  # a round more where an outer body carries what an inner one dropped
        for node in nodes_of_types(model, _FIRST_OPTIONAL, with_functions=True):
            _drop_optional(node, edit)


_HOLDERS = frozenset({"If", "Loop", "Scan"})
_MAX_ROUNDS = 8


_FIRST_OPTIONAL = {
    "Dropout": 1,
    "GRU": 0,
    "LSTM": 0,
    "LayerNormalization": 1,
    "RNN": 0,
    "Unique": 1,
}
"""By operator: the first output that it can do without."""


def _is_read(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()


def _drop_optional(node: ir.Node, edit: Editor) -> None:
    unread = [v for v in node.outputs[_FIRST_OPTIONAL[node.op_type] :] if v.name]
    unread = [value for value in unread if not _is_read(value)]
    if any(is_annotated(value) for value in unread):
        edit.refuse(node, "annotated")
        return
    left = [value for value in node.outputs if value.name and value not in unread]
    if not unread or not left:
        return
    names = ", ".join(f"`{value.name}`" for value in unread)
    count = max(value.index() or 0 for value in left) + 1
    with edit.rewrite(node, because=f"nobody reads {names}") as change:
        for value in unread:
            if (value.index() or 0) < count:
                change.then(partial(setattr, value, "name", ""))
        change.set_output_count(node, count)


# -- If, Loop and Scan ----------------------------------------------------------------------------


def _trim_subgraphs(model: ir.Model, edit: Editor) -> bool:
    """Drop outputs of subgraphs, of later nodes first: they are what reads earlier ones."""
    operators = Operators(model)
    live = Liveness(model, operators)
    for node in nodes(model):
        if operators.effect(node) is not Effect.PURE:
            live.mark_node(node)
    trimmer = _Trimmer(live, edit)
    for graph in (*(function.graph for function in model.functions.values()), model.graph):
        trimmer.walk(graph)
    return trimmer.has_trimmed


class _Trimmer:
    """Walks graphs backwards, subgraphs after the node that holds them."""

    def __init__(self, live: Liveness, edit: Editor) -> None:
        self._live = live
        self._edit = edit
        self.has_trimmed = False

    def walk(self, graph: ir.Graph) -> None:
        """Trim the nodes of ``graph``."""
        for node in reversed(tuple(graph)):
            if node.graph is None:
                continue  # it went with an output
            ports = self._live.ports(node)
            bodies = subgraphs_of(node)
            if ports is not None and node in self._live.nodes:
                self._trim(ports)
            for body in bodies:
                self.walk(body)

    def _trim(self, ports: Ports) -> None:
        self._live.mark(value for value in ports.node.outputs if _is_read(value))
        self._live.mark_strays(ports)
        trim = _Trim.of(ports, self._live)
        if not any(ports.node.inputs[index] for index in trim.inputs[1:]):
            # A Loop without a condition needs state: its last inputs cannot be left out otherwise.
            self._live.mark(ports.bodies[0].inputs[ports.first_body_input :][:1])
            self._live.mark_strays(ports)
            trim = _Trim.of(ports, self._live)
        if trim.is_needed():
            because = f"nobody reads {trim.dropped_names()}"
            with self._edit.rewrite(ports.node, because=because) as change:
                trim.apply(change, self._live)
            self.has_trimmed |= ports.node.graph is None


@dataclass(frozen=True)
class _Trim:
    """What is left of an If, Loop or Scan, by index.

    Attributes:
        ports: The node.
        inputs: Inputs of the node.
        body_inputs: Inputs of the body.
        outputs: Outputs of the node.
    """

    ports: Ports
    inputs: tuple[int, ...]
    body_inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @classmethod
    def of(cls, ports: Ports, live: Liveness) -> _Trim:
        """Decide what is left."""
        node, body = ports.node, ports.bodies[0]

        def is_kept(index: int) -> bool:
            value, given = node.outputs[index], ports.first_body_input + index
            is_carried = index < ports.state and body.inputs[given] in live.values
            return value in live.values or is_carried

        def is_needed(position: int) -> bool:
            if position < ports.state:
                return is_kept(position)
            return body.inputs[ports.first_body_input + position] in live.values

        given = [index for index in range(ports.state + ports.scanned) if is_needed(index)]
        if not ports.scanned:  # what follows the state of an If or a Loop: nothing
            given = [index for index in given if index < ports.state]
        return cls(
            ports,
            (*range(ports.first_input), *(ports.first_input + index for index in given)),
            (*range(ports.first_body_input), *(ports.first_body_input + index for index in given)),
            tuple(index for index in range(len(node.outputs)) if is_kept(index)),
        )

    def is_needed(self) -> bool:
        """Tell whether anything is dropped."""
        kept = (len(self.inputs), len(self.outputs))
        return kept != (len(self.ports.node.inputs), len(self.ports.node.outputs))

    def dropped_names(self) -> str:
        """Return the names of the outputs that are dropped, or of the inputs."""
        node = self.ports.node
        left = [v for i, v in enumerate(node.outputs) if i not in self.outputs]
        left = left or [v for i, v in enumerate(node.inputs) if i not in self.inputs if v]
        return ", ".join(f"`{value.name}`" for value in left)

    def apply(self, change: Change, live: Liveness) -> None:
        """Make the node anew, with what is left of its subgraphs."""
        ports, node = self.ports, self.ports.node
        fixed = range(ports.first_body_output)
        kept = (*fixed, *(ports.first_body_output + index for index in self.outputs))
        for body in ports.bodies:
            change.then(partial(_keep, body.outputs, kept))
            change.then(partial(_keep, body.inputs, self.body_inputs))
            for inner in reversed(body):
                if inner not in live.nodes:
                    change.remove(inner)
        attributes = {**node.attributes, **self._scan_attributes()}
        change.then(node.attributes.clear)  # else its subgraphs would be taken apart with it
        inputs = [node.inputs[index] for index in self.inputs]
        values = change.multi_output_node(
            node.op_type, inputs, len(self.outputs), attributes=attributes, name=node.name
        )
        for index, value in zip(self.outputs, values, strict=True):
            change.replace(node.outputs[index], value)
        change.then(partial(_take_over, node, values, self.outputs))
        change.remove(node)

    def _scan_attributes(self) -> Mapping[str, Any]:
        """Return the attributes of a Scan that have an entry for each scanned input or output."""
        ports = self.ports
        if not ports.scanned:
            return {}
        scanned = [i - ports.state for i in self.inputs if i >= ports.state]
        collected = [i - ports.state for i in self.outputs if i >= ports.state]
        found: dict[str, Any] = {"num_scan_inputs": len(scanned)}
        for side, left in (("input", scanned), ("output", collected)):
            for kind in ("axes", "directions"):
                attribute = ports.node.attributes.get(f"scan_{side}_{kind}")
                if attribute is not None:
                    entries = attribute.as_ints()
                    found[attribute.name] = [entries[index] for index in left] or None
        return found


def _keep(values: Any, indices: Sequence[int]) -> None:
    """Leave only the values at ``indices`` in a list of inputs or outputs."""
    kept = [values[index] for index in indices]
    values.clear()
    values.extend(kept)


def _take_over(old: ir.Node, values: Sequence[ir.Value], indices: Iterable[int]) -> None:
    """Give the new node and its outputs the names of the old ones, and what is said of them."""
    new = values[0].producer()
    assert new is not None
    old.name, new.name = new.name, old.name
    new.doc_string = old.doc_string
    new.metadata_props.update(old.metadata_props)
    new.meta.update(old.meta)
    for index, value in zip(indices, values, strict=True):
        before = old.outputs[index]
        if not value.is_graph_output():  # that took over the name already
            before.name, value.name = value.name, before.name
            value.doc_string = before.doc_string
            value.metadata_props.update(before.metadata_props)
