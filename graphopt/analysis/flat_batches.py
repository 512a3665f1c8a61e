"""Parts of a graph that work on matrices in one row: ``(b*h, m, n)`` for ``(b, h, m, n)``.

Products of matrices, and what works row by row or element by element, give the same either way. A
part with a Reshape at each of its borders needs none of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import onnx_ir as ir

from graphopt.analysis.operands import int_attribute, operand
from graphopt.analysis.symbolic_shapes import Dims, SymbolicShapes

__all__ = ["FlatRegion", "flat_region"]

_FLAT_RANK = 3
_MAX_NODES = 32
_LAST_AXIS_SINCE = 13
_UNARY = frozenset({"Cast", "Exp", "IsNaN", "Neg", "Relu", "Sigmoid", "Tanh"})
_BINARY = frozenset({"Add", "Div", "Mul", "Sub"})


@dataclass
class FlatRegion:
    """Nodes whose results are matrices in one row.

    Attributes:
        nodes: The nodes.
        inputs: Flat values that they read and others compute, in the order in which they were met.
        outer: The two sizes whose product is the first dimension of each.
    """

    nodes: dict[ir.Node, None] = field(default_factory=dict)
    inputs: dict[ir.Value, None] = field(default_factory=dict)
    outer: Dims = ()

    def readers(self, value: ir.Value) -> Iterator[ir.Node]:
        """Yield the nodes outside that read ``value``."""
        yield from dict.fromkeys(user for user, _ in value.uses() if user not in self.nodes)

    def unflat(self, dims: Dims) -> Dims:
        """Return the dimensions of a flat value with its first one cut in two."""
        return (*self.outer, *dims[1:])


def flat_region(seed: ir.Node, known: SymbolicShapes) -> FlatRegion | None:
    """Return the region around a product of matrices, or ``None`` where there is none to cut."""
    region, pending = FlatRegion(), [seed]
    while pending and len(region.nodes) <= _MAX_NODES:
        node = pending.pop()
        operands = None if node in region.nodes else _flat_operands(node, known)
        if operands is None or node.graph is not seed.graph:
            continue
        region.nodes[node] = None
        pending.extend(user for user, _ in node.outputs[0].uses())
        producers = (value.producer() for value in operands)
        pending.extend(producer for producer in producers if producer is not None)
    # A region that was left half explored has borders with no Reshape.
    if seed not in region.nodes or pending:
        return None
    for node in region.nodes:
        for value in _flat_operands(node, known) or ():
            if value.producer() not in region.nodes:
                region.inputs[value] = None
    outer = _outer(region, known)
    region.outer = outer or ()
    return region if outer is not None else None


def _flat_operands(node: ir.Node, known: SymbolicShapes) -> list[ir.Value] | None:
    """Return the operands that are matrices in one row; ``None``: the result is none."""
    dims = known.dims(node.outputs[0]) if len(node.outputs) == 1 and not node.domain else None
    if dims is None or len(dims) != _FLAT_RANK:
        return None
    data = [value for value in node.inputs if value is not None]
    flat = [value for value in data if _is_flat(value, dims, known)]
    return flat if flat and _is_matrix_by_matrix(node, (data, flat), known) else None


def _is_matrix_by_matrix(
    node: ir.Node, operands: tuple[list[ir.Value], list[ir.Value]], known: SymbolicShapes
) -> bool:
    """Tell whether each matrix of the result follows from those at its place in the operands."""
    data, flat = operands
    if node.op_type == "MatMul":
        return len(flat) == len(data)
    if node.op_type == "Softmax":
        # Before opset 13 a Softmax was over all axes from `axis` on: over the last one alone it is
        # the same.
        default = -1 if known.version >= _LAST_AXIS_SINCE else 1
        return int_attribute(node, "axis", default) in (-1, _FLAT_RANK - 1)
    if node.op_type in _UNARY:
        return True
    others = [known.dims(value) for value in data if value not in flat]
    is_shared = all(dims is not None and len(dims) < _FLAT_RANK for dims in others)
    return node.op_type in _BINARY and is_shared


def _is_flat(value: ir.Value, dims: Dims, known: SymbolicShapes) -> bool:
    own = known.dims(value)
    return own is not None and len(own) == _FLAT_RANK and own[0] == dims[0]


def _outer(region: FlatRegion, known: SymbolicShapes) -> Dims | None:
    """Return the two sizes that a Reshape at a border of the region makes of the first one."""
    for value in region.inputs:
        flat, producer = known.dims(value), value.producer()
        if producer is not None and producer.op_type == "Reshape" and flat is not None:
            found = _cut(known.dims(operand(producer, 0)), flat)
            if found is not None:
                return found
    for node in region.nodes:
        flat = known.dims(node.outputs[0])
        for reader in region.readers(node.outputs[0]):
            if reader.op_type == "Reshape" and flat is not None:
                found = _cut(known.dims(reader.outputs[0]), flat)
                if found is not None:
                    return found
    return None


def _cut(dims: Dims | None, flat: Dims) -> Dims | None:
    if dims is None or len(dims) != _FLAT_RANK + 1 or dims[2:] != flat[1:]:
        return None
    return dims[:2] if dims[0] * dims[1] == flat[0] else None
