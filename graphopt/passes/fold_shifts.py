"""Folding constant summands into biases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis import Operators, is_annotated
from graphopt.analysis.constant_arithmetic import (
    Constant,
    Replacement,
    constant_of,
    is_private,
    shift_step,
)
from graphopt.analysis.scale_paths import is_layout
from graphopt.analysis.weighted_layers import Array, WeightedLayer, find_weighted_layer
from graphopt.ir import as_tensor, constant_tensor, graphs
from graphopt.rewrite import (
    Contract,
    Editor,
    Facts,
    Needs,
    Pass,
    Rounding,
    ShapeTable,
    can_replace,
)

__all__ = ["FoldShifts"]

_LEAST_SUM = 2.0**-6
_MOST_STEPS = 8
_MOST_REPEATED = 16
_CANCELS = "cancels"


@dataclass(frozen=True, kw_only=True)
class FoldShifts(Pass):
    """Add constant summands to the bias, or the other summand, that they follow.

    What it does
        An Add or Sub of a constant goes, and the constant into the bias of the Conv, ConvTranspose,
        Gemm or LayerNormalization before it, which gets one where it has none, or into the
        constant of another Add or Sub; for one number also through operators that move elements.
        Functions of the model are left alone.

    When it refuses
        `read-elsewhere`   what is added to is read by others too.
        `shared-weight`    the bias has other readers and is not small, so that a copy would make
                           the file grow; or a quantization annotation tells its range.
        `cancels`          the two constants nearly cancel: what the first sum rounds away, the
                           second would show.
        `names-an-output`  the result is an output that nothing else can be called like.

    What it keeps
        The model's inputs and outputs, their names, order, types and shapes.

    Cost
        Time O(nodes), after shape inference; constants up to 2^18 elements are read.

    Example
        before  (float[N,2] x) => (float[N,2] z) <float[2] b = {1, 2}, float[2] c = {3, 4}> { y = Add(x, b)  z = Sub(y, c) }
        after   (float[N,2] x) => (float[N,2] z) <float[2] b = {1, 2}, float[2] c = {3, 4}, float[2] d = {-2, -2}> { z = Add(x, d) }

    References
        Reassociation; Higham, Accuracy and stability of numerical algorithms, section 4.2.
    """  # noqa: E501 - the example is one line of ONNX text

    name: ClassVar[str] = "fold-shifts"
    contract: ClassVar[Contract] = Contract(
        numerics=Rounding(1e-4, "sums in another order: 2e-7 measured for one"),
        is_idempotent=True,
    )
    anchors: ClassVar[frozenset[str] | None] = frozenset({"Add", "Sub"})

    def needs(self, model: ir.Model) -> Needs:  # noqa: ARG002
        """Ask for shapes, which tell what a constant is broadcast along."""
        return Needs(shapes=True)

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Fold every constant summand, the first in data flow first."""
        operators = Operators(model)
        candidates = [
            node
            for graph in graphs(model)
            for node in (() if operators.is_in_function(graph) else graph)
            if node.op_type in ("Add", "Sub")
        ]
        while candidates:  # what cancelled may not once a further constant has been added
            refused = {node: _fold(node, operators, facts.shapes, edit) for node in candidates}
            left = [node for node, slug in refused.items() if slug == _CANCELS]
            is_settled = left == candidates
            candidates = [] if is_settled else left
            for node, slug in refused.items():
                if slug is not None and (slug != _CANCELS or is_settled):
                    edit.refuse(node, slug)


def _fold(node: ir.Node, operators: Operators, shapes: ShapeTable, edit: Editor) -> str | None:
    """Fold what ``node`` adds, or return why not."""
    step = shift_step(node, shapes, operators.version(node) or 1)
    if step is None or step.summands is None or is_annotated(node.outputs[0]):
        return None
    found = _absorbed(step.source, step.summands)
    if not isinstance(found, Replacement):
        return found
    if not can_replace(step.node.outputs[0], step.source):
        return "names-an-output"
    with edit.rewrite(step.node, because=f"{step.node.op_type} of constants") as change:
        new = change.initializer(found.tensor, name=f"{step.node.name or 'shift'}_bias")
        change.set_input(found.node, found.index, new)
        change.replace(step.node.outputs[0], step.source)
        change.remove(step.node)
    return None


def _absorbed(value: ir.Value, summands: Array) -> Replacement | str | None:
    """Return what makes ``value`` larger by ``summands``, a refusal, or ``None``."""
    all_private = True
    for _ in range(_MOST_STEPS):
        node = value.producer()
        if node is None or node.domain:
            return None
        all_private = all_private and is_private(value)
        layer = find_weighted_layer(node)
        if layer is not None and layer.bias is not None and layer.takes(summands.shape):
            found = _into_bias(layer, layer.bias, summands)
        else:
            found = _into_sum(node, summands)
        if found is not None:
            return found if all_private else "read-elsewhere"
        source = node.inputs[0] if is_layout(node) and not summands.ndim else None
        if source is None:
            return None
        value = source
    return None


def _into_bias(layer: WeightedLayer, index: int, summands: Array) -> Replacement | str | None:
    dtype, channels = layer.tensor.dtype.numpy(), layer.channels or 0
    if not layer.shift_factor:
        return None
    added = summands.reshape(-1) if summands.ndim else summands
    added = added / layer.shift_factor
    if index < len(layer.node.inputs) and layer.node.inputs[index] is not None:
        bias = constant_of(layer.node, index)
        return None if bias is None else _plus(layer.node, bias, added, 1.0)
    if added.ndim == 0 and channels > _MOST_REPEATED:
        return None  # the new bias would be larger than the node that it spares
    tensor = as_tensor(np.broadcast_to(added, (channels,)).astype(dtype), "")
    return Replacement(layer.node, index, tensor) if np.isfinite(added).all() else None


def _into_sum(node: ir.Node, summands: Array) -> Replacement | str | None:
    if node.op_type not in ("Add", "Sub"):
        return None
    for index in (1, 0):
        constant = constant_of(node, index)
        if constant is not None and constant_tensor(node.inputs[1 - index]) is None:
            sign = -1.0 if node.op_type == "Sub" and index == 1 else 1.0
            return _plus(node, constant, summands, sign)
    return None


def _plus(
    node: ir.Node, constant: Constant, summands: Array, sign: float
) -> Replacement | str | None:
    """Add to a constant operand, which must not become larger than both."""
    old = constant.array
    if np.prod(np.broadcast_shapes(old.shape, summands.shape)) > max(old.size, summands.size):
        return None
    with np.errstate(all="ignore"):
        total = (old + sign * summands).astype(constant.dtype)
    if not np.isfinite(total).all():
        return None
    largest = max(np.abs(old).max(), np.abs(summands).max())
    if np.abs(total).max() < _LEAST_SUM * largest:
        return _CANCELS
    if constant.is_shared:
        return "shared-weight"
    return Replacement(node, constant.index, as_tensor(np.asarray(total), ""))
