"""Folding of padding into convolutions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis import Operators, is_annotated
from graphopt.analysis.operands import ints_attribute, ints_operand, operand, pad_amounts
from graphopt.ir import constant_array, graphs
from graphopt.rewrite import Contract, Editor, Exact, Facts, Needs, Pass, ShapeTable

__all__ = ["FoldPadding"]

_AXES_INPUT = 3
_FIRST_SPATIAL = 2


@dataclass(frozen=True, kw_only=True)
class FoldPadding(Pass):
    """Let convolutions pad by themselves.

    What it does
        A Pad with zeros, of spatial axes only, whose readers are all Convs with explicit padding,
        goes; the Convs pad so much more. Functions of the model are left alone.

    When it refuses
        `read-elsewhere`    something else than a Conv reads the padded value too, or a Conv whose
                            padding is computed from the size of what it reads.
        `not-zero`          the padding is not the number +0, or nobody knows.
        `other-axes`        batch or channels are padded, or something is cut off.
        `spans-an-axis`     a kernel of one channel is, or may be, as long as what is padded: the
                            runtime then sums in another order where the Conv does not pad.

    What it keeps
        The model's inputs and outputs, their names, order, types and shapes; every bit of them:
        kernels multiply the zeros that they add like those that they read.

    Cost
        Time O(nodes + edges); memory O(1). No weight is read.

    Example
        before  (float[N,1,4] x) => (float[N,1,6] z) <int64[6] p = {0, 0, 1, 0, 0, 3}, float[1,1,3] w = {1, 2, 3}> { y = Pad(x, p)  z = Conv(y, w) }
        after   (float[N,1,4] x) => (float[N,1,6] z) <int64[6] p = {0, 0, 1, 0, 0, 3}, float[1,1,3] w = {1, 2, 3}> { z = Conv<pads=[1,3]>(x, w) }

    References
        ONNX operator specifications of Pad and Conv.
    """  # noqa: E501 - the example is one line of ONNX text

    name: ClassVar[str] = "fold-padding"
    contract: ClassVar[Contract] = Contract(numerics=Exact(), is_idempotent=True)
    anchors: ClassVar[frozenset[str] | None] = frozenset({"Pad"})

    def needs(self, model: ir.Model) -> Needs:  # noqa: ARG002
        """Ask for shapes, which tell the rank where a Pad names axes."""
        return Needs(shapes=True)

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Fold every Pad that only convolutions read, from the end."""
        operators = Operators(model)
        for graph in graphs(model):
            # The last of several Pads in a row first: then the one before is read by the same.
            for node in () if operators.is_in_function(graph) else reversed(list(graph)):
                if (node.domain, node.op_type) != ("", "Pad") or not _is_convolved(node):
                    continue
                known = facts.shapes.of(operand(node, 0))
                rank = len(known.dims) if known is not None and known.dims is not None else None
                found = _spatial_amounts(node, rank)
                if isinstance(found, str):
                    edit.refuse(node, found)
                else:
                    _fold(node, found, facts.shapes, edit)


def _is_convolved(node: ir.Node) -> bool:
    """Tell whether some Conv reads what is padded."""
    return any(user.op_type == "Conv" for user, _ in node.outputs[0].uses())


def _spatial_amounts(node: ir.Node, rank: int | None) -> tuple[int, ...] | str:
    """Return how much is added in front of each spatial axis, then after each; or a refusal."""
    mode = node.attributes.get("mode")
    if (mode is not None and (mode.is_ref() or mode.as_string() != "constant")) or not _is_zero(
        node
    ):
        return "not-zero"
    amounts = _amounts_of_all_axes(node, rank)
    if amounts is None or min(amounts, default=0) < 0:
        return "other-axes"
    half = len(amounts) // 2
    front, back = amounts[:half], amounts[half:]
    if any((*front[:_FIRST_SPATIAL], *back[:_FIRST_SPATIAL])):
        return "other-axes"
    return (*front[_FIRST_SPATIAL:], *back[_FIRST_SPATIAL:])


def _amounts_of_all_axes(node: ir.Node, rank: int | None) -> tuple[int, ...] | None:
    amounts = pad_amounts(node)
    if amounts is None or operand(node, _AXES_INPUT) is None:
        return amounts
    axes = ints_operand(node, _AXES_INPUT)
    if axes is None or rank is None or len(amounts) != 2 * len(axes):
        return None
    whole = [0] * (2 * rank)
    for position, axis in enumerate(axes):
        whole[axis % rank] += amounts[position]
        whole[rank + axis % rank] += amounts[position + len(axes)]
    return tuple(whole)


def _is_zero(node: ir.Node) -> bool:
    """Tell whether +0 is what is added; -0 may give sums another sign."""
    attribute, value = node.attributes.get("value"), operand(node, 2)
    if attribute is not None:
        return not attribute.is_ref() and np.float32(attribute.as_float()).tobytes() == bytes(4)
    if value is None:
        return True
    array = constant_array(value, 1)
    return array is not None and not any(array.tobytes())


def _fold(node: ir.Node, amounts: tuple[int, ...], shapes: ShapeTable, edit: Editor) -> None:
    padded, source = node.outputs[0], node.inputs[0]
    uses = list(padded.uses())
    merged = [_merged(use.node, amounts) if use.idx == 0 else None for use in uses]
    is_seen = padded.is_graph_output() or is_annotated(padded)
    if is_seen or source is None or any(found is None for found in merged):
        edit.refuse(node, "read-elsewhere")
        return
    unpadded = [use.node for use, pads in zip(uses, merged, strict=True) if pads == amounts]
    if any(_may_span_an_axis(user, padded, shapes) for user in unpadded):
        edit.refuse(node, "spans-an-axis")
        return
    with edit.rewrite(node, because="only convolutions read what is padded") as change:
        for (user, index), pads in zip(uses, merged, strict=True):
            change.set_attributes(user, {"pads": list(pads or ()), "auto_pad": None})
            change.set_input(user, index, source)
        change.remove(node)


def _may_span_an_axis(conv: ir.Node, padded: ir.Value, shapes: ShapeTable) -> bool:
    """Tell whether a kernel of one channel may be as long as the axis that it moves along."""
    weight, data = (shapes.of(value) for value in (operand(conv, 1), padded))
    if weight is None or not weight.dims:
        return True
    if isinstance(weight.dims[1], int) and weight.dims[1] > 1:
        return False
    if data is None or data.dims is None:
        return True
    sizes = zip(weight.dims[_FIRST_SPATIAL:], data.dims[_FIRST_SPATIAL:], strict=False)
    # Other numbers than these cannot be equal; of what is not a number nobody knows.
    return not all(
        isinstance(kernel, int) and isinstance(size, int) and kernel != size
        for kernel, size in sizes
    )


def _merged(node: ir.Node, amounts: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the padding of a Conv, with ``amounts`` added to it."""
    automatic = node.attributes.get("auto_pad")
    if (node.domain, node.op_type) != ("", "Conv"):
        return None
    mode = "NOTSET" if automatic is None or automatic.is_ref() else automatic.as_string()
    if mode not in ("NOTSET", "VALID") or (automatic is not None and automatic.is_ref()):
        return None
    pads: tuple[int, ...] | None = (0,) * len(amounts)
    if "pads" in node.attributes and mode == "NOTSET":
        pads = ints_attribute(node, "pads")
    if pads is None or len(pads) != len(amounts):
        return None
    return tuple(own + more for own, more in zip(pads, amounts, strict=True))
