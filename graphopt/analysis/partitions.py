"""Cutting a graph between an accelerator and a host, as runtimes do it, before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from graphopt.ir import constant_tensor

__all__ = ["Cut", "cut"]

_QUANTIZE, _DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


@dataclass(frozen=True)
class Cut:
    """A graph in pieces.

    Attributes:
        partitions: Pieces on the accelerator. No path leads from one through the host back into
            it, so that each can run at once; that is the least number with that property along
            paths, and a runtime may need more.
        copies: Values that one side makes and the other reads.
        inside: Nodes on the accelerator, in the order of the graph.
        outside: Nodes on the host.
    """

    partitions: int
    copies: int
    inside: Sequence[ir.Node]
    outside: Sequence[ir.Node]


def cut(
    graph: ir.Graph,
    is_supported: Callable[[ir.Node], bool],
    joins: Callable[[ir.Node], bool] = lambda _: False,
) -> Cut:
    """Cut a graph; nodes of branches and loops go with the node that holds them.

    Nodes whose operands are all constant are left out: they are folded when the model is loaded. A
    quantizer goes where the operator goes that it belongs to: `QuantizeLinear` with what makes its
    operand, `DequantizeLinear` with what reads its result.

    Args:
        graph: Its nodes in an order in which they can run.
        is_supported: Whether the accelerator runs a node.
        joins: Whether a node that it does not run becomes part of the one that makes its operand,
            if that has no other reader: activations that a layer applies itself.
    """
    nodes = [node for node in graph if not _is_constant(node)]
    sides = {node: is_supported(node) for node in nodes if not _is_quantizer(node)}
    for node in nodes:  # in order: what makes the operand has its side already
        if node.op_type == _QUANTIZE:
            maker = node.inputs[0].producer() if node.inputs[0] is not None else None
            if maker is not None and maker in sides:
                sides[node] = sides[maker]
    for node in nodes:
        if not sides.get(node, True) and joins(node):
            maker = node.inputs[0].producer() if node.inputs[0] is not None else None
            sides[node] = (
                maker is not None and sides.get(maker, False) and len(_readers(maker)) == 1
            )
    for node in reversed(nodes):
        if node not in sides:
            readers = [sides[reader] for reader in _readers(node) if reader in sides]
            sides[node] = any(readers) if readers else is_supported(node)
    depths: dict[ir.Node, int] = {}
    for node in nodes:
        # The depth counts how often the longest way to a node changes sides: pieces of one depth
        # wait for none of each other.
        before = [
            depths[maker] + (sides[maker] != sides[node])
            for maker in _makers(node)
            if maker in depths
        ]
        depths[node] = max(before, default=0 if sides[node] else 1)
    inside = [node for node in nodes if sides[node]]
    crossing = {
        value
        for node in nodes
        for value in node.outputs
        if any(sides.get(use.node, sides[node]) != sides[node] for use in value.uses())
    }
    return Cut(
        partitions=len({depths[node] for node in inside}),
        copies=len(crossing),
        inside=inside,
        outside=[node for node in nodes if not sides[node]],
    )


def _is_quantizer(node: ir.Node) -> bool:
    return node.op_type in (_QUANTIZE, _DEQUANTIZE)


def _is_constant(node: ir.Node) -> bool:
    operands = [value for value in node.inputs if value is not None]
    if node.op_type == "Constant":
        return True
    return bool(operands) and all(constant_tensor(value) is not None for value in operands)


def _readers(node: ir.Node) -> list[ir.Node]:
    return [use.node for value in node.outputs for use in value.uses()]


def _makers(node: ir.Node) -> list[ir.Node]:
    made = (value.producer() for value in node.inputs if value is not None)
    return [maker for maker in made if maker is not None]
