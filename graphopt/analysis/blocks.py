"""Blocks: which sub-layers follow each other on one stream, and which of them repeat together.

An encoder of twelve layers is one stream of twelve blocks, each of attention and a feed-forward
network; a residual network is one of blocks of convolutions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from graphopt.analysis.readers import only_reader
from graphopt.analysis.sub_layers import LAYER_OPERATORS, SubLayer, find_sub_layers
from graphopt.ir import constant_tensor

__all__ = ["Block", "find_blocks"]

_MOST_STEPS = 64
"""Nodes between two sub-layers of one stream: a normalization written out has about ten."""


@dataclass(frozen=True, eq=False)
class Block:
    """Sub-layers that repeat together.

    Attributes:
        name: ``block-`` and its number among all blocks of the graph, from 0.
        stream: Number of the stream that it is a part of.
        layers: Its sub-layers, in order.
        leaves: The stream behind each of them, as what follows reads it: normalized, where models
            normalize sums.
    """

    name: str
    stream: int
    layers: tuple[SubLayer, ...]
    leaves: tuple[ir.Value, ...]

    @property
    def entry(self) -> ir.Value:
        """The stream before the block."""
        return self.layers[0].entry

    @property
    def leave(self) -> ir.Value:
        """The stream behind the block, as what follows reads it."""
        return self.leaves[-1]

    def parts(self) -> Iterator[tuple[str, int]]:
        """Yield names of sub-layers, such as ``block-3.attention``, and places in `layers`."""
        seen: dict[str, int] = {}
        for place, layer in enumerate(self.layers):
            number = seen[layer.kind] = seen.get(layer.kind, 0) + 1
            yield f"{self.name}.{layer.kind}{'' if number == 1 else f'-{number}'}", place


def find_blocks(graph: ir.Graph) -> tuple[Block, ...]:
    """Return the blocks of a graph, stream by stream; what is inside a branch is left to it."""
    layers = _outermost(find_sub_layers(graph))
    followers = _followers(layers)
    leaves = {layer: following.entry for layer, following in followers.items()}
    found: list[Block] = []
    for stream, members in enumerate(_streams(layers, followers)):
        for layer in members:
            if layer not in leaves:
                leaves[layer] = _normalized(layer, leaves.get(members[0]))
        for part in _repeated(members):
            ends = tuple(leaves[layer] for layer in part)
            found.append(Block(f"block-{len(found)}", stream, tuple(part), ends))
    return tuple(found)


def _normalized(last: SubLayer, first: ir.Value | None) -> ir.Value:
    """Return what the last sub-layer of a stream leaves, by what the first one does."""
    reader, like = only_reader(last.exit), first.producer() if first is not None else None
    if reader is None or like is None or reader.op_type != like.op_type:
        return last.exit
    return reader.outputs[0] if reader.op_type not in LAYER_OPERATORS else last.exit


def _outermost(layers: Sequence[SubLayer]) -> list[SubLayer]:
    """Return the layers that are no part of the branch of another one.

    A branch that holds several, as the long ways of a U-shaped network do, is no layer: what it
    holds is.
    """
    inside = set[ir.Node]()
    wide = set[SubLayer]()
    for layer in layers:
        nodes = set(layer.nodes)
        held = [other.node for other in layers if other.node in nodes]
        if len(held) > 1:
            wide.add(layer)
        else:
            inside.update(held)
    return [layer for layer in layers if layer not in wide and layer.node not in inside]


def _followers(layers: Sequence[SubLayer]) -> dict[SubLayer, SubLayer]:
    """Return for each layer the one that goes on with its stream."""
    exits = {layer.exit: layer for layer in layers}
    found: dict[SubLayer, SubLayer] = {}
    for layer in layers:
        before = _source(layer.entry, exits)
        if before is not None and before is not layer:
            found.setdefault(before, layer)
    # Sub-layers that run side by side share one exit: the last stands for all of them.
    return found


def _source(entry: ir.Value, exits: dict[ir.Value, SubLayer]) -> SubLayer | None:
    """Return the layer whose exit a value is, normalized or rearranged at most."""
    pending, met, seen = [entry], set[SubLayer](), set[ir.Value]()
    while pending and len(seen) < _MOST_STEPS:
        value = pending.pop()
        if value in seen or constant_tensor(value) is not None:
            continue
        seen.add(value)
        if value in exits:
            met.add(exits[value])
            continue
        producer = value.producer()
        # Between two sub-layers of one stream lies no layer: this is where another stream begins.
        if producer is None or producer.op_type in LAYER_OPERATORS:
            return None
        if producer.op_type not in ("Shape", "Size"):
            pending.extend(item for item in producer.inputs if item is not None)
    return met.pop() if len(met) == 1 and not pending else None


def _streams(
    layers: Sequence[SubLayer], followers: dict[SubLayer, SubLayer]
) -> Iterator[list[SubLayer]]:
    by_exit: dict[ir.Value, list[SubLayer]] = {}
    for layer in layers:
        by_exit.setdefault(layer.exit, []).append(layer)
    heads = {value: followers.get(group[-1]) for value, group in by_exit.items()}
    continued = {follower.exit for follower in heads.values() if follower is not None}
    for value, group in by_exit.items():
        # Each stream is told once, from its first sub-layer on.
        if value in continued:
            continue
        members = list(group)
        following = heads[value]
        while following is not None:
            members += by_exit[following.exit]
            following = heads[following.exit]
        yield members


def _repeated(layers: Sequence[SubLayer]) -> Iterator[Sequence[SubLayer]]:
    """Cut a stream into the shortest parts that repeat, or else before each self-attention."""
    kinds = [layer.kind for layer in layers]
    count = len(kinds)
    for period in range(1, count // 2 + 1):
        if count % period == 0 and all(kinds[i] == kinds[i - period] for i in range(period, count)):
            yield from (layers[start : start + period] for start in range(0, count, period))
            return
    starts = [0, *(i for i in range(1, count) if kinds[i] == "attention")]
    if "attention" not in kinds:
        starts = list(range(count))
    yield from (layers[low:high] for low, high in zip(starts, [*starts[1:], count], strict=True))
