"""Fusing attention over heads into one operator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import onnx_ir as ir

from graphopt.analysis import Operators, infer_shapes, mask_inputs
from graphopt.analysis.attention_blocks import Attention, Mismatch, find_attention
from graphopt.analysis.attention_masks import Addend, Masks, plan_masks
from graphopt.analysis.attention_operands import AttentionOperands
from graphopt.analysis.attention_projections import (
    as_rows,
    packable_layers,
    packed_bias,
    packed_weight,
    separate_operands,
)
from graphopt.analysis.contrib import CONTRIB_DOMAIN, import_contrib, is_supported_type
from graphopt.analysis.equal_sizes import EqualSizes, sizes_forced_equal
from graphopt.analysis.key_masks import KeyMask
from graphopt.analysis.linear_layers import Linear
from graphopt.analysis.orphans import orphans
from graphopt.analysis.symbolic_table import SymbolicTable
from graphopt.ir import constant_array, graphs
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

_STANDARD_SINCE = 23
_MAX_MASK, _LEAST = 1 << 24, 1e30
_FOR_WANT_OF_SHAPES = frozenset({"heads-not-split", "mask-shape", "unknown-shapes"})


@dataclass(frozen=True, kw_only=True)
class FuseAttention(Pass):
    """Turn attention over heads into one operator.

    What it does
        From each Softmax outward: the product of queries and keys, scaled anywhere by constants;
        masks that are added to it, or chosen by Where, in any view of the scores; the product with
        the values; the merged heads. Queries, keys and values are split into heads by Reshape and
        Transpose, or split already, may be matrices of their own as `torch.bmm` wants them, and may
        continue keys and values of earlier runs.
        Where one linear layer computes all three, or three of one input do, `Attention` computes
        them too; else `MultiHeadAttention` takes their results, and their biases packed; it joins
        past and present itself where nobody asks for them before. A mask that says of each key
        whether it counts is handed over as such, where it is computed of zeros and ones; others as
        what is added to the scores. Where NaN among the weights is replaced by 0, NaN of the result
        is, but where values are NaN or infinite: no mask need be infinite for it, scores overflow
        too. Functions are left alone.
        With `domain=standard` it is the Attention of ONNX, without layers and biases packed.
        Graphs are expected as `@exact` leaves them: an exporter's own have too much in between.

    When it refuses
        `no-attention`      the Softmax is not over the last axis, or no product follows it.
        `heads-not-split`   queries or values are of no known heads, or keys are not transposed.
        `heads-not-merged`  no Transpose and Reshape alone merge the heads.
        `heads-differ`      numbers or sizes of heads differ, or the values are scaled.
        `unknown-shapes`    batch and sequence are not provably the same all the way.
        `mask-shape`        a mask is not provably within (B, H, S, T).
        `mask-form`         scores are replaced by a number that adding cannot make of them; with
                            `standard`, a mask that is no constant, or one that masks a whole row,
                            of which the kernel of ONNX Runtime 1.32 makes another result.
        `element-type`      the elements are not float, which is what kernels exist for.
        `opset-too-low`     `domain` is `standard`, and the opset has no Attention (before 23).
        `read-elsewhere`    the attention weights are read by others too.

    What it keeps
        The model's inputs and outputs, their names, order, types and shapes. Inputs that act as
        masks are taken to hold zeros and ones. Where NaN is replaced by 0, sums of values are taken
        to be finite where the values are.

    Cost
        Time O(nodes), after shape inference. Packed weights are joined when they are written.

    Example
        before  (float[B,S,4] q, float[B,T,4] k, float[B,T,4] v) => (float[B,S,4] z) <int64[4] h = {0, 0, 2, 2}, int64[3] j = {0, 0, 4}, float s = {0.5}> { a = Reshape(q, h)  b = Transpose<perm=[0,2,1,3]>(a)  c = Reshape(k, h)  d = Transpose<perm=[0,2,3,1]>(c)  e = Reshape(v, h)  f = Transpose<perm=[0,2,1,3]>(e)  g = MatMul(b, d)  m = Mul(g, s)  n = Softmax<axis=-1>(m)  o = MatMul(n, f)  p = Transpose<perm=[0,2,1,3]>(o)  z = Reshape(p, j) }
        after   <ir_version: 10, opset_import: ["" : 20, "com.microsoft" : 1]> g (float[B,S,4] q, float[B,T,4] k, float[B,T,4] v) => (float[B,S,4] z) { z = com.microsoft.MultiHeadAttention<num_heads=2, scale=0.5>(q, k, v) }

    References
        Vaswani et al., Attention is all you need, arXiv 1706.03762, section 3.2; ONNX Runtime
        contrib operators Attention and MultiHeadAttention; ONNX operator Attention-23.
    """  # noqa: E501 - the example is one line of ONNX text

    name: ClassVar[str] = "fuse-attention"
    contract: ClassVar[Contract] = Contract(
        numerics=Rounding(1e-4, "scaling after the product, sums in another order"),
        is_idempotent=True,
    )

    anchors: ClassVar[frozenset[str] | None] = frozenset({"Softmax"})

    packed: bool = option(True, help="pack linear layers of one input into Attention")
    domain: str = option(
        "contrib",
        help="`contrib`: operators of ONNX Runtime; `standard`: the Attention of opset 23",
        choices=("standard", "contrib"),
    )

    def needs(self, model: ir.Model) -> Needs:  # noqa: ARG002
        """Ask for shapes."""
        return Needs(shapes=True)

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Fuse around every Softmax; shapes behind one attention may follow from fusing it."""
        shapes = facts.shapes
        while True:
            edits_before = len(edit.journal.edits)
            fusion = _Fusion(
                model, SymbolicTable(model, shapes), edit, is_standard=self.domain == "standard"
            )
            refusals = self._fuse_all(fusion, facts)
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
    if fusion.is_standard and version < _STANDARD_SINCE:
        return Mismatch("opset-too-low", f"opset {version}")
    sizes = fusion.sizes_at(softmax)
    found = find_attention(softmax, fusion.shapes, version, sizes)
    if isinstance(found, Mismatch):
        return found
    masks = _refusal(found, fusion, target) or plan_masks(
        found, fusion.shapes, sizes, fusion.bits, of_keys=not fusion.is_standard
    )
    if isinstance(masks, Mismatch):
        return masks
    if fusion.is_standard and not all(map(_leaves_a_key, masks.added)):
        why = "a row may be masked as a whole, of which ONNX Runtime 1.32 makes something else"
        return Mismatch("mask-form", why)
    fusion.fuse(found, masks, packed=packed)
    return None


def _leaves_a_key(one: Addend) -> bool:
    """Tell whether a mask is constant and keeps a key of each row, as causal masks do."""
    array = constant_array(one.value, _MAX_MASK) if one.choice is None else None
    return array is not None and array.ndim > 0 and bool((array.max(axis=-1) > -_LEAST).all())


def _refusal(found: Attention, fusion: _Fusion, target: TargetFacts) -> Mismatch | None:
    if not is_supported_type(found.result, fusion.shapes, target):
        known = fusion.shapes.of(found.result)
        dtype = known.dtype if known is not None else None
        return Mismatch("element-type", f"`{found.result.name}` is {dtype}")
    if found.softmax not in _replaced(found, (), fusion.operators):
        return Mismatch("read-elsewhere", f"`{found.softmax.outputs[0].name}`")
    return None


def _replaced(found: Attention, kept: Sequence[ir.Value], operators: Operators) -> list[ir.Node]:
    """Return the nodes that give way; where presents come from the operator, their Concats too."""
    joins = [value.producer() for value in _presents(found)]
    return orphans([found.merge, *(node for node in joins if node is not None)], kept, operators)


def _presents(found: Attention) -> list[ir.Value]:
    return [heads.joined for heads in (found.key, found.value) if heads.joined is not None]


class _Fusion:
    """Fuses the attentions of one model; what masks them is shared."""

    def __init__(
        self, model: ir.Model, shapes: SymbolicTable, edit: Editor, *, is_standard: bool
    ) -> None:
        self.model, self.shapes, self._edit, self.is_standard = model, shapes, edit, is_standard
        self.operators = Operators(model)
        self.bits = mask_inputs(model)
        self._sizes = sizes_forced_equal(model, shapes)
        self._made: dict[Any, ir.Value] = {}

    def sizes_at(self, softmax: ir.Node) -> EqualSizes:
        """Return the sizes that are equal; what a branch demands holds in that branch alone."""
        return self._sizes if softmax.graph is self.model.graph else self._sizes.copy()

    def fuse(self, found: Attention, masks: Masks, *, packed: bool) -> None:
        """Put one operator in the place of an attention."""
        found = self._with_own_presents(found)
        kept = [one.value for one in masks.added]
        kept += [masks.key.mask] if masks.key else []
        removed = _replaced(found, kept, self.operators)
        # The guard needs the values apart.
        can_pack = packed and not (found.is_guarded or self.is_standard)
        layers = packable_layers(found, removed) if can_pack else None
        with self._edit.rewrite(found.merge, because=_described(found, masks)) as change:
            operands = AttentionOperands(self.model, found, self.shapes, change)
            kind = "MultiHeadAttention" if layers is None and not self.is_standard else "Attention"
            presents = _presents(found)
            fused, *new = operands.node(
                kind,
                _trimmed(
                    self._inputs(
                        found, masks, operands, layers=layers, change=change, removed=removed
                    )
                ),
                _standard_attributes(found)
                if self.is_standard
                else _attributes(found, masks, kind),
                outputs=1 + len(presents),
                domain="" if self.is_standard else CONTRIB_DOMAIN,
            )
            values = as_rows(found.value, self.model, operands) if found.is_guarded else found.value
            if new:
                values = replace(values.without_past(), source=new[-1])
            change.replace(found.result, operands.result(fused, values))
            for old, present in zip(presents, new, strict=True):
                change.replace(old, present)
            removed = _replaced(found, operands.read, self.operators)
            for node in removed:
                change.remove(node)
            for unread in _unread(removed, operands.read):
                change.remove_initializer(unread)

    def _inputs(
        self,
        found: Attention,
        masks: Masks,
        operands: AttentionOperands,
        *,
        layers: Sequence[Linear] | None,
        change: Change,
        removed: Sequence[ir.Node],
    ) -> list[ir.Value | None]:
        pasts = [found.key.past, found.value.past]
        if self.is_standard:
            heads = [
                as_rows(one, self.model, operands) for one in (found.query, found.key, found.value)
            ]
            return [*map(operands.rows, heads), operands.bias(masks), *pasts]
        import_contrib(self._edit.model, change)
        mask, added = self._key_mask(masks.key, found, operands), operands.bias(masks)
        if layers is None:
            separate = separate_operands(self.model, found, operands, change, removed)
            return [*separate, mask, added, *pasts]
        weight, bias = packed_weight(layers, change), packed_bias(layers, change)
        return [layers[0].source, weight, bias, mask, None, added]

    def _with_own_presents(self, found: Attention) -> Attention:
        """Let the operator join past and present where nobody asks for them before it is done."""
        removed = set(_replaced(found, (), self.operators))
        if all(user in removed for value in _presents(found) for user, _ in value.uses()):
            return found
        return replace(found, key=found.key.without_past(), value=found.value.without_past())

    def _key_mask(
        self, key: KeyMask | None, found: Attention, operands: AttentionOperands
    ) -> ir.Value | None:
        """Return the mask as 32-bit integers, converted once in each graph."""
        if key is None or key.mask.dtype == ir.DataType.INT32:
            return None if key is None else key.mask
        graph = found.merge.graph
        assert isinstance(graph, ir.Graph)
        made = self._made.get((graph, key.mask))
        if made is None or made.producer() is None:  # never applied
            attributes = {"to": ir.DataType.INT32.value}
            made = operands.node("Cast", [key.mask], attributes, before=graph[0])[0]
            self._made[graph, key.mask] = made
        return made


def _described(found: Attention, masks: Masks) -> str:
    query, key = found.query, found.key
    parts = [f"attention, {query.count} heads of {query.size}"]
    if masks.key is not None:
        parts.append(f"keys masked by `{masks.key.mask.name}`")
    parts += [
        f"`{one.value.name}` {'masks' if one.choice else 'is added to'} the scores"
        for one in masks.added
    ]
    if key.past is not None:
        parts.append(f"keys continue `{key.past.name}`")
    return ", ".join(parts)


def _attributes(found: Attention, masks: Masks, kind: str) -> dict[str, Any]:
    attributes: dict[str, Any] = {"num_heads": found.query.count}
    if not math.isclose(found.scale, found.query.size**-0.5, rel_tol=1e-6):
        attributes["scale"] = found.scale
    if masks.key is not None:
        attributes["mask_filter_value"] = masks.key.penalty
    widths = [one.count * one.size for one in (found.query, found.key, found.value)]
    if kind == "Attention" and len(set(widths)) > 1:
        attributes["qkv_hidden_sizes"] = widths
    return attributes


def _standard_attributes(found: Attention) -> dict[str, Any]:
    attributes: dict[str, Any] = {"q_num_heads": found.query.count, "kv_num_heads": found.key.count}
    if not math.isclose(found.scale, found.query.size**-0.5, rel_tol=1e-6):
        attributes["scale"] = found.scale
    return attributes


def _trimmed(inputs: Sequence[ir.Value | None]) -> list[ir.Value | None]:
    count = max(index for index, value in enumerate(inputs) if value is not None)
    return list(inputs[: count + 1])


def _unread(removed: Sequence[ir.Node], read: Sequence[ir.Value]) -> list[ir.Value]:
    """Return the initializers that only the removed nodes read."""
    gone = set(removed)
    values = {value: None for node in removed for value in node.inputs if value is not None}
    return [
        value
        for value in values
        if value.is_initializer()
        and not (value.is_graph_input() or value.is_graph_output() or value in read)
        and all(user in gone for user, _ in value.uses())
    ]
