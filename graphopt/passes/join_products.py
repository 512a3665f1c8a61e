"""One product for all linear layers of one input."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis import Operators, is_annotated
from graphopt.analysis.attention_projections import packed_weight
from graphopt.analysis.linear_layers import Linear, find_linear
from graphopt.analysis.orphans import orphans
from graphopt.ir import graphs, opset_version
from graphopt.rewrite import Contract, Editor, Facts, Pass, Rounding

__all__ = ["JoinProducts"]

_NEGATIVE_AXES_SINCE = 11
_SIZES_INPUT_SINCE = 13


@dataclass(frozen=True, kw_only=True)
class JoinProducts(Pass):
    """Multiply an input by the weights of all linear layers that read it at once.

    What it does
        Layers that read the same value, as those of queries, keys and values do, become one: their
        weights stand beside each other, and a Split parts the result. Each element is the same sum
        as before. Functions of the model are left alone.

        With integer weights over one row, as in decoders, that is 1 to 4 % of the whole: the row is
        rounded once, and kernels start less often. In floats, and over many rows, what the Split
        moves costs more than that.

    When it refuses
        `shared-weight`  others read the weight, too, which would have to be stored twice.
        `returned`       the model returns a result, or a quantization annotation describes it.
        `opset-too-old`  Split knows no axis from the end (before opset 11).

        Layers whose weight the caller may override, or that is computed, are not looked at, nor
        those of an input that no other layer reads. Biases are added to the parts, as before.

    What it keeps
        The model's inputs and outputs, their names, order, types and shapes.

    Cost
        Time O(nodes); weights are joined when they are written, or read.

    Example
        before  (float[N,2] x) => (float[N,2] y, float[N,1] z) <float[2,2] a = {1, 2, 3, 4}, float[2,1] b = {5, 6}> { p = MatMul(x, a)  q = MatMul(x, b)  y = Relu(p)  z = Relu(q) }
        after   (float[N,2] x) => (float[N,2] y, float[N,1] z) <float[2,3] w = {1, 2, 5, 3, 4, 6}, int64[2] s = {2, 1}> { j = MatMul(x, w)  p, q = Split<axis=-1>(j, s)  y = Relu(p)  z = Relu(q) }

    References
        ONNX operators MatMul and Split.
    """  # noqa: E501 - the example is one line of ONNX text

    name: ClassVar[str] = "join-products"
    contract: ClassVar[Contract] = Contract(
        numerics=Rounding(1e-5, "kernels for other widths may sum in another order; 0 measured"),
        is_idempotent=True,
    )
    anchors: ClassVar[frozenset[str] | None] = frozenset({"MatMul"})

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:  # noqa: ARG002
        """Join the layers of every value that several of them read."""
        operators = Operators(model)
        version = opset_version(model)
        for graph in graphs(model):
            if operators.is_in_function(graph):
                continue
            for nodes in _beside_each_other(graph):
                # Found anew: what they read may be a part of what was joined just before.
                layers = [layer for node in nodes if (layer := find_linear(node.outputs[0]))]
                fitting = []
                for layer in layers:
                    slug = _refusal(layer, version)
                    if slug is None:
                        fitting.append(layer)
                    else:
                        edit.refuse(_node(layer), slug)
                if len(fitting) > 1:
                    _join(fitting, operators, edit, version)


def _beside_each_other(graph: ir.Graph | ir.Function) -> list[list[ir.Node]]:
    """Return the layers of each value that several layers read, in order of execution."""
    layers: dict[ir.Value, list[ir.Node]] = defaultdict(list)
    for node in graph:
        if node.op_type == "MatMul" and not node.domain:
            layer = find_linear(node.outputs[0])
            if layer is not None:
                layers[layer.source].append(node)
    return [nodes for nodes in layers.values() if len(nodes) > 1]


def _refusal(layer: Linear, version: int) -> str | None:
    if version < _NEGATIVE_AXES_SINCE:
        return "opset-too-old"
    if len(layer.weight.uses()) > 1 or layer.weight.is_graph_output():
        return "shared-weight"
    if layer.product.is_graph_output() or is_annotated(layer.product):
        return "returned"
    return None


def _node(layer: Linear) -> ir.Node:
    node = layer.product.producer()
    assert node is not None
    return node


def _join(layers: Sequence[Linear], operators: Operators, edit: Editor, version: int) -> None:
    nodes = [_node(layer) for layer in layers]
    because = f"{len(layers)} layers of `{layers[0].source.name}`"
    with edit.rewrite(nodes[0], because=because) as change:
        product = change.node("MatMul", [layers[0].source, packed_weight(layers, change)])
        widths = [layer.width for layer in layers]
        inputs: list[ir.Value | None] = [product]
        attributes: dict[str, object] = {"axis": -1}
        if version < _SIZES_INPUT_SINCE:
            attributes["split"] = widths
        else:
            inputs.append(change.initializer(np.array(widths, np.int64), name="widths"))
        parts = change.multi_output_node("Split", inputs, len(layers), attributes=attributes)
        for layer, part in zip(layers, parts, strict=True):
            change.replace(layer.product, part)
        for node in orphans(nodes, [layers[0].source], operators):
            change.remove(node)
        for layer in layers:
            if layer.weight.is_initializer():
                change.remove_initializer(layer.weight)
