"""Elimination of state that no trip of a loop changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from graphopt.analysis import Operators, is_annotated
from graphopt.analysis.liveness import Ports, ports_of
from graphopt.analysis.operands import operand
from graphopt.analysis.trial_runs import contradictory_places
from graphopt.ir import graphs
from graphopt.rewrite import (
    Contract,
    Editor,
    Exact,
    Facts,
    Pass,
    can_replace,
    describe,
    is_overwritten,
)

__all__ = ["EliminateConstantState"]


@dataclass(frozen=True, kw_only=True)
class EliminateConstantState(Pass):
    """Read from outside what a Loop or Scan carries from trip to trip unchanged.

    What it does
        Where the body returns a part of its state as it was given, lets the body, and what follows
        the loop, read the initial value. That is then invariant, and the state can be dropped:
        see `hoist-loop-invariants` and `eliminate-unused-outputs`.

    When it refuses
        `annotated`     a quantization annotation describes the state.
        `overwritten`   BatchNormalization in training mode updates it in place.
        `contradictory` shape inference, which the runtime runs when it loads a model, would find a
                        contradiction in what reads the state.
        `no-identity`   the graph returns it, it is no tensor, and the opset cannot copy it.

    What it keeps
        The model's inputs and outputs, their names, order, types and shapes; every bit of them.

    Cost
        Time O(nodes + edges); memory O(nodes). No weight is read.

    Example
        before  (int64 n, float[2] x, float[2] y) => (float[2] z) { z, w = Loop(n, "", x, y) <body = b (int64 i, bool c, float[2] s, float[2] t) => (bool d, float[2] r, float[2] u) { d = Identity(c)  r = Add(s, t)  u = Identity(t) }> }
        after   (int64 n, float[2] x, float[2] y) => (float[2] z) { z, w = Loop(n, "", x, y) <body = b (int64 i, bool c, float[2] s, float[2] t) => (bool d, float[2] r, float[2] u) { d = Identity(c)  r = Add(s, y)  u = Identity(y) }> }

    References
        ONNX operators Loop and Scan; Aho, Lam, Sethi, Ullman, Compilers, section 9.4.
    """  # noqa: E501 - the example is one line of ONNX text

    name: ClassVar[str] = "eliminate-constant-state"
    contract: ClassVar[Contract] = Contract(numerics=Exact(), is_idempotent=True)
    anchors: ClassVar[frozenset[str] | None] = frozenset({"Loop", "Scan"})

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:  # noqa: ARG002
        """Read state from outside, where shape inference goes on to accept the model."""
        _eliminate(model, edit, contradictory_places(model, _eliminate))


def _eliminate(model: ir.Model, edit: Editor, places: frozenset[str]) -> None:
    """Act but at ``places``, on inner loops first: what they read outer ones carry unchanged."""
    operators = Operators(model)
    for graph in graphs(model):
        for node in tuple(graph):
            ports = ports_of(node, operators)
            for index in range(ports.state if ports is not None else 0):
                assert ports is not None
                version = operators.version(node) or 1
                _read_from_outside(
                    ports, index, version, edit, is_excluded=describe(node) in places
                )


_IDENTITY_OF_OPTIONALS_SINCE = 16


def _read_from_outside(
    ports: Ports, index: int, version: int, edit: Editor, *, is_excluded: bool
) -> None:
    body, output = ports.bodies[0], ports.node.outputs[index]
    carried = body.inputs[ports.first_body_input + index]
    initial = operand(ports.node, ports.first_input + index)
    is_read = bool(output.uses()) or output.is_graph_output()
    if initial is None or not (carried.uses() or is_read):
        return
    if _origin(body.outputs[ports.first_body_output + index]) not in (carried, initial):
        return
    slug = "contradictory" if is_excluded else _refusal(carried, output, version)
    if slug:
        edit.refuse(ports.node, slug)
        return
    because = f"no trip changes `{carried.name}`"
    with edit.rewrite(ports.node, because=because) as change:
        for user, position in carried.uses():  # not `replace`: the body may return it itself
            change.set_input(user, position, initial)
        if is_read:
            last = initial
            if not can_replace(output, initial):
                last = change.node("Identity", [initial], like=output, after=ports.node)
            change.replace(output, last)


def _refusal(carried: ir.Value, output: ir.Value, version: int) -> str | None:
    if is_annotated(carried) or is_annotated(output):
        return "annotated"
    if is_overwritten(carried) or is_overwritten(output):
        return "overwritten"
    is_copied = output.is_graph_output() and not isinstance(output.type, ir.TensorType)
    return "no-identity" if is_copied and version < _IDENTITY_OF_OPTIONALS_SINCE else None


def _origin(value: ir.Value) -> ir.Value:
    """Return what ``value`` is a copy of."""
    producer = value.producer()
    while producer is not None and producer.op_type == "Identity" and not producer.domain:
        source = operand(producer, 0)
        if source is None:
            break
        value, producer = source, source.producer()
    return value
