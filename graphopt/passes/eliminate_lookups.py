"""Elimination of lookups whose indices are the coordinates themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis import is_annotated
from graphopt.analysis.execution_order import in_order
from graphopt.analysis.index_grids import IndexGrids
from graphopt.analysis.operands import int_attribute, operand
from graphopt.analysis.symbolic_expressions import Integer, is_positive
from graphopt.analysis.symbolic_shapes import Dims, SymbolicShapes
from graphopt.rewrite import Contract, Editor, Exact, Facts, Needs, Pass, can_replace

__all__ = ["EliminateLookups"]


@dataclass(frozen=True, kw_only=True)
class EliminateLookups(Pass):
    """Read a table as it is, where each place looks up its own coordinates.

    What it does
        Recognizes indices that are put together from Range, Expand, Unsqueeze and Concat and
        count the places of the result. A GatherND with them is the table, or a Slice of it where
        one axis is shorter. A ScatterND with them that writes every place is what it writes.

    When it refuses
        `may-be-empty`  one axis is shorter than that of the table, and another one may be empty:
                        nothing would be looked up then, and the table could be too short.
        `annotated`     a quantization annotation describes the result.

    What it keeps
        The model's inputs and outputs, their names, order, types and shapes; every bit of them.

    Cost
        Time O(nodes + edges), after shape inference; memory O(nodes). No weight above 64 elements
        is read.

    Example
        before  (float[4] x) => (float[4] z) <int64 zero = {0}, int64 one = {1}, int64[1] last = {-1}> { s = Size(x)  i = Range(zero, s, one)  j = Unsqueeze(i, last)  k = Concat<axis = -1>(j)  z = GatherND(x, k) }
        after   (float[4] x) => (float[4] z) <int64 zero = {0}, int64 one = {1}, int64[1] last = {-1}> { s = Size(x)  i = Range(zero, s, one)  j = Unsqueeze(i, last)  k = Concat<axis = -1>(j)  z = Identity(x) }

    References
        ONNX operator specifications of GatherND and ScatterND; what PyTorch's exporters write for
        ``mask[batch, key]``.
    """  # noqa: E501 - the example is one line of ONNX text

    name: ClassVar[str] = "eliminate-lookups"
    contract: ClassVar[Contract] = Contract(numerics=Exact(), is_idempotent=True)
    anchors: ClassVar[frozenset[str] | None] = frozenset({"GatherND", "ScatterND"})

    def needs(self, model: ir.Model) -> Needs:  # noqa: ARG002
        """Ask for shapes."""
        return Needs(shapes=True)

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Look at each lookup."""
        known = SymbolicShapes.kept(model, facts.shapes)
        run = _Run(edit, known, IndexGrids(known))
        for node in list(in_order(model.graph)):
            if node.domain or node.op_identifier() in model.functions:
                continue
            if node.op_type == "GatherND":
                run.gather(node)
            elif node.op_type == "ScatterND":
                run.scatter(node)


@dataclass(frozen=True)
class _Run:
    edit: Editor
    known: SymbolicShapes
    grids: IndexGrids

    def gather(self, node: ir.Node) -> None:
        """Take out a GatherND, or turn it into a Slice."""
        table, dims = operand(node, 0), self._looked_up(node)
        whole = self.known.dims(table)
        if table is None or dims is None or whole is None or len(dims) != len(whole):
            return
        if int_attribute(node, "batch_dims", 0) != 0:
            return
        shorter = [axis for axis, size in enumerate(dims) if size != whole[axis]]
        if not shorter:
            self._replace(node, table)
        elif len(shorter) == 1:
            self._cut(node, shorter[0], dims)

    def scatter(self, node: ir.Node) -> None:
        """Take out a ScatterND that overwrites everything."""
        updates, dims = operand(node, 2), self._looked_up(node)
        reduction = node.attributes.get("reduction")
        if reduction is not None and (reduction.is_ref() or reduction.as_string() != "none"):
            return
        if updates is None or dims is None:
            return
        if self.known.dims(operand(node, 0)) == dims == self.known.dims(updates):
            self._replace(node, updates)

    def _looked_up(self, node: ir.Node) -> Dims | None:
        """Return the places that the indices count, or ``None`` where they do anything else."""
        indices = operand(node, 1)
        dims = self.known.dims(indices)
        producer = indices.producer() if indices is not None else None
        if not dims or producer is None or producer.op_type != "Concat" or producer.domain:
            return None
        if int_attribute(producer, "axis", 1) not in (-1, len(dims) - 1):
            return None
        parts = list(producer.inputs)
        for part in parts:
            shape = self.known.dims(part)
            if shape is None or shape[-1] != 1 or shape[:-1] != dims[:-1]:
                return None
        return dims[:-1] if self.grids.is_identity(parts, dims[:-1]) else None

    def _replace(self, node: ir.Node, value: ir.Value) -> None:
        result = node.outputs[0]
        if is_annotated(result):
            self.edit.refuse(node, "annotated")
            return
        with self.edit.rewrite(node, because="every place looks up itself") as change:
            if can_replace(result, value):
                change.replace(result, value)
            else:  # what the indices are made of goes all the same
                change.replace(result, change.node("Identity", [value], like=result))
            change.remove(node)

    def _cut(self, node: ir.Node, axis: int, dims: Dims) -> None:
        """Replace a lookup of the first places of one axis, which have to be there, by a Slice."""
        counted = self._counted(node, axis, dims[axis])
        result = node.outputs[0]
        if counted is None:
            return
        if not all(is_positive(size) for place, size in enumerate(dims) if place != axis):
            self.edit.refuse(node, "may-be-empty")
        elif is_annotated(result):
            self.edit.refuse(node, "annotated")
        else:
            with self.edit.rewrite(node, because="looks up the first places") as change:
                end = change.node("Shape", [counted])
                start, place = (
                    change.initializer(np.array([number], np.int64), name=f"{result.name}_{name}")
                    for number, name in ((0, "starts"), (axis, "axes"))
                )
                new = change.node("Slice", [node.inputs[0], start, end, place], like=result)
                self.known.alias(new, result)
                change.replace(result, new)
                change.remove(node)

    def _counted(self, node: ir.Node, axis: int, size: Integer) -> ir.Value | None:
        """Return the vector of ``size`` elements that the indices of an axis are made of."""
        indices = node.inputs[1]
        concat = indices.producer() if indices is not None else None
        value = operand(concat, axis) if concat is not None else None
        while value is not None and self.known.dims(value) != (size,):
            producer = value.producer()
            if producer is None or producer.op_type not in _SPREADERS:
                return None
            value = operand(producer, 0)
        return value


_SPREADERS = frozenset({"Expand", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
