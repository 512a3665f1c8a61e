"""What can be told of a 16-bit model for a GPU without running it: floats of 32 bits, the host.

Part of `verify.py`. Three kinds of trouble are looked for in the file that is shipped, or in what
the runtime made of it where that was written:

islands     nodes that compute in 32 or 64 bits between nodes in 16: each costs two Casts and the
            traffic of wide values, and tensor cores do not multiply such floats at full rate.
edges       the same at the border of the model, where inputs or outputs are wide; only products
            among them are counted as broken.
crossings   values that arithmetic of shapes makes on the host and a kernel reads as data: each is
            a copy, for which the GPU waits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir

from graphopt.ir import constant_tensor, nodes
from graphopt.rewrite import ShapeTable

__all__ = ["PRODUCTS", "Findings", "look"]

PRODUCTS = frozenset(
    {"Attention", "Conv", "ConvTranspose", "Einsum", "FusedConv", "FusedMatMul", "Gemm"}
    | {"GroupQueryAttention", "MatMul", "MultiHeadAttention"}
)
WIDE = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE})
COPIES = frozenset({"MemcpyFromHost", "MemcpyToHost"})
# Operands that kernels of the CUDA provider read on the host (`InputMemoryType(OrtMemTypeCPUInput)`
# in its registrations): by operator, from which place on.
READ_ON_THE_HOST = {
    "ConstantOfShape": 0, "CumSum": 1, "Expand": 1, "OneHot": 1, "Pad": 1, "Range": 0,
    "ReduceMax": 1, "ReduceMean": 1, "ReduceMin": 1, "ReduceSum": 1, "Reshape": 1, "Resize": 1,
    "Slice": 1, "Split": 1, "Squeeze": 1, "Tile": 1, "TopK": 1, "Trilu": 1, "Unsqueeze": 1,
}  # fmt: skip


# What fills a tensor of a computed size is not arithmetic any more.
FILLERS = frozenset({"ConstantOfShape", "Expand", "Range", "Tile"})


@dataclass
class Findings:
    """What was found; lists of node names, of each connected part one list.

    Attributes:
        islands: Parts in wide floats between 16-bit floats.
        edges: Parts in wide floats at the border of the model.
        products: Products in wide floats, wherever they are.
        casts: Casts between floats of different width.
        shape_nodes: Nodes that compute sizes, which run on the host.
        crossings: Values that they make and kernels read as data.
        copies: Copies that the runtime put in; none in a file that it did not write.
        unknown: Nodes whose type of result is not known.
    """

    islands: list[list[str]] = field(default_factory=list)
    edges: list[list[str]] = field(default_factory=list)
    products: list[str] = field(default_factory=list)
    casts: int = 0
    shape_nodes: int = 0
    crossings: list[str] = field(default_factory=list)
    copies: int = 0
    unknown: list[str] = field(default_factory=list)

    def wide(self) -> list[str]:
        """Return what computes in 32 bits and should not."""
        told: list[tuple[Sequence[Any], str]] = [
            (self.islands, "islands in 32-bit floats"),
            (self.products, "products in 32-bit floats"),
        ]
        return _counted(told)

    def read_as_data(self) -> list[str]:
        """Return what the host would have to send."""
        return _counted([(self.crossings, "values that the host computes and kernels read")])

    def untold(self) -> list[str]:
        """Return of what neither can be told."""
        return _counted([(self.unknown, "nodes whose type of result is not known")])

    def broken(self) -> list[str]:
        """Return which promises do not hold."""
        return [*self.wide(), *self.read_as_data(), *self.untold()]


def _counted(told: Iterable[tuple[Sequence[Any], str]]) -> list[str]:
    return [f"{len(found)} {what}: {found[:3]}" for found, what in told if found]


def look(model: ir.Model, shapes: ShapeTable) -> Findings:
    """Look at a model; nodes that are computed from constants alone are folded when it loads."""
    running = [node for node in nodes(model) if not _is_constant(node)]
    found = Findings()
    wide: dict[ir.Node, None] = {}
    for node in running:
        kinds = {_dtype(value, shapes) for value in node.outputs if value.name}
        if kinds == {None}:
            found.unknown.append(_name(node))
        if node.op_type == "Cast":
            found.casts += _is_between_floats(node, shapes)
        elif kinds & WIDE:
            wide[node] = None
        if node.op_type in PRODUCTS and kinds & WIDE:
            found.products.append(_name(node))
        found.copies += node.op_type in COPIES
    for part in _parts(wide):
        (found.islands if _is_island(part, shapes) else found.edges).append(
            [_name(node) for node in part]
        )
    host = _shape_arithmetic(running)
    found.shape_nodes = len(host)
    found.crossings = list(_crossings(host))
    return found


def _is_between_floats(node: ir.Node, shapes: ShapeTable) -> bool:
    before, after = _dtype(node.inputs[0], shapes), _dtype(node.outputs[0], shapes)
    return bool(before and after and before.is_floating_point() and after.is_floating_point())


def _parts(wide: dict[ir.Node, None]) -> Iterator[list[ir.Node]]:
    """Yield the connected parts of wide nodes."""
    left = dict(wide)
    while left:
        part = [next(iter(left))]
        del left[part[0]]
        for node in part:  # it grows meanwhile
            for other in (*_makers(node), *_readers(node)):
                if other in left:
                    del left[other]
                    part.append(other)
        yield part


def _is_island(part: list[ir.Node], shapes: ShapeTable) -> bool:
    """Tell whether 16-bit floats come in and go out."""
    comes = any(
        maker.op_type == "Cast" and _dtype(maker.inputs[0], shapes) == ir.DataType.FLOAT16
        for node in part
        for maker in _makers(node)
    )
    goes = any(
        reader.op_type == "Cast" and _dtype(reader.outputs[0], shapes) == ir.DataType.FLOAT16
        for node in part
        for reader in _readers(node)
    )
    return comes and goes


def _shape_arithmetic(running: list[ir.Node]) -> dict[ir.Node, None]:
    """Return the nodes that compute with sizes alone: the runtime puts them on the host."""
    host: dict[ir.Node, None] = {}
    for node in running:
        makers = [
            value.producer()
            for value in node.inputs
            if value is not None and constant_tensor(value) is None
        ]
        is_source = node.op_type in ("Shape", "Size")
        is_next = makers and all(maker is not None and maker in host for maker in makers)
        if (is_source or is_next) and node.op_type not in FILLERS:
            host[node] = None
    return host


def _crossings(host: dict[ir.Node, None]) -> Iterator[str]:
    for node in host:
        for value in node.outputs:
            uses = [(use.node, use.idx) for use in value.uses() if use.node not in host]
            if any(READ_ON_THE_HOST.get(reader.op_type, 99) > place for reader, place in uses):
                yield value.name or _name(node)


def _makers(node: ir.Node) -> list[ir.Node]:
    made = [value.producer() for value in node.inputs if value is not None]
    return [maker for maker in made if maker is not None]


def _readers(node: ir.Node) -> list[ir.Node]:
    return [use.node for value in node.outputs for use in value.uses()]


def _is_constant(node: ir.Node) -> bool:
    return node.op_type == "Constant" or (
        bool(node.inputs)
        and all(value is None or constant_tensor(value) is not None for value in node.inputs)
    )


def _dtype(value: ir.Value | None, shapes: ShapeTable) -> ir.DataType | None:
    known = None if value is None else shapes.of(value)
    if known is not None and known.dtype is not None:
        return known.dtype
    return None if value is None else value.dtype


def _name(node: ir.Node) -> str:
    return f"{node.op_type} {node.name}" if node.name else node.op_type
