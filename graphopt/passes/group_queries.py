"""One product for all queries that share their keys and values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis import Operators
from graphopt.analysis.attention_blocks import Mismatch
from graphopt.analysis.contrib import CONTRIB_DOMAIN, CPU_PROVIDER
from graphopt.analysis.grouped_queries import Grouped, Joined, find_grouped, find_joined, sums_of
from graphopt.analysis.orphans import orphans
from graphopt.analysis.symbolic_table import SymbolicTable
from graphopt.ir import graphs, opset_version
from graphopt.rewrite import Change, Contract, Editor, Facts, Needs, Pass, Rounding, option

__all__ = ["GroupQueries"]

_ALLOW_ZERO_SINCE = 14
_SHAPE_RANGE_SINCE = 15

_Size = tuple[int, int]
"""An axis of the queries, and how many times its size is meant."""
_BATCH = (0, 1)
_LENGTH = 1  # the axis of the tokens


@dataclass(frozen=True, kw_only=True)
class GroupQueries(Pass):
    """Let queries that share keys and values meet them in one product.

    What it does
        Models with fewer heads of keys and values than of queries repeat the former with a Gather.
        To attention, a query that shares keys and values is as good as one more token: `(B, S, 16
        heads)` over 8 heads of keys becomes `(B, 2 S, 8 heads)`, what is added to the scores is
        given once for each of the two, and nothing is repeated. Keys and values continue those of
        earlier runs, and nobody asks for both together before: the operator joins them itself.
        Sums of repeated values are repeated after they are taken. Functions are left alone.

        It reads MultiHeadAttention, as `fuse-attention` leaves it. In a decoder, over one token and
        past, that saves half of what attention costs besides its layers. Over whole sequences it is
        neither faster nor slower, and takes more nodes: `everywhere` does so nevertheless.

    When it refuses
        `not-joined`      keys and values do not continue earlier ones, or somebody reads them
                          joined before, and `everywhere` is off.
        `other-provider`  only the CPU's kernel is known to take more queries than new keys.
        `repeats-differ`  keys and values are not repeated alike, each head several times in a row.
        `other-operands`  biases, a past of repeated heads, masking by place, or other results.
        `mask-form`       a mask is not provably the same for all heads.
        `unknown-shapes`  the size of a head is not known.

    What it keeps
        The model's inputs and outputs, their names, order, types and shapes.

    Cost
        Time O(nodes), after shape inference; memory O(nodes). No weight is read.

    Example
        options {everywhere=true}
        before  <ir_version: 10, opset_import: ["" : 20, "com.microsoft" : 1]> g (float[B,1,8] q, float[B,2,T,2] k, float[B,2,T,2] v) => (float[B,1,8] z) <int64[4] i = {0, 0, 1, 1}> { a = Gather<axis=1>(k, i)  b = Gather<axis=1>(v, i)  z = com.microsoft.MultiHeadAttention<num_heads=4>(q, a, b) }
        after   <ir_version: 10, opset_import: ["" : 20, "com.microsoft" : 1]> g (float[B,1,8] q, float[B,2,T,2] k, float[B,2,T,2] v) => (float[B,1,8] z) <int64[4] i = {0, 0, 1, 1}, int64[5] s = {0, 0, 2, 2, 2}, int64[3] m = {0, 2, 4}, int64[5] p = {0, 2, 1, 2, 2}, int64[3] r = {0, 0, 8}> { a = Reshape(q, s)  b = Transpose<perm=[0, 3, 1, 2, 4]>(a)  c = Reshape(b, m)  d = com.microsoft.MultiHeadAttention<num_heads=2>(c, k, v)  e = Reshape(d, p)  f = Transpose<perm=[0, 2, 3, 1, 4]>(e)  z = Reshape(f, r) }

    References
        Ainslie et al., GQA, arXiv 2305.13245, section 2.2; ONNX Runtime contrib operator
        MultiHeadAttention.
    """  # noqa: E501 - the example is one line of ONNX text

    name: ClassVar[str] = "group-queries"
    contract: ClassVar[Contract] = Contract(
        numerics=Rounding(1e-4, "products of more rows sum in another order; 1e-6 measured"),
        is_idempotent=True,
    )
    anchors: ClassVar[frozenset[str] | None] = frozenset({"MultiHeadAttention"})

    everywhere: bool = option(
        False, help="also where keys and values continue none of earlier runs"
    )

    def needs(self, model: ir.Model) -> Needs:  # noqa: ARG002
        """Ask for shapes."""
        return Needs(shapes=True)

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Group the queries of every attention that repeats keys and values."""
        operators = Operators(model)
        grouping = _Grouping(edit, SymbolicTable(model, facts.shapes), operators)
        for graph in graphs(model):
            if operators.is_in_function(graph):
                continue
            places = {node: place for place, node in enumerate(graph)}
            for node in list(places):
                if node.op_type != "MultiHeadAttention" or node.domain != CONTRIB_DOMAIN:
                    continue
                found = find_grouped(node, grouping.shapes)
                refused = found if isinstance(found, Mismatch) else None
                if isinstance(found, Grouped):
                    joined = find_joined(found, grouping.shapes, places)
                    refused = self._refusal(joined, facts)
                    if refused is None:
                        grouping.group(found, joined)
                if refused is not None:
                    edit.refuse(node, refused.slug, why=refused.why)

    def _refusal(self, joined: Joined | None, facts: Facts) -> Mismatch | None:
        if facts.target.provider != CPU_PROVIDER:
            return Mismatch("other-provider", facts.target.provider)
        if joined is None and not self.everywhere:
            return Mismatch("not-joined", "over whole sequences it is no faster")
        return None


@dataclass
class _Grouping:
    """Groups the queries of one model; what is added to their scores is written once."""

    edit: Editor
    shapes: SymbolicTable
    operators: Operators
    added: dict[tuple[object, ...], ir.Value] = field(default_factory=dict)
    targets: dict[tuple[object, ...], ir.Value] = field(default_factory=dict)

    @property
    def version(self) -> int:
        """The opset."""
        return opset_version(self.edit.model)

    def group(self, found: Grouped, joined: Joined | None) -> None:
        """Put an attention over fewer heads and more queries in the place of ``found``."""
        because = f"{found.group} queries share each of {found.count} heads of keys and values"
        with self.edit.rewrite(found.node, because=because) as change:
            rows = _Rows(found, self, change)
            context, *presents = self._attention(found, joined, rows.grouped(), change)
            self._replace(found.node.outputs[0], rows.parted(context), change)
            sources = (found.key, found.value)
            present = dict(zip(sources, presents, strict=True)) if presents else {}
            gone = [found.node]
            for repeated, source in dict(zip(found.repeated, sources, strict=True)).items():
                gone += _repeat_later(present.get(source, source), repeated, found, change)
            for source, new in present.items():
                self._replace(source, new, change)
                gone += [node for node in (source.producer(),) if node is not None]
            for node in orphans(gone, _read(found, joined), self.operators):
                change.remove(node)

    def _replace(self, old: ir.Value, new: ir.Value, change: Change) -> None:
        change.replace(old, new)
        self.shapes.alias(new, old)

    def _attention(
        self, found: Grouped, joined: Joined | None, query: ir.Value, change: Change
    ) -> tuple[ir.Value, ...]:
        attributes: dict[str, Any] = dict(found.node.attributes) | {"num_heads": found.count}
        inputs: list[ir.Value | None] = [query, found.key, found.value, None, found.mask]
        inputs.append(self._for_each_query(found, change))
        if joined is not None:
            inputs[1:3] = [joined.key.source, joined.value.source]
            inputs += [joined.key.past, joined.value.past]
        while inputs[-1] is None:
            inputs.pop()
        return change.multi_output_node(
            "MultiHeadAttention",
            inputs,
            1 if joined is None else 3,
            attributes=attributes,
            domain=CONTRIB_DOMAIN,
        )

    def _for_each_query(self, found: Grouped, change: Change) -> ir.Value | None:
        """Return what is added to the scores, (B or 1, 1, group * S, T)."""
        if found.added is None:
            return None
        key = (found.added, found.group, found.node.graph)
        if key not in self.added:  # attentions come in order of execution: the first makes it
            repeated = [found.added] * found.group
            self.added[key] = change.node("Concat", repeated, attributes={"axis": 2})
        return self.added[key]


def _read(found: Grouped, joined: Joined | None) -> list[ir.Value]:
    """Return what the new attention reads of what was there."""
    read = [found.query, found.mask, found.added]
    if joined is None:
        read += [found.key, found.value]
    else:
        read += [one for heads in joined for one in (heads.source, heads.past)]
    return [value for value in read if value is not None]


def _repeat_later(
    source: ir.Value, repeated: ir.Value, found: Grouped, change: Change
) -> list[ir.Node]:
    """Sum before repeating; return the nodes that give way, none where others read the repeated."""
    gather, sums = repeated.producer(), sums_of(repeated, found)
    if gather is None or sums is None:
        return []
    for node in sums:
        total = change.node(
            node.op_type, [source, *node.inputs[1:]], attributes=dict(node.attributes), before=node
        )
        attributes = dict(gather.attributes)
        again = change.node(
            gather.op_type, [total, gather.inputs[1]], attributes=attributes, before=node
        )
        change.replace(node.outputs[0], again)
    return [gather, *sums]


@dataclass(frozen=True)
class _Rows:
    """Moves the queries that share a head from the axis of the heads to that of the tokens."""

    found: Grouped
    grouping: _Grouping
    change: Change

    def grouped(self) -> ir.Value:
        """Return the queries, (B, group * S, count * size), those of one token far apart."""
        found, node = self.found, self.change.node
        target = self._numbers([0, 0, found.count, found.group, found.size])
        parted = node("Reshape", [found.query, target])
        turned = node("Transpose", [parted], attributes={"perm": [0, 3, 1, 2, 4]})
        return self._reshaped(turned, [_BATCH, (_LENGTH, found.group), found.count * found.size])

    def parted(self, context: ir.Value) -> ir.Value:
        """Return (B, S, count * group * value_size) of (B, group * S, count * value_size)."""
        found, node = self.found, self.change.node
        sizes = (_BATCH, found.group, (_LENGTH, 1), found.count, found.value_size)
        parted = self._reshaped(context, sizes)
        turned = node("Transpose", [parted], attributes={"perm": [0, 2, 3, 1, 4]})
        width = found.count * found.group * found.value_size
        return node("Reshape", [turned, self._numbers([0, 0, width])])

    def _reshaped(self, value: ir.Value, sizes: Sequence[int | _Size]) -> ir.Value:
        """Return ``value`` with the sizes asked for, of which some are those of the queries.

        They are computed where they are not known: neither the batch nor the tokens need be more
        than none, and to leave one of them to the runtime would be ambiguous then.
        """
        known = self.grouping.shapes.of(self.found.query)
        dims = known.dims[:2] if known is not None and known.dims else (None, None)
        length = dims[1]
        if isinstance(length, int) and length:
            numbers = [0 if one == _BATCH else _product(one, length) for one in sizes]
            return self.change.node("Reshape", [value, self._numbers(numbers)])
        key = (self.found.node.graph, *(dims if None not in dims else (self.found.query,)), *sizes)
        targets = self.grouping.targets
        if key not in targets:
            parts = [self._part(one) for one in sizes]
            targets[key] = self.change.node("Concat", parts, attributes={"axis": 0})
        is_copying = self.grouping.version < _ALLOW_ZERO_SINCE
        attributes = {} if is_copying else {"allowzero": 1}
        return self.change.node("Reshape", [value, targets[key]], attributes=attributes)

    def _part(self, size: int | _Size) -> ir.Value:
        if isinstance(size, int):
            return self._numbers([size])
        axis, factor = size
        found = self._size(axis)
        return found if factor == 1 else self.change.node("Mul", [found, self._numbers([factor])])

    def _size(self, axis: int) -> ir.Value:
        query, node = self.found.query, self.change.node
        if self.grouping.version >= _SHAPE_RANGE_SINCE:
            return node("Shape", [query], attributes={"start": axis, "end": axis + 1})
        return node("Gather", [node("Shape", [query]), self._numbers([axis])])

    def _numbers(self, numbers: list[int]) -> ir.Value:
        return self.change.initializer(np.array(numbers, np.int64), name="grouped")


def _product(size: int | _Size, length: int) -> int:
    return size if isinstance(size, int) else length * size[1]
