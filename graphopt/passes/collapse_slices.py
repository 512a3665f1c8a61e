"""Collapsing of Slices that cut one value several times."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis import Operators, is_annotated
from graphopt.analysis.cuts import TO_THE_END, Cut, after, cuts_of, whole_part
from graphopt.analysis.growing_shapes import GrowingShapes
from graphopt.analysis.operands import int_attribute, operand
from graphopt.ir import graphs
from graphopt.rewrite import (
    Change,
    Contract,
    Editor,
    Exact,
    Facts,
    Needs,
    Pass,
    ShapeTable,
    can_replace,
)

__all__ = ["CollapseSlices"]


@dataclass(frozen=True, kw_only=True)
class CollapseSlices(Pass):
    """Cut a value once where several Slices cut it.

    What it does
        A Slice of a Slice becomes one Slice, of the same axis or of another one, where nobody reads
        what lies between. Slices that take all of an axis, each a part of it, become one Split. A
        Slice of a Concat that takes exactly one of its parts is taken out.

    When it refuses
        `read-between`     something that is no such Slice reads the Slice between, which has to
                           stay then.
        `names-an-output`  the Slice of a Concat gives its part the name of an output.
        `annotated`        a quantization annotation describes one of the results.

    What it keeps
        The model's inputs and outputs, their names, order, types and shapes; every bit of them.

    Cost
        Time O(nodes + edges), after shape inference; memory O(nodes). No weight above 64 elements
        is read.

    Example
        before  (float[A,6] x) => (float[A,4] y, float[A,2] z) <int64[1] zero = {0}, int64[1] four = {4}, int64[1] six = {6}, int64[1] one = {1}> { y = Slice(x, zero, four, one)  z = Slice(x, four, six, one) }
        after   (float[A,6] x) => (float[A,4] y, float[A,2] z) <int64[1] zero = {0}, int64[1] four = {4}, int64[1] six = {6}, int64[1] one = {1}, int64[2] sizes = {4, 2}> { y, z = Split<axis = 1>(x, sizes) }

    References
        ONNX operator specifications of Slice, Split and Concat.
    """  # noqa: E501 - the example is one line of ONNX text

    name: ClassVar[str] = "collapse-slices"
    contract: ClassVar[Contract] = Contract(numerics=Exact(), is_idempotent=True)
    anchors: ClassVar[frozenset[str] | None] = frozenset({"Slice"})

    def needs(self, model: ir.Model) -> Needs:  # noqa: ARG002
        """Ask for shapes."""
        return Needs(shapes=True)

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Merge chains, the first link first, then look for parts of one value."""
        operators, shapes = Operators(model), GrowingShapes(facts.shapes)
        for graph in graphs(model):
            run = _Run(edit, shapes, _slices(graph, shapes), operators)
            pending = deque(run.slices)
            while pending:
                pending.extendleft(reversed(run.merge(pending.popleft(), graph)))
            run = _Run(edit, shapes, _slices(graph, shapes), operators)
            for node in run.slices:
                run.take_part(node)
            for group in run.groups():
                run.split(group)


def _slices(graph: ir.Graph, shapes: ShapeTable) -> dict[ir.Node, dict[int, Cut]]:
    """Return the Slices of a graph with constant bounds, in order, and what they take."""
    nodes = (node for node in graph if node.op_type == "Slice" and not node.domain)
    found = ((node, cuts_of(node, shapes.of(operand(node, 0)))) for node in nodes)
    return {node: cuts for node, cuts in found if cuts}


_SLICE_HAS_INPUTS_SINCE = 10
_SPLIT_HAS_INPUT_SINCE = 13


@dataclass(frozen=True)
class _Run:
    """The Slices of one graph."""

    edit: Editor
    shapes: GrowingShapes
    slices: dict[ir.Node, dict[int, Cut]]
    operators: Operators

    # -- Slice of Slice ------------------------------------------------------------------------

    def merge(self, inner: ir.Node, graph: ir.Graph) -> list[ir.Node]:
        """Let the readers of ``inner``, all Slices, cut its source instead; return the new ones."""
        middle = inner.outputs[0]
        readers = list(dict.fromkeys(user for user, _ in middle.uses()))
        merged = {
            reader: after(self.slices[inner], self.slices[reader])
            for reader in readers
            if reader in self.slices and operand(reader, 0) is middle
        }
        if not merged:
            return []
        if middle.is_graph_output() or len(merged) < len(readers) or None in merged.values():
            self.edit.refuse(inner, "read-between")
            return []
        if is_annotated(middle) or any(is_annotated(reader.outputs[0]) for reader in readers):
            self.edit.refuse(inner, "annotated")
            return []
        source = inner.inputs[0]
        assert source is not None
        with self.edit.rewrite(inner, because=f"Slice of Slice, {len(readers)} times") as change:
            new = [
                self._slice(change, reader, source, cuts)
                for reader, cuts in merged.items()
                if cuts is not None
            ]
            for reader, value in zip(readers, new, strict=True):
                self.shapes.alias(value, reader.outputs[0])
                change.replace(reader.outputs[0], value)
                change.remove(reader)
            change.remove(inner)
        made = [node for node in (value.producer() for value in new) if node is not None]
        if any(node.graph is not graph for node in made):
            return []  # not carried out
        self.slices.update(
            (node, cuts) for node, cuts in zip(made, merged.values(), strict=True) if cuts
        )
        for node in (inner, *readers):
            del self.slices[node]
        return made

    def _slice(
        self, change: Change, old: ir.Node, source: ir.Value, cuts: Mapping[int, Cut]
    ) -> ir.Value:
        axes = sorted(cuts)
        result = old.outputs[0]
        parameters = {
            "starts": [cuts[axis].start for axis in axes],
            "ends": [cuts[axis].end for axis in axes],
            "axes": axes,
            "steps": [cuts[axis].step for axis in axes],
        }
        if set(parameters["steps"]) == {1}:
            del parameters["steps"]
        if (self.operators.version(old) or 1) < _SLICE_HAS_INPUTS_SINCE:
            return change.node("Slice", [source], attributes=parameters, like=result, before=old)
        vectors = [
            change.initializer(np.array(items, np.int64), name=f"{result.name}_{name}")
            for name, items in parameters.items()
        ]
        return change.node("Slice", [source, *vectors], like=result, before=old)

    # -- Slice of Concat -------------------------------------------------------------------------

    def take_part(self, node: ir.Node) -> None:
        """Take out a Slice that takes exactly one part of a Concat."""
        whole, result = node.inputs[0], node.outputs[0]
        producer = whole.producer() if whole is not None else None
        if producer is None or producer.op_type != "Concat" or producer.domain:
            return
        part = self._part(producer, self.slices[node])
        if part is None:
            return
        if is_annotated(result):
            self.edit.refuse(node, "annotated")
        elif not can_replace(result, part):
            self.edit.refuse(node, "names-an-output")
        else:
            with self.edit.rewrite(node, because="one part of a Concat") as change:
                change.replace(result, part)
                change.remove(node)

    def _part(self, concat: ir.Node, cuts: Mapping[int, Cut]) -> ir.Value | None:
        axis, sizes = self._part_sizes(concat)
        if axis is None or set(cuts) != {axis}:
            return None
        wanted, place = cuts[axis], 0
        for left, size in zip(range(len(sizes) - 1, -1, -1), sizes, strict=True):
            if place == wanted.start:
                value = concat.inputs[-1 - left]
                is_rest = not left and wanted.end == TO_THE_END
                is_part = size is not None and wanted.end == place + size
                return value if wanted.step == 1 and (is_rest or is_part) else None
            if size is None:
                return None
            place += size
        return None

    def _part_sizes(self, concat: ir.Node) -> tuple[int | None, list[int | None]]:
        """Return the axis of a Concat, counted from the front, and the sizes of its parts there.

        The other dimensions have to be equal for sure: the runtime skips an empty part that does
        not fit, and what follows it stands further to the front then.
        """
        shapes = [self.shapes.of(value) for value in concat.inputs]
        dims = [shape.dims for shape in shapes if shape is not None and shape.dims is not None]
        axis = int_attribute(concat, "axis", 1)
        if axis is None or len(dims) < len(shapes) or not -len(dims[0]) <= axis < len(dims[0]):
            return None, []
        axis %= len(dims[0])
        others = {(*one[:axis], *one[axis + 1 :]) for one in dims}
        if len(others) > 1 or None in next(iter(others)):
            return None, []
        sizes = [one[axis] for one in dims]
        return axis, [size if isinstance(size, int) else None for size in sizes]

    # -- Slices that make a Split ----------------------------------------------------------------

    def groups(self) -> Iterator[Sequence[ir.Node]]:
        """Yield Slices, in order, of one axis of one value."""
        found: dict[tuple[ir.Value, int], list[ir.Node]] = defaultdict(list)
        for node, cuts in self.slices.items():
            source = node.inputs[0]
            if node.graph is not None and source is not None and len(cuts) == 1:
                found[source, next(iter(cuts))].append(node)
        yield from (group for group in found.values() if len(group) > 1)

    def split(self, group: Sequence[ir.Node]) -> None:
        """Replace Slices by a Split, where each takes a part and all of them everything."""
        source = group[0].inputs[0]
        (axis,) = self.slices[group[0]]
        known = self.shapes.of(source)
        size = known.dims[axis] if known is not None and known.dims is not None else None
        if not isinstance(size, int):
            return
        parts = [whole_part(self.slices[node][axis], size) for node in group]
        places = sorted({part for part in parts if part is not None})
        borders = [0, *(end for _, end in places)]
        is_whole = borders[-1] == size and [start for start, _ in places] == borders[:-1]
        if not is_whole or len(places) < len(parts) or any(start == end for start, end in places):
            return
        if any(is_annotated(node.outputs[0]) for node in group):
            self.edit.refuse(group[0], "annotated")
            return
        self._split(group, axis, {place: index for index, place in enumerate(places)}, parts)

    def _split(
        self,
        group: Sequence[ir.Node],
        axis: int,
        index_of: Mapping[tuple[int, int], int],
        parts: Sequence[tuple[int, int] | None],
    ) -> None:
        sizes = [end - start for start, end in index_of]
        first = group[0]
        with self.edit.rewrite(first, because=f"{len(group)} Slices take all of it") as change:
            attributes: dict[str, object] = {"axis": axis}
            inputs = [first.inputs[0]]
            if (self.operators.version(first) or 1) < _SPLIT_HAS_INPUT_SINCE:
                attributes["split"] = sizes
            else:
                name = f"{first.outputs[0].name}_sizes"
                inputs.append(change.initializer(np.array(sizes, np.int64), name=name))
            made = change.multi_output_node("Split", inputs, len(sizes), attributes=attributes)
            for node, part in zip(group, parts, strict=True):
                assert part is not None
                self.shapes.alias(made[index_of[part]], node.outputs[0])
                change.replace(node.outputs[0], made[index_of[part]])
                change.remove(node)
