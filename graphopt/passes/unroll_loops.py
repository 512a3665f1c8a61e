"""Unrolling of loops whose number of trips is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis import Effect, Operators, is_annotated
from graphopt.analysis.loops import Loop, is_loop
from graphopt.analysis.reads import values_read
from graphopt.analysis.trial_runs import contradictory_places
from graphopt.ir import subgraphs_of
from graphopt.rewrite import (
    Bindings,
    Change,
    Contract,
    Editor,
    Exact,
    Facts,
    Pass,
    adopt_initializers,
    copy_nodes,
    describe,
    is_overwritten,
    repeated_names,
)

__all__ = ["UnrollLoops"]


@dataclass(frozen=True, kw_only=True)
class UnrollLoops(Pass):
    """Replace a Loop by the nodes of its trips, where there are no more of them than before.

    What it does
        Puts the initial state in the place of a Loop that never runs, and the body in the place of
        one that runs once. One that runs more often is unrolled where that leaves no more nodes
        than the Loop and its body had. Each trip costs about a microsecond of its own, which goes.

    When it refuses
        `grows-the-graph`  unrolled, there would be more nodes.
        `random`           a node draws random numbers, or trains, in each of several trips.
        `unknown-effect`   an operator of an unknown domain runs in each of several trips.
        `empty-result`     the Loop never runs, and collects values whose shape is not declared.
        `no-identity`      a sequence or optional has to be copied, which the opset cannot.
        `contradictory`    shape inference, which the runtime runs when it loads a model, would find
                           a contradiction in what reads the result.
        `returned-twice`   the body returns one value twice.
        `annotated`        a quantization annotation describes an output.
        `overwritten`      BatchNormalization in training mode updates an output in place.

    What it keeps
        The model's inputs and outputs, their names, order, types and shapes; every bit of them.

    Cost
        Time O(nodes + edges); memory O(nodes). Weights of bodies are moved, not copied.

    Example
        before  (float[2] x) => (float[2] z) <int64 n = {1}> { z = Loop(n, "", x) <body = b (int64 i, bool c, float[2] s) => (bool d, float[2] r) { d = Identity(c)  r = Exp(s) }> }
        after   (float[2] x) => (float[2] z) <int64 n = {1}> { z = Exp(x) }

    References
        ONNX operator Loop; Muchnick, Advanced Compiler Design, section 17.4.
    """  # noqa: E501 - the example is one line of ONNX text

    name: ClassVar[str] = "unroll-loops"
    contract: ClassVar[Contract] = Contract(numerics=Exact(), is_idempotent=True)
    anchors: ClassVar[frozenset[str] | None] = frozenset({"Loop"})

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:  # noqa: ARG002
        """Unroll loops, where shape inference goes on to accept the model."""
        _unroll(model, edit, contradictory_places(model, _unroll))


def _unroll(model: ir.Model, edit: Editor, places: frozenset[str]) -> None:
    """Unroll but at ``places``, inner loops first: what is left of them counts for outer ones."""
    unroller = _Unroller(Operators(model), edit, places)
    for graph in (*(function.graph for function in model.functions.values()), model.graph):
        for node in tuple(graph):
            unroller.visit(node)


class _Unroller:
    """Walks nodes and what becomes of them."""

    def __init__(self, operators: Operators, edit: Editor, places: frozenset[str]) -> None:
        self._operators = operators
        self._places = places
        self._edit = edit
        self._repeated: frozenset[str] | None = None

    def visit(self, node: ir.Node) -> None:
        """Unroll the loops within ``node``, then ``node``, then loops whose trips are known now."""
        for inner in subgraphs_of(node):
            for child in tuple(inner):
                self.visit(child)
        trips = Loop(node).trips() if is_loop(node) else None
        if trips is None:
            return
        is_excluded = describe(node) in self._places
        slug = "contradictory" if is_excluded else _refusal(Loop(node), trips, self._operators)
        if slug:
            self._edit.refuse(node, slug)
            return
        if self._repeated is None:
            self._repeated = repeated_names(self._edit.model)
        with self._edit.rewrite(node, because=f"it makes {trips} trips, always") as change:
            unrolling = _Unrolling(change, Loop(node), self._operators)
            unrolling.apply(trips, self._repeated)
        if node.graph is None:
            for copy in unrolling.copies():
                self.visit(copy)


_IDENTITY_OF_OPTIONALS_SINCE = 16
_AXES_AS_INPUT_SINCE = 13


def _refusal(loop: Loop, trips: int, operators: Operators) -> str | None:
    node, body = loop.node, loop.body
    if any(is_annotated(value) for value in node.outputs):
        return "annotated"
    if any(is_overwritten(value) for value in (*node.outputs, *body.inputs)):
        return "overwritten"
    if len(set(body.outputs)) < len(body.outputs):
        return "returned-twice"
    version = operators.version(node) or 1
    is_plain = all(isinstance(value.type, ir.TensorType) for value in body.outputs)
    if version < _IDENTITY_OF_OPTIONALS_SINCE and not is_plain:
        return "no-identity"
    if trips == 0:
        is_known = all(map(_empty_shape, _read_scans(loop)))
        return None if is_known else "empty-result"
    return _repetition_refusal(loop, operators, trips) if trips > 1 else None


def _repetition_refusal(loop: Loop, operators: Operators, trips: int) -> str | None:
    effect = max((operators.effect(node) for node in loop.body), default=Effect.PURE)
    if effect is not Effect.PURE:
        return "random" if effect is Effect.RANDOM else "unknown-effect"
    collected = len(_read_scans(loop)) * (trips + 1)
    before = 1 + sum(map(_size, loop.body))
    after = trips * sum(map(_size, _needed(loop, operators))) + collected
    return "grows-the-graph" if after > before else None


def _size(node: ir.Node) -> int:
    """Return how many nodes a node is, those of its subgraphs included."""
    return 1 + sum(_size(inner) for graph in subgraphs_of(node) for inner in graph)


def _read_scans(loop: Loop) -> list[tuple[ir.Value, ir.Value]]:
    """Return the values that the Loop collects and somebody reads, outside and in the body."""
    count = loop.state_count
    pairs = zip(loop.node.outputs[count:], loop.body.outputs[1 + count :], strict=False)
    return [(outer, inner) for outer, inner in pairs if outer.uses() or outer.is_graph_output()]


def _empty_shape(scan: tuple[ir.Value, ir.Value]) -> bool:
    shape = scan[1].shape
    return shape is not None and shape.is_static() and scan[1].dtype is not None


def _needed(loop: Loop, operators: Operators) -> list[ir.Node]:
    """Return the nodes of the body without those that only say that the Loop goes on."""
    needed: set[ir.Node] = set()
    pending = [value.producer() for value in loop.body.outputs[1:]]
    pending += [node for node in loop.body if operators.effect(node) is not Effect.PURE]
    inside = set(loop.body)
    while pending:
        node = pending.pop()
        if node is None or node in needed or node not in inside:
            continue
        needed.add(node)
        pending += [value.producer() for value in values_read(node)]
    return [node for node in loop.body if node in needed]


class _Unrolling:
    """Puts the trips of one Loop in its place."""

    def __init__(self, change: Change, loop: Loop, operators: Operators) -> None:
        self._change = change
        self._loop = loop
        self._version = operators.version(loop.node) or 1
        self._nodes = _needed(loop, operators)
        self._left_out = set(loop.body).difference(self._nodes)
        self._made: list[ir.Value] = []
        self._own: set[ir.Value] = set()

    def copies(self) -> list[ir.Node]:
        """Return the nodes of all trips, once the rewrite took effect."""
        producers = dict.fromkeys(value.producer() for value in self._made)
        return [node for node in producers if node is not None]

    def apply(self, trips: int, repeated: frozenset[str]) -> None:
        """Write ``trips`` trips, and let readers of the Loop read the last."""
        loop, change = self._loop, self._change
        adopted = adopt_initializers(change, loop.body.initializers.values(), repeated)
        state: list[ir.Value | None] = list(loop.node.inputs[2 : 2 + loop.state_count])
        collected: list[list[ir.Value]] = [[] for _ in loop.body.outputs[1 + loop.state_count :]]
        for trip in range(trips):
            bindings: Bindings = {**adopted, **self._inputs(trip, state)}
            copy_nodes(change, self._nodes, bindings, before=loop.node)
            for node in self._nodes:
                self._made += _bound(node.outputs, bindings)
            returned = _bound(loop.body.outputs[1:], bindings)
            state = list(returned[: loop.state_count])
            for values, value in zip(collected, returned[loop.state_count :], strict=True):
                values.append(value)
        self._own.update(self._made)
        for outer, last in zip(loop.node.outputs, state, strict=False):
            assert last is not None  # the state has no optional parts
            self._replace(outer, last)
        scans = zip(loop.node.outputs[loop.state_count :], collected, strict=False)
        for index, (outer, values) in enumerate(scans):
            if outer.uses() or outer.is_graph_output():
                self._replace(outer, self._stacked(index, values))
        change.remove(loop.node)

    def _inputs(
        self, trip: int, state: Sequence[ir.Value | None]
    ) -> dict[ir.Value, ir.Value | None]:
        number, condition, *carried = self._loop.body.inputs
        bindings: dict[ir.Value, ir.Value | None] = dict(zip(carried, state, strict=True))
        for value, array in ((number, np.int64(trip)), (condition, np.bool_(True))):
            if value in self._loop.body.outputs[1:] or self._is_read(value):
                shape = (1,) if value.shape is not None and len(value.shape) else ()
                data = np.asarray(array).reshape(shape)
                bindings[value] = self._change.initializer(data, name=value.name or "trip")
        return bindings

    def _is_read(self, value: ir.Value) -> bool:
        return any(user not in self._left_out for user, _ in value.uses())

    def _stacked(self, index: int, values: Sequence[ir.Value]) -> ir.Value:
        """Collect one value of each trip along a new first axis."""
        inner = self._loop.body.outputs[1 + self._loop.state_count + index]
        if not values:
            assert inner.shape is not None
            assert inner.dtype is not None
            empty = np.zeros((0, *inner.shape.numpy()), inner.dtype.numpy())
            return self._change.initializer(empty, name=inner.name or "empty")
        rows = [self._unsqueezed(value) for value in values]
        row = rows[0]
        if len(rows) > 1:
            row = self._change.node("Concat", rows, attributes={"axis": 0})
        self._own.add(row)
        return row

    def _unsqueezed(self, value: ir.Value) -> ir.Value:
        if self._version < _AXES_AS_INPUT_SINCE:
            return self._change.node("Unsqueeze", [value], attributes={"axes": [0]})
        axes = self._change.initializer(np.array([0], np.int64), name="first_axis")
        return self._change.node("Unsqueeze", [value, axes])

    def _replace(self, outer: ir.Value, value: ir.Value) -> None:
        """Let ``value`` take the place of an output, as a copy where it cannot take its name."""
        if outer.is_graph_output():
            if value not in self._own:
                value = self._change.node("Identity", [value], like=outer)
            self._own.discard(value)
        if outer.uses() or outer.is_graph_output():
            self._change.replace(outer, value)


def _bound(values: Sequence[ir.Value], bindings: Bindings) -> list[ir.Value]:
    return [bindings.get(value) or value for value in values]
