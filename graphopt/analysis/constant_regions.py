"""Connected parts of a model that compute constants, and what storing their results would cost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import onnx_ir as ir

from graphopt.analysis.foldability import FoldableNodes, tensor_bytes
from graphopt.ir import constant_tensor
from graphopt.rewrite import ShapeTable

__all__ = ["ConstantRegion", "choose_regions"]

_SHARED_BYTES = 1024
"""A weight of at least this size ties its readers together: it is freed by all or by none."""

_ROUNDS = 8
_NEGLIGIBLE_BYTES = 64


@dataclass(frozen=True)
class ConstantRegion:
    """Nodes that can be replaced together by constants.

    Attributes:
        nodes: The nodes, in an order in which they could run.
        results: Their outputs that other nodes read.
        freed: Initializers that nobody else reads.
        growth_bytes: By how much the file would grow, an estimate from above.
    """

    nodes: tuple[ir.Node, ...]
    results: tuple[ir.Value, ...]
    freed: tuple[ir.Value, ...]
    growth_bytes: int


def choose_regions(
    foldable: FoldableNodes, shapes: ShapeTable, budget_bytes: int
) -> tuple[list[ConstantRegion], list[ConstantRegion]]:
    """Choose what to fold so that the whole file grows by no more than ``budget_bytes``.

    The most profitable regions come first; what they save, later ones may spend. Of a region that
    does not fit, the nodes whose results are large are left to run, and the rest is tried again.

    Returns:
        The regions to fold, and those that would make the file grow.
    """
    members = list(foldable.arrays)
    chosen: list[ConstantRegion] = []
    rejected: list[ConstantRegion] = []
    for _ in range(_ROUNDS):
        retry: list[ir.Node] = []
        rejected = []
        regions = (_measured(part, shapes) for part in _connected(members))
        for region in sorted(regions, key=lambda region: region.growth_bytes):
            if region.growth_bytes <= budget_bytes:
                chosen.append(region)
                budget_bytes -= region.growth_bytes
            else:
                rejected.append(region)
                retry.extend(_without_large_results(region, shapes))
        if not retry:
            break
        members = retry
    return chosen, rejected


def _without_large_results(region: ConstantRegion, shapes: ShapeTable) -> Iterator[ir.Node]:
    large = {
        value.producer()
        for value in region.results
        if (tensor_bytes(value, shapes) or 0) > _NEGLIGIBLE_BYTES
    }
    return (node for node in region.nodes if node not in large) if large else iter(())


def _connected(members: list[ir.Node]) -> list[tuple[ir.Node, ...]]:
    """Split nodes into parts that share no value computed in them and no large weight."""
    parent = {node: node for node in members}

    def root(node: ir.Node) -> ir.Node:
        while parent[node] is not node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    first_reader: dict[ir.Value, ir.Node] = {}
    for node in members:
        if node.op_type == "Constant":
            continue  # becomes an initializer on its own, whoever reads it
        for value in node.inputs:
            other = _tied_to(value, first_reader, node)
            if other in parent:
                parent[root(node)] = root(other)
    parts: dict[ir.Node, list[ir.Node]] = {}
    for node in members:
        parts.setdefault(root(node), []).append(node)
    return [tuple(part) for part in parts.values()]


def _tied_to(
    value: ir.Value | None, first_reader: dict[ir.Value, ir.Node], node: ir.Node
) -> ir.Node:
    if value is None:
        return node
    producer = value.producer()
    if producer is not None:
        return node if producer.op_type == "Constant" else producer
    tensor = constant_tensor(value)
    if tensor is None or tensor.nbytes < _SHARED_BYTES:
        return node
    return first_reader.setdefault(value, node)


def _measured(nodes: tuple[ir.Node, ...], shapes: ShapeTable) -> ConstantRegion:
    inside = set(nodes)
    results = tuple(
        value
        for node in nodes
        for value in node.outputs
        if any(user not in inside for user, _ in value.uses())
    )
    read = {value: None for node in nodes for value in node.inputs if value is not None}
    freed = tuple(value for value in read if _is_freed(value, inside))
    cost = sum(_stored_bytes(value, shapes) for value in results)
    saved = sum(_node_bytes(node) for node in nodes) + sum(_initializer_bytes(v) for v in freed)
    return ConstantRegion(nodes, results, freed, cost - saved)


def _is_freed(value: ir.Value, inside: set[ir.Node]) -> bool:
    if not value.is_initializer() or value.is_graph_input() or value.is_graph_output():
        return False
    return all(user in inside for user, _ in value.uses())


# -- sizes in the file; protobuf spends about two bytes on each field beside its content ----------


def _stored_bytes(value: ir.Value, shapes: ShapeTable) -> int:
    tensor = constant_tensor(value)
    size = tensor.nbytes if tensor is not None else tensor_bytes(value, shapes) or 0
    known = shapes.of(value)
    rank = len(known.dims) if known is not None and known.dims is not None else 0
    return size + len(value.name or "") + 6 * rank + 16


def _initializer_bytes(value: ir.Value) -> int:
    tensor = value.const_value
    return (tensor.nbytes if tensor is not None else 0) + len(value.name or "") + 8


def _node_bytes(node: ir.Node) -> int:
    names = [node.name, node.op_type, *(v.name for v in (*node.inputs, *node.outputs) if v)]
    attributes = sum(_attribute_bytes(attribute) for attribute in node.attributes.values())
    return sum(len(name or "") + 2 for name in names) + attributes + 2


def _attribute_bytes(attribute: ir.Attr) -> int:
    held = attribute.value
    size = held.nbytes if isinstance(held, ir.TensorProtocol) else 1
    if isinstance(held, (tuple, list, str)):
        size = len(held)
    return size + len(attribute.name) + 6


def total_weight_bytes(values: Iterable[ir.Value]) -> int:
    """Return the bytes of the initializers among ``values``."""
    tensors = (constant_tensor(value) for value in values)
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)
