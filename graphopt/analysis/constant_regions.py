"""Connected parts of a model that compute constants, and what storing their results would cost."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import onnx_ir as ir

from graphopt.analysis.foldability import FoldableNodes, tensor_bytes
from graphopt.ir import constant_tensor, tensor_dims
from graphopt.rewrite import ShapeTable

__all__ = [
    "ConstantRegion",
    "FoldingPart",
    "FoldingPlan",
    "frame_bytes",
    "plan_folding",
    "total_weight_bytes",
]

_SHARED_BYTES = 1024
"""A weight of at least this size ties its readers together: it is freed by all or by none.

Smaller ones do so at the first try only, lest one large result keep all of them from being folded.
"""

_ROUNDS = 8
_NEGLIGIBLE_BYTES = 64


@dataclass(frozen=True)
class ConstantRegion:
    """Nodes that can be replaced together by constants.

    Attributes:
        nodes: The nodes, in an order in which they could run.
        results: Their outputs that other nodes read.
        growth_bytes: By how much the file would grow, an estimate from above; weights that nobody
            else reads are counted as saved.
    """

    nodes: tuple[ir.Node, ...]
    results: tuple[ir.Value, ...]
    growth_bytes: int

    def freed(self) -> list[ir.Value]:
        """Return the initializers that nobody but the nodes reads, as the model is now."""
        return _freed_by(self.nodes, {})


@dataclass(frozen=True)
class FoldingPart:
    """Regions that save weights together.

    Attributes:
        regions: The regions; none depends on another.
        growth_bytes: By how much the file would grow if all are folded, an estimate from above.
    """

    regions: tuple[ConstantRegion, ...]
    growth_bytes: int


@dataclass
class FoldingPlan:
    """What to fold, and what not.

    Attributes:
        parts: What to fold, what saves most first.
        left_out: Nodes whose results would make the file grow, with the bytes.
    """

    parts: list[FoldingPart] = field(default_factory=list)
    left_out: dict[ir.Node, int] = field(default_factory=dict)


def plan_folding(foldable: FoldableNodes, shapes: ShapeTable, budget_bytes: int) -> FoldingPlan:
    """Choose what to fold so that the whole file grows by no more than ``budget_bytes``.

    The most profitable parts come first; what they save, later ones may spend. Of a part that does
    not fit, the nodes whose results are large are left to run, and the rest is tried again.
    """
    plan = FoldingPlan()
    uses: _Uses = {}
    members = list(foldable.arrays)
    tie_bytes = 0
    for _ in range(_ROUNDS):
        retry: list[ir.Node] = []
        parts = (_measured(part, shapes, uses) for part in _connected(members, tie_bytes))
        for part in sorted(parts, key=lambda part: part.growth_bytes):
            if part.growth_bytes <= budget_bytes:
                budget_bytes -= part.growth_bytes
                plan.parts.append(_split(part, shapes, uses))
            elif tie_bytes == 0:
                retry.extend(part.nodes)
            else:
                retry.extend(_without_large_results(part, shapes, plan))
        tie_bytes = _SHARED_BYTES
        members = retry
    plan.parts.sort(key=lambda part: part.growth_bytes)
    return plan


def _split(part: ConstantRegion, shapes: ShapeTable, uses: _Uses) -> FoldingPart:
    """Split ``part`` where only weights hold it together: one failure shall not spoil all."""
    if len(part.nodes) == 1:
        return FoldingPart((part,), part.growth_bytes)
    pieces = _connected(list(part.nodes), sys.maxsize)
    if len(pieces) == 1:
        return FoldingPart((part,), part.growth_bytes)
    regions = tuple(_measured(nodes, shapes, uses) for nodes in pieces)
    return FoldingPart(regions, part.growth_bytes)


def _without_large_results(
    part: ConstantRegion, shapes: ShapeTable, plan: FoldingPlan
) -> Iterator[ir.Node]:
    sizes = {value.producer(): tensor_bytes(value, shapes) or 0 for value in part.results}
    large = {node for node, size in sizes.items() if size > _NEGLIGIBLE_BYTES} or set(sizes)
    plan.left_out.update((node, part.growth_bytes) for node in part.nodes if node in large)
    return (node for node in part.nodes if node not in large)


def _connected(members: list[ir.Node], tie_bytes: int) -> list[tuple[ir.Node, ...]]:
    """Split nodes into parts that share no value computed in them, and no weight of that size."""
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
            other = _tied_to(value, first_reader, node, tie_bytes)
            if other in parent:
                parent[root(node)] = root(other)
    parts: dict[ir.Node, list[ir.Node]] = {}
    for node in members:
        parts.setdefault(root(node), []).append(node)
    return [tuple(part) for part in parts.values()]


def _tied_to(
    value: ir.Value | None, first_reader: dict[ir.Value, ir.Node], node: ir.Node, tie_bytes: int
) -> ir.Node:
    if value is None:
        return node
    producer = value.producer()
    if producer is not None:
        return node if producer.op_type == "Constant" else producer
    tensor = constant_tensor(value)
    if tensor is None or tensor.nbytes < tie_bytes:
        return node
    return first_reader.setdefault(value, node)


def _measured(nodes: tuple[ir.Node, ...], shapes: ShapeTable, uses: _Uses) -> ConstantRegion:
    if len(nodes) == 1:
        # Most are single Constants, which everything that reads them is outside of.
        results = tuple([value for value in nodes[0].outputs if value.uses()])
        if nodes[0].op_type == "Constant" and "value" in nodes[0].attributes.data:
            # What is stored is the same tensor.
            return ConstantRegion(nodes, results, -frame_bytes(nodes[0]))
    else:
        inside = set(nodes)
        results = tuple(
            value
            for node in nodes
            for value in node.outputs
            if any(user not in inside for user, _ in value.uses())
        )
    growth = sum([_stored_bytes(value, shapes) for value in results])
    growth -= sum([_initializer_bytes(value) for value in _freed_by(nodes, uses)])
    growth -= sum([_node_bytes(node) for node in nodes])
    return ConstantRegion(nodes, results, growth)


def frame_bytes(node: ir.Node) -> int:
    """Return what a ``Constant`` takes beyond its tensor and the name of its output, or more."""
    return len(node.name or "") + _FRAME_BYTES


_FRAME_BYTES = 24


_Uses = dict[ir.Value, int]
"""How often values are read, counted when it is first asked for: some constants have a reader in
every layer, and each of these asks."""


def _freed_by(nodes: Iterable[ir.Node], uses: _Uses) -> list[ir.Value]:
    """Return the initializers that nobody but ``nodes`` reads, in the order of reading.

    None of ``nodes`` has a subgraph. What ``uses`` does not know is counted there.
    """
    read = Counter(value for node in nodes for value in node.inputs if value is not None)
    return [value for value, count in read.items() if _is_freed(value, count, uses)]


def _is_freed(value: ir.Value, count: int, uses: _Uses) -> bool:
    if not value.is_initializer() or value.is_graph_input() or value.is_graph_output():
        return False
    if value not in uses:
        uses[value] = len(value.uses())
    return uses[value] == count


# -- sizes in the file: protobuf writes a field as a tag, its length and its content --------------


def _field(size: int) -> int:
    return 1 + _varint(size) + size


def _varint(number: int) -> int:
    return max(1, (number.bit_length() + 6) // 7)


def _stored_bytes(value: ir.Value, shapes: ShapeTable) -> int:
    """Return the bytes of ``value`` as an initializer, under its name and a number."""
    tensor = constant_tensor(value)
    known = shapes.of(value)
    if tensor is not None:
        dims: Iterable[int | str | None] = tensor_dims(tensor)
        size = tensor.nbytes
    else:
        dims = known.dims or () if known is not None else ()
        size = tensor_bytes(value, shapes) or 0
    return _tensor_bytes(len(value.name or "") + _SUFFIX_BYTES, dims, size)


_SUFFIX_BYTES = 4


def _tensor_bytes(name: int, dims: Iterable[int | str | None], size: int) -> int:
    sizes = sum(1 + _varint(dim) for dim in dims if isinstance(dim, int))
    return _field(sizes + 2 + _field(name) + _field(size))


def _initializer_bytes(value: ir.Value) -> int:
    tensor = value.const_value
    if tensor is None:
        return 0
    return _tensor_bytes(len(value.name or ""), tensor_dims(tensor), tensor.nbytes)


def _node_bytes(node: ir.Node) -> int:
    held = [value for value in (*node.inputs, *node.outputs) if value is not None]
    names = [node.name, node.op_type, *[value.name for value in held]]
    attributes = [_attribute_bytes(attribute) for attribute in node.attributes.data.values()]
    # A key and a length of one byte each: those of long names take more.
    return _field(sum([len(name) + 2 for name in names if name]) + sum(attributes))


def _attribute_bytes(attribute: ir.Attr) -> int:
    """Return the bytes of an attribute, an estimate from below."""
    held = attribute.value
    size = 1
    if attribute.type == ir.AttributeType.TENSOR and not attribute.is_ref():
        size = _tensor_bytes(0, tensor_dims(held), held.nbytes)
    elif isinstance(held, (tuple, list, str)):
        size = len(held)
    return _field(_field(len(attribute.name)) + size + 3)


def total_weight_bytes(values: Iterable[ir.Value]) -> int:
    """Return the bytes of the initializers among ``values``."""
    tensors = (constant_tensor(value) for value in values)
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)
