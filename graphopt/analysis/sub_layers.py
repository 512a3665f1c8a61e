"""Sub-layers: what a model adds to a stream that it computed from that stream.

``y = x + f(x)``: `x` enters, `f` is the branch, and `y` is what goes on. Attention and feed-forward
networks of transformers are such branches, before or after a normalization, and so are the blocks
of residual convolutional networks. They are found by what reaches what alone, whatever the names
are and however many nodes a branch was exported to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from graphopt.analysis.readers import only_reader
from graphopt.analysis.reads import values_read
from graphopt.ir import constant_tensor

__all__ = ["FUSED_SUMS", "LAYER_OPERATORS", "SubLayer", "find_sub_layers"]

_ATTENTION = frozenset(
    {"Attention", "GroupQueryAttention", "MultiHeadAttention", "PackedAttention", "QAttention"}
)
_CONVOLUTIONS = frozenset({"Conv", "ConvInteger", "ConvTranspose", "FusedConv", "QLinearConv"})
_PRODUCTS = frozenset({"Einsum", "FusedMatMul", "MatMul", "MatMulInteger", "TransposeMatMul"})
_LINEAR = frozenset(
    {"DynamicQuantizeMatMul", "FusedGemm", "Gemm", "MatMulIntegerToFloat", "MatMulNBits"}
    | {"QGemm", "QLinearMatMul"}
)
_RECURRENT = frozenset({"GRU", "LSTM", "RNN"})

LAYER_OPERATORS = _ATTENTION | _CONVOLUTIONS | _PRODUCTS | _LINEAR | _RECURRENT
"""Operators that make a branch more than arithmetic on the stream, such as of an activation."""

FUSED_SUMS = frozenset({"SkipLayerNormalization", "SkipSimplifiedLayerNormalization"})
"""Operators of ``com.microsoft`` that add the branch themselves."""

_SIZES = frozenset({"Shape", "Size"})


@dataclass(frozen=True, eq=False)
class SubLayer:
    """One branch that is added to a stream.

    Attributes:
        kind: ``attention``, ``cross-attention``, ``feed-forward`` or ``convolution``; ``shortcut``
            for a block whose stream is transformed as well, so that nothing is left to go on with.
        node: What adds the branch.
        entry: The stream that the branch is computed from.
        kept: What is left of the sum without the branch: mostly `entry`.
        branch: What is added.
        exit: The stream with it, and with all else that the same chain of sums adds.
        nodes: What computes the branch from `entry`, in order.
    """

    kind: str
    node: ir.Node
    entry: ir.Value
    kept: ir.Value
    branch: ir.Value
    exit: ir.Value
    nodes: tuple[ir.Node, ...]

    @property
    def is_shortcut(self) -> bool:
        """Tell whether no stream is left without the branch."""
        return self.kind == "shortcut"

    @property
    def is_fused(self) -> bool:
        """Tell whether the node that adds the branch also normalizes the sum."""
        return self.node.op_type in FUSED_SUMS


def find_sub_layers(graph: ir.Graph) -> tuple[SubLayer, ...]:
    """Return the sub-layers of a graph, in order; those inside a branch come with it.

    Time O(nodes) for each sum of two computed values, at worst; no weight is read.
    """
    ancestry = _Ancestry(graph)
    found: dict[ir.Node, SubLayer] = {}
    for node in graph:
        candidates: list[SubLayer] = []
        if node.domain == "com.microsoft" and node.op_type in FUSED_SUMS:
            candidates = _fused(node, ancestry)
        elif _is_sum(node) and not _is_part_of_sum(node):
            candidates = _of_sum(node, ancestry)
        found.update((layer.node, layer) for layer in candidates if _is_whole(layer, found))
    return tuple(found.values())


def _is_whole(layer: SubLayer, earlier: Mapping[ir.Node, SubLayer]) -> bool:
    """Tell whether a branch holds other sub-layers from entry to exit, or not at all.

    A mask or a position that is added in every layer leads to itself, too: through the sums of the
    layers before, whose streams do not come from it.
    """
    inside = {layer.entry, *(output for node in layer.nodes for output in node.outputs)}
    crossed = (earlier[node] for node in layer.nodes if node in earlier)
    return all(other.entry in inside for other in crossed if not other.is_shortcut)


@dataclass(frozen=True)
class _Term:
    """One term of a sum of several: ``node`` adds ``value`` to ``rest``."""

    value: ir.Value
    rest: ir.Value
    node: ir.Node


def _is_sum(node: ir.Node) -> bool:
    """Tell whether two computed values are added: a bias is a part of what it is added to."""
    if node.op_type != "Add" or node.domain:
        return False
    return all(value is not None and constant_tensor(value) is None for value in node.inputs)


def _is_part_of_sum(node: ir.Node) -> bool:
    reader = only_reader(node.outputs[0])
    return reader is not None and _is_sum(reader)


def _terms(node: ir.Node) -> Iterator[_Term]:
    for value, rest in (node.inputs, reversed(node.inputs)):
        assert value is not None
        assert rest is not None
        inner = value.producer()
        if inner is not None and _is_sum(inner) and only_reader(value) is node:
            yield from _terms(inner)
        else:
            yield _Term(value, rest, node)


def _of_sum(node: ir.Node, ancestry: _Ancestry) -> list[SubLayer]:
    terms = sorted(_terms(node), key=lambda term: ancestry.place(term.value))
    entry, exit_ = terms[0].value, node.outputs[0]
    found = []
    for term in terms[1:]:
        nodes = ancestry.between(entry, term.value)
        if _has_layer(nodes):
            kind = _kind(entry, nodes)
            found.append(
                SubLayer(kind, term.node, entry, term.rest, term.value, exit_, tuple(nodes))
            )
    if not found and len(terms) == 2:  # noqa: PLR2004 - both sides of one sum
        found += _shortcut(node, terms, ancestry)
    return found


def _shortcut(node: ir.Node, terms: list[_Term], ancestry: _Ancestry) -> list[SubLayer]:
    """Return the block whose stream passes layers on both ways, as where its width changes."""
    first, second = terms
    entry = ancestry.last_common(first.value, second.value)
    if entry is None or entry.producer() is None:  # rotations by position meet in the tokens
        return []
    ways = [ancestry.between(entry, term.value) for term in terms]
    if not all(map(_has_layer, ways)):
        return []
    longer = max(ways, key=len)
    branch, kept = (first, second) if longer is ways[0] else (second, first)
    exit_ = node.outputs[0]
    return [SubLayer("shortcut", node, entry, kept.value, branch.value, exit_, tuple(longer))]


def _fused(node: ir.Node, ancestry: _Ancestry) -> list[SubLayer]:
    sides = [value for value in node.inputs[:2] if value is not None]
    sides.sort(key=ancestry.place)
    entry, branch = sides[0], sides[-1]
    nodes = ancestry.between(entry, branch)
    if not _has_layer(nodes):
        return []
    kind = _kind(entry, nodes)
    return [SubLayer(kind, node, entry, entry, branch, node.outputs[0], tuple(nodes))]


def _has_layer(nodes: Iterable[ir.Node]) -> bool:
    return any(node.op_type in LAYER_OPERATORS for node in nodes)


def _kind(entry: ir.Value, nodes: list[ir.Node]) -> str:
    inside = {entry, *(output for node in nodes for output in node.outputs)}
    operators = {node.op_type for node in nodes}
    if operators & _ATTENTION or "Softmax" in operators:
        # Scores are products of two computed values: one of them is from elsewhere where what is
        # attended to is another sequence.
        for node in nodes:
            if node.op_type in _PRODUCTS | _ATTENTION and _attends_elsewhere(node, inside):
                return "cross-attention"
        return "attention"
    if operators & _CONVOLUTIONS and not operators & {"MatMul", "Gemm"}:
        return "convolution"
    return "feed-forward"


def _attends_elsewhere(node: ir.Node, inside: set[ir.Value]) -> bool:
    sides = [value for value in node.inputs[:2] if value is not None]
    computed = [value for value in sides if constant_tensor(value) is None]
    return len(computed) == 2 and len(inside.intersection(computed)) == 1  # noqa: PLR2004


class _Ancestry:
    """Which nodes lie between two values of a graph that is in order."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._places = {node: place for place, node in enumerate(graph)}

    def place(self, value: ir.Value) -> int:
        """Return the place of the node that computes a value; -1 for what the graph is given."""
        producer = value.producer()
        return -1 if producer is None else self._places.get(producer, -1)

    def between(self, entry: ir.Value, value: ir.Value) -> list[ir.Node]:
        """Return the nodes on the ways from ``entry`` to ``value``, in order; none: no way.

        What depends on the sizes of ``entry`` alone does not come from it.
        """
        cone = self._cone(value, self.place(entry))
        reached: set[ir.Value] = {entry}
        found = []
        for node in sorted(cone, key=self._places.__getitem__):
            if node.op_type not in _SIZES and not reached.isdisjoint(values_read(node)):
                reached.update(node.outputs)
                found.append(node)
        return found if value in reached else []

    def _cone(self, value: ir.Value, after: int) -> set[ir.Node]:
        """Return what a value is computed by, of the nodes behind a place."""
        pending, found = [value], set[ir.Node]()
        while pending:
            node = pending.pop().producer()
            if node is None or node in found or self._places.get(node, -1) <= after:
                continue
            if node.op_type in _SIZES:
                continue
            found.add(node)
            pending.extend(values_read(node))
        return found

    def last_common(self, first: ir.Value, second: ir.Value) -> ir.Value | None:
        """Return the last value that both are computed from and nothing else behind it is."""
        # Walks both ways back at once, the later node first: where they meet in one single value,
        # all that is left to look at is computed before it.
        pending = {first, second}
        while len(pending) > 1:
            latest = max(pending, key=self.place)
            producer = latest.producer()
            if producer is None:
                return None
            pending.discard(latest)
            if producer.op_type not in _SIZES:
                read = values_read(producer)
                pending.update(value for value in read if constant_tensor(value) is None)
        return pending.pop() if pending else None
