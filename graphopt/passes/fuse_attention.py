"""Fusing attention over heads into one operator of ONNX Runtime."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis import Operators, infer_shapes, mask_inputs
from graphopt.analysis.attention_blocks import Attention, Mismatch, find_attention
from graphopt.analysis.contrib import CONTRIB_DOMAIN, import_contrib, is_supported_type
from graphopt.analysis.key_masks import KeyMask, find_key_mask
from graphopt.analysis.linear_layers import Linear, find_linear
from graphopt.analysis.orphans import orphans
from graphopt.analysis.symbolic_table import SymbolicTable
from graphopt.ir import constant_tensor, graphs
from graphopt.rewrite import (
    Change,
    Contract,
    Editor,
    Facts,
    Needs,
    Pass,
    Rounding,
    TargetFacts,
    option,
)

__all__ = ["FuseAttention"]

_RANK = 4
_FOR_WANT_OF_SHAPES = frozenset({"heads-not-split", "mask-shape", "unknown-shapes"})


@dataclass(frozen=True, kw_only=True)
class FuseAttention(Pass):
    """Turn attention over heads into one operator of ONNX Runtime.

    What it does
        From each Softmax outward: the product of queries and keys, scaled anywhere by constants,
        masks that are added to it, the product with the values, the merged heads. Where queries,
        keys and values are linear layers of one input, their weights are packed into one matrix
        and `Attention` computes all of it; else `MultiHeadAttention` takes their results, and
        their biases packed. A mask that says of each key whether it counts is handed over as
        such, where it is computed of zeros and ones; others as what is added to the scores.
        Functions of the model are left alone.

    When it refuses
        `no-attention`      the Softmax is not over the last axis, or no product follows it.
        `heads-not-split`   queries, keys or values are not split by Reshape and Transpose.
        `heads-not-merged`  no Transpose and Reshape merge the heads.
        `heads-differ`      numbers or sizes of heads differ, or the values are scaled.
        `unknown-shapes`    batch and sequence are not provably the same all the way.
        `mask-shape`        a mask is not provably of the shape (B or 1, H or 1, S, T).
        `mask-form`         scores are replaced by a number, or NaN by 0.
        `element-type`      the elements are not float, which is what kernels exist for.
        `read-elsewhere`    the attention weights are read by others too.

    What it keeps
        The model's inputs and outputs, their names, order, types and shapes. Inputs that act as
        masks are taken to hold zeros and ones.

    Cost
        Time O(nodes), after shape inference. Packed weights are joined when they are written.

    Example
        before  (float[B,S,4] q, float[B,T,4] k, float[B,T,4] v) => (float[B,S,4] z) <int64[4] h = {0, 0, 2, 2}, int64[3] j = {0, 0, 4}, float s = {0.5}> { a = Reshape(q, h)  b = Transpose<perm=[0,2,1,3]>(a)  c = Reshape(k, h)  d = Transpose<perm=[0,2,3,1]>(c)  e = Reshape(v, h)  f = Transpose<perm=[0,2,1,3]>(e)  g = MatMul(b, d)  m = Mul(g, s)  n = Softmax<axis=-1>(m)  o = MatMul(n, f)  p = Transpose<perm=[0,2,1,3]>(o)  z = Reshape(p, j) }
        after   <ir_version: 10, opset_import: ["" : 20, "com.microsoft" : 1]> g (float[B,S,4] q, float[B,T,4] k, float[B,T,4] v) => (float[B,S,4] z) { z = com.microsoft.MultiHeadAttention<num_heads=2, scale=0.5>(q, k, v) }

    References
        Vaswani et al., Attention is all you need, arXiv 1706.03762, section 3.2; ONNX Runtime
        contrib operators Attention and MultiHeadAttention.
    """  # noqa: E501 - the example is one line of ONNX text

    name: ClassVar[str] = "fuse-attention"
    contract: ClassVar[Contract] = Contract(
        numerics=Rounding(1e-4, "scaling after the product, sums in another order"),
        is_idempotent=True,
    )

    packed: bool = option(True, help="pack linear layers of one input into Attention")

    def needs(self, model: ir.Model) -> Needs:  # noqa: ARG002
        """Ask for shapes."""
        return Needs(shapes=True)

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Fuse around every Softmax; shapes behind one attention may follow from fusing it."""
        shapes = facts.shapes
        while True:
            edits_before = len(edit.journal.edits)
            refusals = self._fuse_all(_Fusion(model, SymbolicTable(model, shapes), edit), facts)
            is_stuck = any(refusal.slug in _FOR_WANT_OF_SHAPES for refusal in refusals.values())
            if not is_stuck or len(edit.journal.edits) == edits_before:
                break
            shapes = infer_shapes(model)
        for node, refusal in refusals.items():
            edit.refuse(node, refusal.slug, why=refusal.why)

    def _fuse_all(self, fusion: _Fusion, facts: Facts) -> dict[ir.Node, Mismatch]:
        refusals: dict[ir.Node, Mismatch] = {}
        for graph in graphs(fusion.model):
            if fusion.operators.is_in_function(graph):
                continue
            for node in [node for node in graph if node.op_type == "Softmax" and not node.domain]:
                refused = _fuse_around(node, fusion, facts.target, packed=self.packed)
                if refused is not None:
                    refusals[node] = refused
        return refusals


def _fuse_around(
    softmax: ir.Node, fusion: _Fusion, target: TargetFacts, *, packed: bool
) -> Mismatch | None:
    version = fusion.operators.version(softmax) or 1
    found = find_attention(softmax, fusion.shapes, version)
    if isinstance(found, Mismatch):
        return found
    masks = _refusal(found, fusion, target) or fusion.masks(found)
    if isinstance(masks, Mismatch):
        return masks
    fusion.fuse(found, masks, packed=packed)
    return None


def _refusal(found: Attention, fusion: _Fusion, target: TargetFacts) -> Mismatch | None:
    if not is_supported_type(found.result, fusion.shapes, target):
        return Mismatch("element-type", "")
    if found.choices or found.is_guarded:
        return Mismatch("mask-form", "the fused kernels add masks only")
    if found.softmax not in _replaced(found, (), fusion.operators):
        return Mismatch("read-elsewhere", "")
    return None


def _replaced(
    found: Attention, kept: Sequence[ir.Value | None], operators: Operators
) -> list[ir.Node]:
    last = found.result.producer()
    assert last is not None
    return orphans([last], [value for value in kept if value is not None], operators)


class _Masks(NamedTuple):
    """What masks the scores: one mask of keys, and what is added."""

    key: KeyMask | None
    added: tuple[ir.Value, ...]


class _Fusion:
    """Fuses the attentions of one model; what masks them is shared."""

    def __init__(self, model: ir.Model, shapes: SymbolicTable, edit: Editor) -> None:
        self.model, self.shapes, self._edit = model, shapes, edit
        self.operators = Operators(model)
        self._bits = mask_inputs(model)
        self._made: dict[Any, ir.Value] = {}

    def masks(self, found: Attention) -> _Masks | Mismatch:
        """Return the masks as the operators take them, or why they cannot."""
        key: KeyMask | None = None
        added: list[ir.Value] = []
        for mask in found.masks:
            of_keys = find_key_mask(mask, self._bits) if key is None else None
            if of_keys is not None and self._dims(of_keys.mask) == found.key.dims[:2]:
                key = of_keys
            else:
                added.append(mask)
        for mask in added:
            if not self._is_addable(mask, found):
                why = f"{self._dims(mask)} for queries {found.query.dims} and keys {found.key.dims}"
                return Mismatch("mask-shape", why)
        return _Masks(key, tuple(added))

    def _dims(self, value: ir.Value) -> tuple[int | str | None, ...] | None:
        known = self.shapes.of(value)
        return None if known is None else known.dims

    def _is_addable(self, mask: ir.Value, found: Attention) -> bool:
        """Tell whether a mask is (B or 1, H or 1, S, T); the first two cannot be anything else."""
        dims = self._dims(mask)
        return (
            dims is not None
            and len(dims) == _RANK
            and dims[2:]
            == (
                found.query.dims[1],
                found.key.dims[1],
            )
        )

    def fuse(self, found: Attention, masks: _Masks, *, packed: bool) -> None:
        """Put one operator in the place of an attention."""
        root = found.result.producer()
        assert root is not None
        layers = self._packable(found, masks) if packed else None
        with self._edit.rewrite(root, because="attention around a Softmax") as change:
            import_contrib(self._edit.model, change)
            attributes = _attributes(found, masks)
            mask, added = self._key_mask(masks.key, root, change), _sum(masks.added, change)
            inputs: list[ir.Value | None]
            if layers is not None:
                inputs = [layers[0].source, _packed_weight(layers, change)]
                inputs += [_packed_bias(layers, change), mask, None, added]
                attributes |= _sizes(layers)
            else:
                inputs = [*self._separate(found, change), mask, added]
            kind = "MultiHeadAttention" if layers is None else "Attention"
            fused = change.node(
                kind, _trimmed(inputs), attributes=attributes, domain=CONTRIB_DOMAIN
            )
            change.replace(found.result, fused)
            kept = [*inputs, *masks.added, *([masks.key.mask] if masks.key else [])]
            removed = _replaced(found, kept, self.operators)
            for node in removed:
                change.remove(node)
            for weight in _unread(removed, inputs):
                change.remove_initializer(weight)

    def _packable(self, found: Attention, masks: _Masks) -> tuple[Linear, ...] | None:
        """Return the layers of queries, keys and values, where nobody else needs them."""
        sources = (found.query.source, found.key.source, found.value.source)
        layers = [layer for layer in map(find_linear, sources) if layer is not None]
        if len(layers) < len(sources) or len({layer.source for layer in layers}) > 1:
            return None
        kept = [layers[0].source, *masks.added]
        removed = set(_replaced(found, kept, self.operators))
        is_free = all(layer.product.producer() in removed for layer in layers)
        is_own = all(len(layer.weight.uses()) == 1 for layer in layers)
        is_plain = not any(layer.weight.is_graph_output() for layer in layers)
        return tuple(layers) if is_free and is_own and is_plain else None

    def _separate(self, found: Attention, change: Change) -> list[ir.Value | None]:
        """Return queries, keys and values without their biases, and the biases packed."""
        sources = (found.query.source, found.key.source, found.value.source)
        layers = [find_linear(source) for source in sources]
        if all(layer is None or layer.bias is None for layer in layers):
            return [*sources, None]
        widths = [heads.count * heads.size for heads in (found.query, found.key, found.value)]
        biases = [
            np.zeros(width, np.float32) if layer is None else _bias(layer)
            for layer, width in zip(layers, widths, strict=True)
        ]
        products = [
            source if layer is None else layer.product
            for layer, source in zip(layers, sources, strict=True)
        ]
        return [*products, change.initializer(np.concatenate(biases), name="packed_bias")]

    def _key_mask(self, key: KeyMask | None, root: ir.Node, change: Change) -> ir.Value | None:
        """Return the mask as 32-bit integers, converted once in each graph."""
        if key is None:
            return None
        if key.mask.dtype == ir.DataType.INT32:
            return key.mask
        graph = root.graph
        assert isinstance(graph, ir.Graph)
        made = self._made.get((graph, key.mask))
        if made is None or made.producer() is None:  # never applied
            attributes = {"to": ir.DataType.INT32.value}
            made = change.node("Cast", [key.mask], attributes=attributes, before=graph[0])
            self._made[graph, key.mask] = made
        return made


def _attributes(found: Attention, masks: _Masks) -> dict[str, Any]:
    attributes: dict[str, Any] = {"num_heads": found.query.count}
    if not math.isclose(found.scale, found.query.size**-0.5, rel_tol=1e-6):
        attributes["scale"] = found.scale
    if masks.key is not None:
        attributes["mask_filter_value"] = masks.key.penalty
    return attributes


def _sizes(layers: Sequence[Linear]) -> dict[str, list[int]]:
    widths = [layer.width for layer in layers]
    return {} if len(set(widths)) == 1 else {"qkv_hidden_sizes": widths}


def _sum(added: Sequence[ir.Value], change: Change) -> ir.Value | None:
    total: ir.Value | None = None
    for mask in added:
        total = mask if total is None else change.node("Add", [total, mask])
    return total


def _bias(layer: Linear) -> npt.NDArray[Any]:
    tensor, weight = constant_tensor(layer.bias), constant_tensor(layer.weight)
    assert weight is not None
    return np.zeros(layer.width, weight.dtype.numpy()) if tensor is None else tensor.numpy()


def _packed_bias(layers: Sequence[Linear], change: Change) -> ir.Value | None:
    if all(layer.bias is None for layer in layers):
        return None
    bias = np.concatenate([_bias(layer) for layer in layers])
    return change.initializer(bias, name=f"{layers[0].weight.name}_packed_bias")


def _packed_weight(layers: Sequence[Linear], change: Change) -> ir.Value:
    """Return (in_features, all out_features); it is joined when it is read, not before."""
    tensors = [tensor for layer in layers if (tensor := constant_tensor(layer.weight)) is not None]
    rows = int(tensors[0].shape.numpy()[0])
    name = f"{layers[0].weight.name}_packed"
    packed = ir.LazyTensor(
        lambda: ir.tensor(np.concatenate([tensor.numpy() for tensor in tensors], axis=1)),
        dtype=tensors[0].dtype,
        shape=ir.Shape([rows, sum(layer.width for layer in layers)]),
        name=name,
    )
    return change.initializer(packed, name=name)


def _trimmed(inputs: Sequence[ir.Value | None]) -> list[ir.Value | None]:
    count = max(index for index, value in enumerate(inputs) if value is not None)
    return list(inputs[: count + 1])


def _unread(removed: Sequence[ir.Node], inputs: Sequence[ir.Value | None]) -> list[ir.Value]:
    """Return the initializers that only the removed nodes read."""
    gone = set(removed)
    read = {value: None for node in removed for value in node.inputs if value is not None}
    return [
        value
        for value in read
        if value.is_initializer()
        and not (value.is_graph_input() or value.is_graph_output() or value in inputs)
        and all(user in gone for user, _ in value.uses())
    ]
