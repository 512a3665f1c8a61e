"""Every attention of a model, and the heads that it has: so that none is passed over in silence."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from graphopt.analysis.coupling.groups import Group
from graphopt.analysis.coupling.structure import Coupling
from graphopt.analysis.coupling.units import Pin
from graphopt.analysis.coupling.walk import name_of
from graphopt.ir import graphs

__all__ = ["AttentionSite", "find_attentions"]

_PRODUCTS = frozenset({"MatMul", "FusedMatMul", "Einsum"})
_CARRIERS = frozenset(
    (
        "Add",
        "Cast",
        "Dropout",
        "Identity",
        "IsNaN",
        "Mul",
        "Reshape",
        "Squeeze",
        "Unsqueeze",
        "Where",
    )
)
_FUSED = "Attention"


@dataclass(frozen=True)
class AttentionSite:
    """One attention: a Softmax and the product of its weights with values, or one operator.

    Attributes:
        node: The product, or the operator.
        group: Its heads; ``None``: they are no units.
        pin: Why they are none, or cannot go; ``None`` where they can.
    """

    node: ir.Node
    group: Group | None
    pin: Pin | None


def find_attentions(
    model: ir.Model, coupling: Coupling, groups: Sequence[Group]
) -> tuple[AttentionSite, ...]:
    """Return every attention of the main graph, of subgraphs and of functions."""
    # Heads of queries may go where those of keys and values, that a cache holds, have to stay.
    ordered = sorted(groups, key=lambda group: group.pin is None)
    owners = {use.node: group for group in ordered for use in group.attentions}
    main = set(model.graph)
    found = []
    for node in _products(model):
        group = owners.get(node)
        pin = group.pin if group is not None else _reason(node, coupling, is_main=node in main)
        found.append(AttentionSite(node, group, pin))
    return tuple(found)


def _products(model: ir.Model) -> Iterator[ir.Node]:
    """Yield the operators that multiply values by the weights of a Softmax, or do all of it."""
    main = list(model.graph)
    inner = [node for graph in graphs(model) if graph is not model.graph for node in graph]
    for node in [*main, *inner]:
        if node.op_type.endswith(_FUSED):
            yield node
        elif node.op_type == "Softmax" and (product := _product_after(node)) is not None:
            yield product


def _product_after(softmax: ir.Node) -> ir.Node | None:
    """Return the product that a Softmax gives the weights of, behind masks, casts and reshapes."""
    waiting, seen = deque(softmax.outputs[:1]), set(softmax.outputs[:1])
    while waiting:
        value = waiting.popleft()
        for use in value.uses():
            reader = use.node
            if reader.op_type in _PRODUCTS:
                is_weight = any(
                    item is not None and item.is_initializer() for item in reader.inputs
                )
                # Values of an attention are computed: a Softmax before a weight of the model is
                # something else.
                return None if is_weight else reader
            if reader.op_type in _CARRIERS and reader.outputs[0] not in seen:
                seen.add(reader.outputs[0])
                waiting.append(reader.outputs[0])
    return None


def _reason(node: ir.Node, coupling: Coupling, *, is_main: bool) -> Pin:
    """Return why the heads of an attention are no units."""
    where = name_of(node)
    if not is_main:
        return Pin("in-subgraph", "it lies in the body of an operator or function", where)
    layout = coupling.layouts.get(node.outputs[0])
    if layout is None:
        return Pin("unclear-shape", "the shape of what it computes is not known", where)
    pins = [
        coupling.units.pin(unit)
        for axis in layout
        for factor in axis
        if factor.atoms is not None
        for unit in coupling.units.of(factor).tolist()
    ]
    if not any(axis for axis in layout[1:-2]):
        return Pin("single-head", "it has one head", where)
    cause = next((pin for pin in pins if pin is not None), None)
    return cause or Pin("no-projection", "no weight of the model makes its heads", where)
