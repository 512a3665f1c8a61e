"""Fusing rotary position embeddings into one operator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis import Operators
from graphopt.analysis.contrib import CONTRIB_DOMAIN, import_contrib, is_supported_type
from graphopt.analysis.head_splits import Heads, split_heads
from graphopt.analysis.orphans import orphans
from graphopt.analysis.rotary_embeddings import Angles, Rotary, find_rotary
from graphopt.analysis.symbolic_table import SymbolicTable
from graphopt.ir import graphs
from graphopt.rewrite import Change, Contract, Editor, Facts, Needs, Pass, Rounding, option

__all__ = ["FuseRotaryEmbedding"]


@dataclass(frozen=True, kw_only=True)
class FuseRotaryEmbedding(Pass):
    """Turn rotary position embeddings into one operator.

    What it does
        `x * cos + concat(-x[d/2:], x[:d/2]) * sin`, with cosines and sines that are the same for
        both halves, becomes RotaryEmbedding. The table that it reads holds the angles of this run,
        one row for each position, computed once for all layers. Where `x` is split into heads by
        Reshape and Transpose, it is rotated before that, so that attention may take it as it is.
        With `domain=standard` it is the RotaryEmbedding of ONNX, which reads the angles of each
        token as they are, without a table. Functions of the model are left alone.

    When it refuses
        `rotary-angles`  the angles are not twice the same, or not of the shape (1 or B, 1, S, d).
        `element-type`   the elements are not float, which is what kernels exist for.
        `opset-too-low`  `domain` is `standard`, and the opset has no RotaryEmbedding (before 23).

    What it keeps
        The model's inputs and outputs, their names, order, types and shapes.

    Cost
        Time O(nodes), after shape inference; memory O(nodes). No weight is read.

    Example
        before  (float[B,2,S,4] x, float[1,1,S,2] f) => (float[B,2,S,4] z) { e = Concat<axis=-1>(f, f)  c = Cos(e)  s = Sin(e)  a = Mul(x, c)  l, r = Split<axis=-1, num_outputs=2>(x)  n = Neg(r)  t = Concat<axis=-1>(n, l)  b = Mul(t, s)  z = Add(a, b) }
        after   <ir_version: 10, opset_import: ["" : 20, "com.microsoft" : 1]> g (float[B,2,S,4] x, float[1,1,S,2] f) => (float[B,2,S,4] z) <int64[1] p = {0}, int64[2] w = {-1, 2}, int64[2] v = {-1, 2}> { c = Cos(f)  i = Reshape(c, w)  s = Sin(f)  j = Reshape(s, v)  z = com.microsoft.RotaryEmbedding(x, p, i, j) }

    References
        Su et al., RoFormer, arXiv 2104.09864, section 3.4.2, in the order of halves; ONNX Runtime
        contrib operator RotaryEmbedding; ONNX operator RotaryEmbedding, opset 23.
    """  # noqa: E501 - the example is one line of ONNX text

    name: ClassVar[str] = "fuse-rotary-embedding"
    contract: ClassVar[Contract] = Contract(
        numerics=Rounding(1e-5, "one multiplication and one sum, perhaps rounded together"),
        is_idempotent=True,
    )
    anchors: ClassVar[frozenset[str] | None] = frozenset({"Neg"})

    domain: str = option(
        "contrib",
        help="`contrib`: operator of ONNX Runtime; `standard`: the RotaryEmbedding of opset 23",
        choices=("standard", "contrib"),
    )

    def needs(self, model: ir.Model) -> Needs:  # noqa: ARG002
        """Ask for shapes."""
        return Needs(shapes=True)

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Fuse at every sum, in order, so that the first one finds the place for the angles."""
        operators, shapes = Operators(model), SymbolicTable(model, facts.shapes)
        made = _Angles3D if self.domain == "standard" else _Tables
        tables = made(model, edit, shapes)
        for graph in graphs(model):
            if operators.is_in_function(graph):
                continue
            tables.forget()
            for node in [node for node in graph if node.op_type == "Add" and not node.domain]:
                found = find_rotary(node, shapes)
                if isinstance(found, str):
                    edit.refuse(node, "rotary-angles", why=found)
                elif found is None:
                    continue
                elif (operators.version(node) or 1) < tables.minimum_opset:
                    edit.refuse(node, "opset-too-low")
                elif is_supported_type(found.source, shapes, facts.target):
                    _fuse(node, found, tables, operators, shapes)
                else:
                    edit.refuse(node, "element-type")


class _Tables:
    """The angles of all positions, as tables that all layers share.

    Attributes:
        domain: Where the operator that reads them is from.
        minimum_opset: Since when there is one.
    """

    domain: ClassVar[str] = CONTRIB_DOMAIN
    minimum_opset: ClassVar[int] = 1

    def __init__(self, model: ir.Model, edit: Editor, shapes: SymbolicTable) -> None:
        self.model, self.edit, self.shapes = model, edit, shapes
        self._made: dict[Any, tuple[ir.Value, Change]] = {}

    def forget(self) -> None:
        """Start with another graph, where nothing is shared with those before."""
        self._made.clear()

    def given(self, source: ir.Value, rotary: Rotary, change: Change) -> list[ir.Value]:
        """Return what the operator reads: ``source``, (B, S, H * d) or (B, H, S, d), and more."""
        import_contrib(self.model, change)
        size = rotary.dims[-1]
        assert isinstance(size, int)
        both = (rotary.cosines, rotary.sines)
        angles = [self.rows(one, size // 2, change) for one in both]
        return [source, self.positions(rotary, change), *angles]

    def rows(self, angles: Angles, width: int, change: Change) -> ir.Value:
        """Return (positions, d / 2), made where it is first asked for."""
        return self._shared(
            ("rows", *angles), change, lambda: self._new_rows(angles, width, change)
        )

    def positions(self, rotary: Rotary, change: Change) -> ir.Value:
        """Return for each token its row of the table: counted from 0, or through all sequences."""
        if rotary.rows == 1:
            return self._shared("first", change, lambda: _numbers([0], change))
        angles = rotary.cosines
        return self._shared(("counted", angles.source), change, lambda: _counted(angles, change))

    def _shared(self, key: Any, change: Change, make: Callable[[], ir.Value]) -> ir.Value:
        made, maker = self._made.get(key, (None, None))
        is_there = made is not None and (made.producer() is not None or made.is_initializer())
        if made is None or not (is_there or maker is change):  # an edit may not be admitted
            made = make()
            self._made[key] = made, change
        return made

    @staticmethod
    def _new_rows(angles: Angles, width: int, change: Change) -> ir.Value:
        value = _computed(angles, change)
        return change.node("Reshape", [value, _numbers([-1, width], change)])


class _Angles3D(_Tables):
    """The angles of each token, (B, S, d / 2), that all layers share: no positions are looked up.

    ONNX has each sequence have angles of its own: those that all have in common are repeated.
    """

    domain: ClassVar[str] = ""
    minimum_opset: ClassVar[int] = 23

    def given(self, source: ir.Value, rotary: Rotary, change: Change) -> list[ir.Value]:
        """Return what the operator reads: ``source``, (B, S, H * d) or (B, H, S, d), and more."""
        both = (rotary.cosines, rotary.sines)
        return [source, *[self._angles(one, source, rotary, change) for one in both]]

    def _angles(self, angles: Angles, source: ir.Value, rotary: Rotary, change: Change) -> ir.Value:
        batch = rotary.dims[0]
        # Without a name for the number of sequences nobody can tell that it is the same elsewhere.
        of = source if batch is None else batch
        is_whole = rotary.rows == batch
        flat = self._shared(
            ("flat", *angles), change, lambda: self._three_axes(angles, rotary, change)
        )
        if is_whole:
            return flat
        return self._shared(
            ("repeated", of, *angles),
            change,
            lambda: change.node("Expand", [flat, self._repeats(of, source, change)]),
        )

    def _three_axes(self, angles: Angles, rotary: Rotary, change: Change) -> ir.Value:
        value, known = _computed(angles, change), self.shapes.of(angles.source)
        assert known is not None
        assert known.dims is not None
        leading = known.dims[:-2]
        if not leading:
            return change.node("Unsqueeze", [value, _numbers([0], change)])
        kept = leading.index(rotary.rows)
        dropped = [axis for axis in range(len(leading)) if axis != kept]
        return change.node("Squeeze", [value, _numbers(dropped, change)]) if dropped else value

    def _repeats(self, of: Any, source: ir.Value, change: Change) -> ir.Value:
        """Return (B, 1, 1) as a shape."""
        if isinstance(of, int):
            return _numbers([of, 1, 1], change)
        return self._shared(("repeats", of), change, lambda: _new_repeats(source, change))


def _new_repeats(source: ir.Value, change: Change) -> ir.Value:
    batch = change.node("Shape", [source], attributes={"start": 0, "end": 1})
    return change.node("Concat", [batch, _numbers([1, 1], change)], attributes={"axis": 0})


def _computed(angles: Angles, change: Change) -> ir.Value:
    """Return cosines or sines."""
    if angles.function is None:
        return angles.source
    return change.node(angles.function, [angles.source])


def _numbers(numbers: Sequence[int], change: Change) -> ir.Value:
    return change.initializer(np.array(numbers, np.int64), name="rotary")


def _counted(angles: Angles, change: Change) -> ir.Value:
    """Number the tokens of all sequences, (b, S), as the rows of the table are."""
    shape = change.node("Shape", [angles.source])
    sizes = change.node("Gather", [shape, _numbers([0, angles.rank - 2], change)])
    first, last = change.initializer(np.array(0), name="rotary"), change.node("ReduceProd", [sizes])
    one = change.initializer(np.array(1), name="rotary")
    count = change.node("Squeeze", [last])
    return change.node("Reshape", [change.node("Range", [first, count, one]), sizes])


def _fuse(
    node: ir.Node,
    found: Rotary,
    tables: _Tables,
    operators: Operators,
    shapes: SymbolicTable,
) -> None:
    heads = _own_heads(node, found, operators, shapes)
    because = f"rotary embedding of `{found.source.name}`"
    with tables.edit.rewrite(node, because=because) as change:
        given = tables.given(found.source if heads is None else heads.source, found, change)
        attributes = {} if heads is None else {"num_heads": heads.count}
        fused = change.node("RotaryEmbedding", given, attributes=attributes, domain=tables.domain)
        if heads is not None:
            target = _numbers([0, 0, heads.count, heads.size], change)
            parted = change.node("Reshape", [fused, target])
            fused = change.node("Transpose", [parted], attributes={"perm": [0, 2, 1, 3]})
        change.replace(found.result, fused)
        shapes.alias(fused, found.result)
        kept = [*given, found.cosines.source, found.sines.source]
        for useless in orphans([node], kept, operators):
            change.remove(useless)


def _own_heads(
    node: ir.Node, found: Rotary, operators: Operators, shapes: SymbolicTable
) -> Heads | None:
    """Return how the source is split into heads, where nobody else needs it split."""
    heads = split_heads(found.source, shapes)
    if isinstance(heads, str) or heads.is_split or heads.is_time_first or heads.flat is not None:
        return None
    if heads.part is not None:
        return None
    split = found.source.producer()
    is_own = heads.past is None and heads.scale == 1.0 and split in orphans([node], [], operators)
    return heads if is_own else None
