"""Weights of integers in blocks, in the other of their two forms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from graphopt.analysis.operands import operand
from graphopt.analysis.operators import Operators
from graphopt.analysis.orphans import orphans
from graphopt.compression import BLOCKS_OPSET, opset_obstacle, remove_unread
from graphopt.compression.blocked_forms import read_blocks, read_nbits
from graphopt.compression.quantized_operators import FormRefused, check_place
from graphopt.ir import nodes, opset_version
from graphopt.rewrite import Contract, Editor, Facts, Pass, Rounding, option

__all__ = ["ConvertBlockedWeights"]

_MICROSOFT = "com.microsoft"
_NBITS = (_MICROSOFT, "MatMulNBits")
_BLOCKS_IR_VERSION = 10  # 4-bit integers
_BIAS = 5


@dataclass(frozen=True, kw_only=True)
class ConvertBlockedWeights(Pass):
    """Turn MatMulNBits into a MatMul with a weight that is dequantized in blocks, or the reverse.

    What it does
        `to=dequantize` writes `MatMulNBits` of ONNX Runtime as a MatMul that reads its weight from
        a DequantizeLinear with `block_size`, which every runtime of opset 21 reads; the opset is
        raised where no operator changes its meaning. `to=nbits` does the reverse, for runtimes
        that do not fuse the two, and older opsets. Integers, scales and zero points stay the same
        numbers, in other places.

    When it refuses
        `activations-rounded`  with this `accuracy_level` activations are rounded, too.
        `computed-scale`       weight, scale or zero point is no constant.
        `other-type`           not 4 or 8 bits, or scales of other floats than those of 32 bits, or
                               zero points of floats.
        `other-axis`           blocks do not run along the rows of a matrix.
        `block-size`           blocks are no power of two from 16 on.
        `other-reader`         something else than a MatMul reads the weight.
        `no-other-form`        rows in another order, other numbers of bits, other packing.
        `old-opset`            an operator changes its meaning up to opset 21.
        `inside-function`      the operator is in a function.
        `annotated`            quantization annotations name what it reads or returns.

    What it keeps
        The model's inputs and outputs, their names, order, types and shapes; the weight bit by bit;
        outputs up to rounding, as sums are added up in another order.

    Cost
        Time O(nodes + weight); memory of one weight of 8 bits at a time.

    Example
        options {to=nbits}
        before  <ir_version: 10, opset_import: ["" : 21]> g (float[N, 2] x) => (float[N, 1] y) <int8[2, 1] w = {1, -2}, float[1, 1] s = {0.5}> { v = DequantizeLinear<axis = 0, block_size = 16>(w, s)  y = MatMul(x, v) }
        after   <ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]> g (float[N, 2] x) => (float[N, 1] y) <uint8[1, 1, 16] w_packed = {129, 126, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128}, float[1, 1] w_scale = {0.5}> { y = com.microsoft.MatMulNBits<K = 2, N = 1, bits = 8, block_size = 16>(x, w_packed, w_scale) }

    References
        ONNX operator specifications: DequantizeLinear (opset 21).
        ONNX Runtime, `ContribOperators.md`: com.microsoft.MatMulNBits.
    """  # noqa: E501 - the example is one line of ONNX text

    name: ClassVar[str] = "convert-blocked-weights"
    contract: ClassVar[Contract] = Contract(
        numerics=Rounding(1e-4, "products with the same weight, added up in another order"),
        is_idempotent=True,
    )
    anchors: ClassVar[frozenset[str] | None] = frozenset({"DequantizeLinear", "MatMulNBits"})

    to: str = option(
        "dequantize", help="the form that weights get", choices=("dequantize", "nbits")
    )

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:  # noqa: ARG002
        """Look at each weight that is held in blocks."""
        inside = {node for function in model.functions.values() for node in function.all_nodes()}
        operators, read = Operators(model), dict[ir.Value, None]()
        for node in list(nodes(model)):
            if not self._is_meant(node):
                continue
            read |= {value: None for value in node.inputs if value is not None}
            try:
                check_place(node, inside)
                if self.to == "dequantize":
                    _write_out(node, edit, operators)
                else:
                    _bring_together(node, edit, operators)
            except FormRefused as refused:
                edit.refuse(node, refused.slug, why=refused.why)
        remove_unread(model, edit, read, because="what the other form held")

    def _is_meant(self, node: ir.Node) -> bool:
        if self.to == "dequantize":
            return (node.domain, node.op_type) == _NBITS
        is_blocked = bool(node.attributes.get_int("block_size", 0))
        return not node.domain and node.op_type == "DequantizeLinear" and is_blocked


def _write_out(node: ir.Node, edit: Editor, operators: Operators) -> None:
    """Replace `MatMulNBits` by a product with a weight that is dequantized."""
    opset = opset_version(edit.model)
    why = opset_obstacle(edit.model, BLOCKS_OPSET) if opset < BLOCKS_OPSET else None
    if why is not None:
        raise FormRefused("old-opset", why)
    blocks = read_nbits(node)
    if opset < BLOCKS_OPSET:
        with edit.rewrite(edit.model.graph, because="the opset of blocks") as change:
            change.set_opset("", BLOCKS_OPSET)
            change.set_ir_version(max(edit.model.ir_version, _BLOCKS_IR_VERSION))
    with edit.rewrite(
        node, because="its weight is dequantized by an operator of its own"
    ) as change:
        named = node.inputs[1]
        name = named.name if named is not None else "weight"
        kinds = ("quantized", "scale", "zero_point")
        pairs = zip(blocks.for_dequantize(), kinds, strict=False)
        held = [change.initializer(array, name=f"{name}_{kind}") for array, kind in pairs]
        attributes = {"axis": 0, "block_size": blocks.size}
        weight = change.node("DequantizeLinear", held, attributes=attributes)
        bias = operand(node, _BIAS)
        result = change.node("MatMul", [node.inputs[0], weight], like=node.outputs[0])
        if bias is not None:
            result = change.node("Add", [result, bias], like=node.outputs[0])
        kept = [value for value in (node.inputs[0], bias) if value is not None]
        change.replace(node.outputs[0], result)
        for gone in orphans([node], kept, operators):
            change.remove(gone)


def _bring_together(node: ir.Node, edit: Editor, operators: Operators) -> None:
    """Replace products with a weight that is dequantized in blocks by `MatMulNBits`."""
    uses = list(node.outputs[0].uses())
    others = [reader for reader, place in uses if not _multiplies(reader, place)]
    if others or not uses or node.outputs[0].is_graph_output():
        read = f"`{others[0].op_type}` reads its weight" if others else "its weight is returned"
        raise FormRefused("other-reader", read)
    blocks = read_blocks(node)
    inputs, outputs = blocks.integers.shape
    attributes = {"K": inputs, "N": outputs, "bits": blocks.bits, "block_size": blocks.size}
    with edit.rewrite(node, because="it is multiplied by at once") as change:
        name = node.inputs[0].name if node.inputs[0] is not None else "weight"
        pairs = zip(blocks.for_nbits(), ("packed", "scale", "zero_point"), strict=False)
        held = [change.initializer(array, name=f"{name}_{kind}") for array, kind in pairs]
        if _MICROSOFT not in edit.model.opset_imports:
            change.set_opset(_MICROSOFT, 1)
        for reader, _ in uses:
            result = change.node(
                "MatMulNBits",
                [reader.inputs[0], *held],
                attributes=attributes,
                domain=_MICROSOFT,
                like=reader.outputs[0],
                before=reader,
            )
            change.replace(reader.outputs[0], result)
        products = [reader for reader, _ in uses]
        kept = [value for reader in products if (value := reader.inputs[0]) is not None]
        for gone in orphans([*products, node], kept, operators):
            change.remove(gone)


def _multiplies(reader: ir.Node, place: int) -> bool:
    return (reader.domain, reader.op_type, place) == ("", "MatMul", 1)
