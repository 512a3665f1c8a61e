"""Collapsing of Concats that put together again what was cut from one value."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations, product
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis import Operators, is_annotated
from graphopt.analysis.cuts import Cut, cuts_of, whole_part
from graphopt.analysis.growing_shapes import GrowingShapes
from graphopt.analysis.operands import int_attribute, ints_attribute, ints_operand, operand
from graphopt.ir import graphs
from graphopt.rewrite import (
    Contract,
    Editor,
    Exact,
    Facts,
    Needs,
    Pass,
    ShapeTable,
    can_replace,
)

__all__ = ["CollapseConcats"]


@dataclass(frozen=True, kw_only=True)
class CollapseConcats(Pass):
    """Put together with fewer operators what was cut from one value, or from several.

    What it does
        A Concat of a Concat becomes one. A Concat of all parts of a Split, in order, is what was
        split. A Concat of parts of one axis in another order, as for a roll, becomes one Gather. A
        Concat of all the Slices that take every n-th element becomes Reshape, Transpose, Reshape.

    When it refuses
        `small-pieces`     a Gather would have to move less than 128 bytes at a time, a Transpose
                           less than 32, which is slower than Slices.
        `read-between`     something else reads the parts, so that they have to stay.
        `names-an-output`  what was split cannot take the name of an output.
        `annotated`        a quantization annotation describes the result or a part.

    What it keeps
        The model's inputs and outputs, their names, order, types and shapes; every bit of them. The
        indices of a Gather take at most 2 KiB.

    Cost
        Time O(nodes + edges), after shape inference; memory O(nodes). No weight above 64 elements
        is read.

    Example
        before  (float[A,6,64] x) => (float[A,6,64] z) <int64[2] sizes = {2, 4}> { a, b = Split<axis = 1>(x, sizes)  z = Concat<axis = 1>(b, a) }
        after   (float[A,6,64] x) => (float[A,6,64] z) <int64[2] sizes = {2, 4}, int64[6] indices = {2, 3, 4, 5, 0, 1}> { z = Gather<axis = 1>(x, indices) }

    References
        ONNX operator specifications; shifted windows and patch merging of Swin: arXiv 2103.14030.
        Measured with ONNX Runtime 1.32 on one core, 56 x 56 x 96: a roll by Slices 160 us, by
        Gather 93 us; patch merging by Slices 243 us, by Transpose 166 us.
    """  # noqa: E501 - the example is one line of ONNX text

    name: ClassVar[str] = "collapse-concats"
    contract: ClassVar[Contract] = Contract(numerics=Exact(), is_idempotent=True)
    anchors: ClassVar[frozenset[str] | None] = frozenset({"Concat"})

    def needs(self, model: ir.Model) -> Needs:  # noqa: ARG002
        """Ask for shapes."""
        return Needs(shapes=True)

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Look at each Concat, the first in order first, twice.

        What is restored in the first walk no longer reads parts that others wait for.
        """
        operators, shapes = Operators(model), GrowingShapes(facts.shapes)
        for walk in (_Run.restore, _Run.rearrange):
            for graph in graphs(model):
                for node in graph:
                    if node.op_type != "Concat" or node.domain or not node.inputs:
                        continue
                    version = operators.version(node)
                    dims = _dims(shapes, node.outputs[0])
                    axis = int_attribute(node, "axis", 1)
                    if version is None or dims is None or axis is None:
                        continue
                    if -len(dims) <= axis < len(dims):
                        walk(_Run(edit, shapes, version), node, axis % len(dims))


_MAX_INDICES = 256
_MIN_GATHERED_BYTES = 128
_MIN_TRANSPOSED_BYTES = 32
_NEW_NODES = 3
_RESHAPE_HAS_INPUT_SINCE = 5

_Dims = tuple[int | str | None, ...]


def _dims(shapes: ShapeTable, value: ir.Value | None) -> _Dims | None:
    known = shapes.of(value)
    return None if known is None else known.dims


@dataclass(frozen=True)
class _Piece:
    """A part of a value that a Concat reads.

    Attributes:
        source: What it was cut from.
        node: The Slice or Split.
        cuts: What was cut, by axis.
    """

    source: ir.Value
    node: ir.Node
    cuts: Mapping[int, Cut]


@dataclass(frozen=True)
class _Run:
    edit: Editor
    shapes: GrowingShapes
    version: int

    def restore(self, node: ir.Node, axis: int) -> None:
        """Flatten one Concat along ``axis``, or read what all its parts were cut from."""
        flat = self._flatten(node, axis)
        if flat is not None:
            node = flat
        pieces, dims = self._pieces(node)
        places = self._places(pieces, axis, dims)
        if places and places == list(range(len(places))) and len(places) == dims[axis]:
            self._restore(node, pieces[0].source)

    def rearrange(self, node: ir.Node, axis: int) -> None:
        """Take the parts of one Concat along ``axis`` with a Gather or a Transpose."""
        pieces, dims = self._pieces(node)
        if not pieces:
            return
        if all(set(piece.cuts) == {axis} for piece in pieces):
            self._gather(node, axis, pieces, dims)
        else:
            self._interleave(node, axis, pieces, dims)

    # -- Concat of Concat ------------------------------------------------------------------------

    def _flatten(self, node: ir.Node, axis: int) -> ir.Node | None:
        """Read at once what Concats along the same axis, read by ``node`` alone, put together."""
        rank = len(_dims(self.shapes, node.outputs[0]) or ())
        inner = [value.producer() if value is not None else None for value in node.inputs]
        nested = [
            producer is not None
            and producer.op_type == "Concat"
            and not producer.domain
            and producer.graph is node.graph
            and int_attribute(producer, "axis", 1) in (axis, axis - rank)
            and _is_read_by(producer, node)
            and not is_annotated(producer.outputs[0])
            and node.inputs.count(producer.outputs[0]) == 1
            for producer in inner
        ]
        if not any(nested):
            return None
        result = node.outputs[0]
        inputs: list[ir.Value | None] = []
        for value, producer, is_nested in zip(node.inputs, inner, nested, strict=True):
            inputs.extend(producer.inputs if producer is not None and is_nested else [value])
        with self.edit.rewrite(node, because="Concat of Concat") as change:
            new = change.node("Concat", inputs, attributes={"axis": axis}, like=result)
            self.shapes.alias(new, result)
            change.replace(result, new)
            change.remove(node)
            for producer, is_nested in zip(inner, nested, strict=True):
                if producer is not None and is_nested:
                    change.remove(producer)
        made = new.producer()
        return made if made is not None and made.graph is not None else None

    # -- parts of one value ----------------------------------------------------------------------

    def _pieces(self, node: ir.Node) -> tuple[list[_Piece], _Dims]:
        """Return what ``node`` puts together and the sizes of what it was cut from, or nothing."""
        pieces = [self._piece(value) for value in node.inputs]
        found = [piece for piece in pieces if piece is not None]
        if len(found) < len(pieces) or len({piece.source for piece in found}) > 1:
            return [], ()
        dims = _dims(self.shapes, found[0].source)
        if dims is None or len(found) < 2:  # noqa: PLR2004 - a Concat of one is an identity
            return [], ()
        return found, dims

    @staticmethod
    def _places(pieces: Sequence[_Piece], axis: int, dims: _Dims) -> list[int]:
        """Return the indices along ``axis`` in order; none where something else is cut as well."""
        size = dims[axis] if pieces else None
        if not isinstance(size, int) or any(set(piece.cuts) != {axis} for piece in pieces):
            return []
        ranges = [whole_part(piece.cuts[axis], size) for piece in pieces]
        if None in ranges:
            return []
        return [index for part in ranges if part is not None for index in range(*part)]

    def _piece(self, value: ir.Value | None) -> _Piece | None:
        node = value.producer() if value is not None else None
        source = operand(node, 0) if node is not None else None
        if node is None or value is None or source is None or node.domain:
            return None
        if node.op_type == "Slice":
            cuts = cuts_of(node, self.shapes.of(source))
        elif node.op_type == "Split":
            cuts = self._split_part(node, value)
        else:
            return None
        return _Piece(source, node, cuts) if cuts else None

    def _split_part(self, node: ir.Node, value: ir.Value) -> dict[int, Cut] | None:
        dims, axis = _dims(self.shapes, operand(node, 0)), int_attribute(node, "axis", 0)
        sizes = ints_attribute(node, "split") or ints_operand(node, 1)
        if dims is None or axis is None or not -len(dims) <= axis < len(dims):
            return None
        if sizes is None:
            parts = [_dims(self.shapes, output) for output in node.outputs]
            given = [part[axis] for part in parts if part is not None]
            sizes = tuple(size for size in given if isinstance(size, int))
        if len(sizes) < len(node.outputs):
            return None
        borders = [0, *np.cumsum(sizes).tolist()]
        index = node.outputs.index(value)
        return {axis % len(dims): Cut(borders[index], borders[index + 1], 1)}

    def _gather(self, node: ir.Node, axis: int, pieces: Sequence[_Piece], dims: _Dims) -> None:
        """Take parts of one axis in another order with a Gather."""
        source, places = pieces[0].source, self._places(pieces, axis, dims)
        if places == list(range(len(places))) and len(places) == dims[axis]:
            return  # restored, or refused
        if not places or len(places) > _MAX_INDICES or not self._may_go(node, pieces):
            return
        if self._bytes(source, dims[axis + 1 :]) < _MIN_GATHERED_BYTES:
            self.edit.refuse(node, "small-pieces")
            return
        result = node.outputs[0]
        with self.edit.rewrite(node, because="parts of one axis in another order") as change:
            array = np.array(places, np.int64)
            indices = change.initializer(array, name=f"{result.name}_indices")
            attributes = {"axis": axis}
            new = change.node("Gather", [source, indices], attributes=attributes, like=result)
            self.shapes.alias(new, result)
            change.replace(result, new)
            change.remove(node)
            for producer in dict.fromkeys(piece.node for piece in pieces):
                change.remove(producer)

    def _bytes(self, value: ir.Value, dims: _Dims) -> int:
        """Return how many bytes of ``value`` the last dimensions take; 0 where not known."""
        known = self.shapes.of(value)
        sizes = [dim for dim in dims if isinstance(dim, int)]
        if known is None or known.dtype in (None, ir.DataType.STRING) or len(sizes) < len(dims):
            return 0
        return math.prod(sizes) * known.dtype.bitwidth // 8

    def _restore(self, node: ir.Node, source: ir.Value) -> None:
        result = node.outputs[0]
        if is_annotated(result):
            self.edit.refuse(node, "annotated")
        elif not can_replace(result, source):
            self.edit.refuse(node, "names-an-output")
        else:
            with self.edit.rewrite(node, because="all parts of one value, in order") as change:
                change.replace(result, source)
                change.remove(node)

    def _may_go(self, node: ir.Node, pieces: Sequence[_Piece]) -> bool:
        """Tell whether ``node`` alone reads the parts, so that what cuts them can go."""
        if any(piece.node.graph is not node.graph for piece in pieces):
            return False
        if not all(_is_read_by(piece.node, node) for piece in pieces):
            self.edit.refuse(node, "read-between")
            return False
        values = [node.outputs[0], *(output for p in pieces for output in p.node.outputs)]
        if any(map(is_annotated, values)):
            self.edit.refuse(node, "annotated")
            return False
        return True

    # -- every n-th element, all of them ---------------------------------------------------------

    def _interleave(self, node: ir.Node, axis: int, pieces: Sequence[_Piece], dims: _Dims) -> None:
        """Replace Slices of every phase by a Transpose that moves the phases to ``axis``."""
        steps = {place: cut.step for place, cut in pieces[0].cuts.items()}
        unknown = [place for place, dim in enumerate(dims) if not isinstance(dim, int)]
        if axis in steps or len(unknown) > 1 or set(unknown) & {axis, *steps} or 0 in dims:
            return
        sizes = [dim if isinstance(dim, int) else -1 for dim in dims]
        if any(sizes[place] % step for place, step in steps.items()):
            return
        order = _phase_order(steps, [piece.cuts for piece in pieces], sizes)
        too_old = self.version < _RESHAPE_HAS_INPUT_SINCE
        if order is None or too_old or len(pieces) < _NEW_NODES or not self._may_go(node, pieces):
            return
        is_behind = axis > max(steps)  # else single elements move
        if not is_behind or self._bytes(pieces[0].source, dims[axis:]) < _MIN_TRANSPOSED_BYTES:
            self.edit.refuse(node, "small-pieces")
            return
        cut: list[int] = []
        places: dict[int, int] = {}  # of each axis among the dimensions that are cut
        for place, size in enumerate(sizes):
            places[place] = len(cut)
            cut.extend((size // steps[place], steps[place]) if place in steps else (size,))
        phases = [places[place] + 1 for place in order]
        moved = [index for index in range(len(cut)) if index not in phases]
        at = moved.index(places[axis])
        permutation = [*moved[:at], *phases, *moved[at:]]
        target = [
            size // steps.get(place, 1) if size > 0 else -1 for place, size in enumerate(sizes)
        ]
        target[axis] = sizes[axis] * math.prod(steps.values())
        self._transpose(node, pieces, (cut, permutation, target))

    def _transpose(
        self, node: ir.Node, pieces: Sequence[_Piece], plan: tuple[list[int], list[int], list[int]]
    ) -> None:
        cut, permutation, target = plan
        result = node.outputs[0]
        with self.edit.rewrite(node, because="all phases of one value") as change:
            shapes = [
                change.initializer(np.array(items, np.int64), name=f"{result.name}_{name}")
                for items, name in ((cut, "cut"), (target, "shape"))
            ]
            value = change.node("Reshape", [pieces[0].source, shapes[0]])
            value = change.node("Transpose", [value], attributes={"perm": permutation})
            value = change.node("Reshape", [value, shapes[1]], like=result)
            self.shapes.alias(value, result)
            change.replace(result, value)
            change.remove(node)
            for producer in dict.fromkeys(piece.node for piece in pieces):
                change.remove(producer)


def _phase_order(
    steps: Mapping[int, int], cuts: Sequence[Mapping[int, Cut]], sizes: Sequence[int]
) -> tuple[int, ...] | None:
    """Return the axes from the slowest to the fastest, as the Slices go through all phases."""
    if len(cuts) != math.prod(steps.values()) or len(cuts) == 1:
        return None
    found = []
    for cut in cuts:
        if set(cut) != set(steps):
            return None
        for place, part in cut.items():
            # The last element of the phase lies before the end.
            last = sizes[place] - steps[place] + part.start
            is_open = part.end > last or -(sizes[place] - last) < part.end < 0
            if part.step != steps[place] or not 0 <= part.start < part.step or not is_open:
                return None
        found.append({place: part.start for place, part in cut.items()})
    for order in permutations(steps):
        phases = product(*(range(steps[place]) for place in order))
        if found == [dict(zip(order, phase, strict=True)) for phase in phases]:
            return order
    return None


def _is_read_by(node: ir.Node, reader: ir.Node) -> bool:
    """Tell whether ``reader`` alone reads what ``node`` computes."""
    return not any(
        output.is_graph_output() or any(user is not reader for user, _ in output.uses())
        for output in node.outputs
    )
