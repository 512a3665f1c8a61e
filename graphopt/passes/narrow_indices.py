"""Indices of 32 bits, for devices without integers of 64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis import is_annotated
from graphopt.ir import constant_tensor, graphs
from graphopt.rewrite import Contract, Editor, Exact, Facts, Needs, Pass, ShapeTable

__all__ = ["NarrowIndices"]

_INDEXED = frozenset({"Gather", "GatherElements", "ScatterElements"})
"""Operators that read operand 1 as indices of 32 or 64 bits into an axis of operand 0."""

_LIMIT = 1 << 31


@dataclass(frozen=True, kw_only=True)
class NarrowIndices(Pass):
    """Read tables by indices of 32 bits where all that can index them fit.

    What it does
        `Gather`, `GatherElements` and `ScatterElements` take indices of 32 bits as well as of 64. A
        constant becomes one of 32 bits, an input of the model, or what is computed, is cast once
        before its readers. Devices without integers of 64 bits, as shaders, then compute all but
        the casts. What is cast indexes a table of fewer than 2^31 rows: an index that is not lost
        in a run that succeeds.

    When it refuses
        `size-unknown`     the number of rows is not known, so that more might be there.
        `inside-function`  it is in a function, whose operands have no types of their own.
        `annotated`        a quantization annotation describes the indices.

    What it keeps
        The model's inputs and outputs, their names, order, types and shapes; every bit of every
        output of runs that succeed. An index out of range by a multiple of 2^32 is no longer found.

    Cost
        Time O(nodes); constants of indices are read once. The file shrinks by half of them.

    Example
        before  (int64[N] i) => (float[N] y) <float[4] w = {1, 2, 3, 4}> { y = Gather(w, i) }
        after   (int64[N] i) => (float[N] y) <float[4] w = {1, 2, 3, 4}>
                { j = Cast<to = 6>(i)  y = Gather(w, j) }

    References
        ONNX `Gather` (opset 13): `tensor(int32)`, `tensor(int64)` indices, errors out of range.
    """

    name: ClassVar[str] = "narrow-indices"
    contract: ClassVar[Contract] = Contract(numerics=Exact(), is_idempotent=True)
    anchors: ClassVar[frozenset[str] | None] = _INDEXED

    def needs(self, model: ir.Model) -> Needs:  # noqa: ARG002
        """Ask for shapes and types."""
        return Needs(shapes=True)

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Narrow the indices of every reader of a table."""
        inside = {node for function in model.functions.values() for node in function.all_nodes()}
        for graph in graphs(model):
            cast: dict[ir.Value, ir.Value] = {}  # of this graph: another may not see its values
            for node in graph:
                if node.domain or node.op_type not in _INDEXED:
                    continue
                indices = node.inputs[1]
                known = facts.shapes.of(indices)
                if indices is None or known is None or known.dtype != ir.DataType.INT64:
                    continue
                slug = (
                    "inside-function" if node in inside else _refusal(node, indices, facts.shapes)
                )
                if slug is not None:
                    edit.refuse(node, slug)
                else:
                    _narrow(node, indices, cast, edit)


def _refusal(node: ir.Node, indices: ir.Value, shapes: ShapeTable) -> str | None:
    if is_annotated(indices):
        return "annotated"
    if constant_tensor(indices) is not None:
        return None if _fits(indices) else "size-unknown"
    table = shapes.of(node.inputs[0])
    if table is None or not table.dims:
        return "size-unknown"
    axis = node.attributes.get_int("axis") or 0
    rows = table.dims[axis] if -len(table.dims) <= axis < len(table.dims) else None
    return None if isinstance(rows, int) and rows < _LIMIT else "size-unknown"


def _fits(indices: ir.Value) -> bool:
    tensor = constant_tensor(indices)
    assert tensor is not None
    array = tensor.numpy()
    return not array.size or bool(array.min() >= -_LIMIT and array.max() < _LIMIT)


def _narrow(node: ir.Node, indices: ir.Value, cast: dict[ir.Value, ir.Value], edit: Editor) -> None:
    tensor = constant_tensor(indices)
    with edit.rewrite(node, because="the rows of the table can be counted in 32 bits") as change:
        narrow = cast.get(indices)
        if narrow is None or narrow.producer() is None:
            if tensor is not None:
                array = tensor.numpy().astype(np.int32)
                change.set_input(node, 1, change.initializer(array, name=f"{indices.name}_narrow"))
                return
            narrow = change.node("Cast", [indices], attributes={"to": int(ir.DataType.INT32)})
            cast[indices] = narrow
        change.set_input(node, 1, narrow)
