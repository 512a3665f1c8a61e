"""Removing sub-layers from residual streams: planning, the self-test, cutting.

``y = x + f(x)`` becomes ``y = x``. Where a normalization follows the sum, it can stay, ``y =
norm(x)``, which is what the model computes with zeros in place of the branch; or go along, since
`x` is the result of a normalization itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt.analysis import infer_shapes
from graphopt.analysis.blocks import Block, find_blocks
from graphopt.analysis.sub_layers import SubLayer
from graphopt.analysis.symbolic_table import SymbolicTable
from graphopt.compression.masking import MAX_SURGERY_ERROR, Feeds
from graphopt.errors import RunError, SessionLoadError
from graphopt.ir import clone, save, scratch_folder
from graphopt.rewrite import Change, Editor, Journal, ShapeTable, ValueShape, can_replace
from graphopt.runtime import shared_worker
from graphopt.verification import compare_models

__all__ = [
    "Candidate",
    "candidates",
    "channel_axis",
    "cut",
    "ends_of",
    "obstacle",
    "removal_fault",
    "without",
]


@dataclass(frozen=True, eq=False)
class Candidate:
    """Sub-layers that go together.

    Attributes:
        name: As the structure of the model names it: ``block-3``, or ``block-3.attention``.
        block: What it is, or is a part of.
        places: Which sub-layers of the block.
    """

    name: str
    block: Block
    places: tuple[int, ...]

    @property
    def layers(self) -> tuple[SubLayer, ...]:
        """The sub-layers."""
        return tuple(self.block.layers[place] for place in self.places)

    @property
    def kinds(self) -> str:
        """What they are."""
        return ", ".join(layer.kind for layer in self.layers)

    @property
    def entry(self) -> ir.Value:
        """The stream before the first of them."""
        return self.layers[0].entry

    @property
    def leave(self) -> ir.Value:
        """The stream behind the last of them, as what follows reads it."""
        return self.block.leaves[self.places[-1]]


def candidates(blocks: Iterable[Block], *, is_by_part: bool) -> list[Candidate]:
    """Return what can be removed at once: each block, or each sub-layer of each."""
    if not is_by_part:
        return [Candidate(block.name, block, tuple(range(len(block.layers)))) for block in blocks]
    return [Candidate(name, block, (place,)) for block in blocks for name, place in block.parts()]


def obstacle(candidate: Candidate, shapes: ShapeTable) -> tuple[str, str] | None:
    """Return why something cannot be removed, a slug and a sentence; ``None`` where it can.

    Args:
        candidate: What shall be removed.
        shapes: Of the model; a `SymbolicTable` proves more.
    """
    for layer in candidate.layers:
        if layer.is_shortcut:
            return "shortcut", "the stream passes layers on both ways, so that none goes on"
        if layer.is_fused:
            why = f"`{layer.node.op_type}` adds and normalizes at once: prune before fusing"
            return "fused", why
        before, after = shapes.of(layer.kept), shapes.of(layer.node.outputs[0])
        if before is None or after is None or before.dims is None or after.dims is None:
            return "unclear-shape", "the shape of the stream is not known"
        if not _may_be_equal(before, after):
            return "changes-shape", f"{before.dims} enters, {after.dims} leaves"
    return None


def _may_be_equal(before: ValueShape, after: ValueShape) -> bool:
    """Tell whether shapes are equal, but perhaps for open sizes that have other names.

    Exporters compute sizes in ways that cannot always be followed: the self-test tells then, which
    runs at several sizes, one among them at which sums would spread.
    """
    if before.dtype != after.dtype or before.dims is None or after.dims is None:
        return False
    if len(before.dims) != len(after.dims) or None in before.dims or None in after.dims:
        return False
    pairs = zip(before.dims, after.dims, strict=True)
    return all(one == other or {type(one), type(other)} == {str} for one, other in pairs)


_MOVING = frozenset({"Einsum", "Gemm", "MatMul", "Transpose"})
_CHANNELS_SECOND = frozenset(
    {"BatchNormalization", "Conv", "FusedConv", "GroupNormalization", "InstanceNormalization"}
)


def channel_axis(layer: SubLayer) -> int:
    """Return the axis along which the channels of a stream lie: 1 before convolutions, or -1."""
    for node in layer.nodes:
        if node.op_type in _CHANNELS_SECOND:
            return 1
        if node.op_type in _MOVING:
            break
    return -1


def cut(
    change: Change, candidate: Candidate, *, is_normalized: bool, is_held: bool = False
) -> ir.Value:
    """Take sub-layers out of their stream; what computed the branches is left where it is.

    Args:
        change: The rewrite.
        candidate: What goes.
        is_normalized: Normalizations behind the sums stay.
        is_held: An ``Identity`` holds the place of the last one, for what stands in for it.

    Returns:
        What stands for the stream behind the last one.
    """
    new: ir.Value | None = None
    gone: dict[ir.Value, ir.Value] = {}  # a rewrite is carried out when all of it is known
    for place in candidate.places:
        layer = candidate.block.layers[place]
        old, kept = _ends(layer, candidate.block.leaves[place], is_normalized)
        new = gone.get(kept, kept)
        is_last = place == candidate.places[-1]
        if (is_held and is_last) or not can_replace(old, new):
            new = change.node("Identity", [new], like=old, after=old.producer())
        gone[old] = new
        change.replace(old, new)
    assert new is not None
    return new


def ends_of(candidate: Candidate, *, is_normalized: bool) -> list[ir.Value]:
    """Return the values that `cut` lets nobody read any more."""
    if not is_normalized:
        return [candidate.block.leaves[place] for place in candidate.places]
    return [layer.node.outputs[0] for layer in candidate.layers]


def _ends(layer: SubLayer, leave: ir.Value, is_normalized: bool) -> tuple[ir.Value, ir.Value]:
    """Return what goes, and what stands in for it."""
    # What enters may be what a removal before has put there: the node knows.
    kept = next(
        value for value in layer.node.inputs if value is not None and value is not layer.branch
    )
    return (layer.node.outputs[0], kept) if is_normalized else (leave, kept)


def removal_fault(
    model: ir.Model, chosen: Sequence[Candidate], feeds: Feeds, *, is_normalized: bool
) -> str | None:
    """Remove from a copy of a model, and compare it with a copy in which zeros are added instead.

    Args:
        model: The model as it is, which stays so.
        chosen: What shall be removed.
        feeds: Inputs to compare on.
        is_normalized: As of `cut`.

    Returns:
        What is wrong, for a person; ``None`` where both agree to `MAX_SURGERY_ERROR`.

    Raises:
        WorkerCrash, WorkerTimeout, WorkerOutOfMemory: The worker ended.
    """
    masked = _edited(model, chosen, is_normalized=is_normalized, is_masked=True)
    shorter = without(model, chosen, is_normalized=is_normalized)
    with scratch_folder() as folder:
        paths = save(masked, folder / "zeros.onnx")[0], save(shorter, folder / "shorter.onnx")[0]
        try:
            found = compare_models(*paths, feeds, worker=shared_worker())
        except (SessionLoadError, RunError) as error:
            return f"the model without them does not run: {error.message}"
    if not found.outputs:
        return "there is nothing to compare: all outputs depend on chance"
    for name, difference in found.outputs.items():
        if difference.mismatch is not None:
            return f"output `{name}`: {difference.mismatch}"
        # Without an answer (NaN) nothing is shown to be right.
        if not difference.max_rel <= MAX_SURGERY_ERROR:
            return f"output `{name}` is off by {difference.max_rel:.2g} of its largest element"
    return None


def without(model: ir.Model, chosen: Sequence[Candidate], *, is_normalized: bool) -> ir.Model:
    """Return a copy of a model without some sub-layers; see `cut`."""
    return _edited(model, chosen, is_normalized=is_normalized, is_masked=False)


def _edited(
    model: ir.Model, chosen: Sequence[Candidate], *, is_normalized: bool, is_masked: bool
) -> ir.Model:
    copy = clone(model)
    editor = Editor(copy, pass_name="self-test", journal=Journal())  # noqa: S106 - no secret
    blocks = {block.name: block for block in find_blocks(copy.graph)}
    shapes = SymbolicTable(copy, infer_shapes(copy)) if is_masked else None
    for candidate in chosen:
        same = Candidate(candidate.name, blocks[candidate.block.name], candidate.places)
        if shapes is not None:
            _mask(editor, same, shapes, is_normalized=is_normalized)
            continue
        with editor.rewrite(copy.graph, because="self-test") as change:
            cut(change, same, is_normalized=is_normalized)
    return copy


def _mask(editor: Editor, candidate: Candidate, shapes: ShapeTable, *, is_normalized: bool) -> None:
    """Multiply what sub-layers do to the stream by zero."""
    for place in candidate.places:
        layer = candidate.block.layers[place]
        known = shapes.of(layer.node.outputs[0])
        assert known is not None
        assert known.dtype is not None
        old, kept = _ends(layer, candidate.block.leaves[place], is_normalized)
        masked = layer.branch if is_normalized else old
        with editor.rewrite(masked, because="self-test") as change:
            zero = change.initializer(np.zeros((), known.dtype.numpy()), name="zero")
            nothing = change.node("Mul", [masked, zero])
            if is_normalized:
                operand = list(layer.node.inputs).index(layer.branch)
                change.set_input(layer.node, operand, nothing)
            else:
                change.replace(old, change.node("Add", [kept, nothing], like=old))
