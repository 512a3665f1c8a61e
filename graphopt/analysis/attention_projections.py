"""Queries, keys and values of an attention as a fused operator takes them, biases apart."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis.attention_blocks import Attention
from graphopt.analysis.attention_operands import AttentionOperands
from graphopt.analysis.head_splits import Heads
from graphopt.analysis.linear_layers import Linear, common_source, find_linear
from graphopt.ir import constant_tensor, opset_version
from graphopt.rewrite import Change

__all__ = ["as_rows", "packable_layers", "packed_bias", "packed_weight", "separate_operands"]

_ROWS_RANK = 3
_SPLIT_COUNT_SINCE = 18


def packable_layers(found: Attention, removed: Collection[ir.Node]) -> tuple[Linear, ...] | None:
    """Return the one layer, or the three, that compute queries, keys and values of one input.

    Args:
        found: An attention.
        removed: The nodes that give way, apart from what computes the masks.
    """
    heads = _heads(found)
    if any(one.past is not None or not _are_rows(one) for one in heads):
        return None
    whole = _whole(heads)
    sources = [one.source for one in heads] if whole is None else [whole]
    layers = [layer for layer in map(find_linear, sources) if layer is not None]
    if len(layers) < len(sources) or len({layer.source for layer in layers}) > 1:
        return None
    if not all(layer.product.producer() in removed for layer in layers):
        return None
    if whole is not None:
        return tuple(layers)
    # A weight with another reader would stay beside the packed copy of it.
    is_own = all(len(layer.weight.uses()) == 1 for layer in layers)
    is_plain = not any(layer.weight.is_graph_output() for layer in layers)
    return tuple(layers) if is_own and is_plain else None


def separate_operands(
    model: ir.Model,
    found: Attention,
    operands: AttentionOperands,
    change: Change,
    removed: Collection[ir.Node],
) -> list[ir.Value | None]:
    """Return queries, keys and values without their biases, and the biases packed."""
    heads = _heads(found)
    if found.key.is_split or found.value.is_split:
        query, key, value = (as_rows(one, model, operands) for one in heads)
        return [operands.rows(query), operands.split(key), operands.split(value), None]
    whole = _whole(heads)
    layer = find_linear(whole) if whole is not None else None
    if layer is not None and layer.bias is not None and _last_node(found) in removed:
        return [*_split_again(model, heads, layer.product, operands), layer.bias]
    if any(one.part is not None for one in heads):
        return [*(operands.rows(as_rows(one, model, operands)) for one in heads), None]
    layers = [None if one.is_split or one.flat else find_linear(one.source) for one in heads]
    if all(layer is None or layer.bias is None for layer in layers):
        return [*(operands.rows(one) for one in heads), None]
    products = [
        operands.rows(one, None if layer is None else layer.product)
        for one, layer in zip(heads, layers, strict=True)
    ]
    bias = _joined_biases(heads, layers)
    return [*products, change.initializer(bias, name="packed_bias")]


def packed_bias(layers: Sequence[Linear], change: Change) -> ir.Value | None:
    """Return the biases of all layers one after the other; ``None`` where there is none."""
    if len(layers) == 1 or all(layer.bias is None for layer in layers):
        return layers[0].bias
    bias = np.concatenate([_bias(layer) for layer in layers])
    return change.initializer(bias, name=f"{layers[0].weight.name}_packed_bias")


def packed_weight(layers: Sequence[Linear], change: Change) -> ir.Value:
    """Return (in_features, all out_features); it is joined when it is read, not before."""
    if len(layers) == 1:
        return layers[0].weight
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


def _heads(found: Attention) -> tuple[Heads, Heads, Heads]:
    return (found.query, found.key, found.value)


def _are_rows(heads: Heads) -> bool:
    """Tell whether the source is (B, S, H * d), as it is."""
    return not heads.is_split and not heads.is_time_first and heads.flat is None


def _whole(heads: tuple[Heads, Heads, Heads]) -> ir.Value | None:
    """Return what queries, keys and values are the three parts of, in this order."""
    if not all(map(_are_rows, heads)):
        return None
    source = heads[0].source
    parts = [one.part for one in heads]
    if parts == [0, 1, 2]:
        return source if all(one.source is source for one in heads) else None
    if parts != [None] * len(heads):
        return None
    return common_source([one.source for one in heads], _ROWS_RANK)


def _last_node(found: Attention) -> ir.Node | None:
    """Return the node that adds the bias of a layer that all heads are split from."""
    source = found.query.source
    split = source.producer() if found.query.part is None else None
    value = split.inputs[0] if split is not None else source
    return value.producer() if value is not None else None


def _split_again(
    model: ir.Model, heads: tuple[Heads, Heads, Heads], whole: ir.Value, operands: AttentionOperands
) -> tuple[ir.Value, ...]:
    """Split ``whole`` as what it takes the place of is split."""
    node = heads[0].source.producer()
    if heads[0].part is not None or node is None:
        return operands.node("Split", [whole], _thirds(model), outputs=3)
    return operands.node(
        "Split", [whole, *node.inputs[1:]], dict(node.attributes), outputs=len(node.outputs)
    )


def _thirds(model: ir.Model) -> dict[str, Any]:
    # Since opset 18 a Split has to be told one way or the other how many parts there are.
    count = {"num_outputs": 3} if opset_version(model) >= _SPLIT_COUNT_SINCE else {}
    return {"axis": _ROWS_RANK - 1, **count}


def as_rows(heads: Heads, model: ir.Model, operands: AttentionOperands) -> Heads:
    """Return the same heads with a source of their own, which may be a part of what it was."""
    if heads.part is None:
        return heads
    made = operands.parts(heads.source, _thirds(model))
    return replace(heads, source=made[heads.part], part=None)


def _bias(layer: Linear) -> npt.NDArray[Any]:
    tensor, weight = constant_tensor(layer.bias), constant_tensor(layer.weight)
    assert weight is not None
    return np.zeros(layer.width, weight.dtype.numpy()) if tensor is None else tensor.numpy()


def _joined_biases(heads: Sequence[Heads], layers: Sequence[Linear | None]) -> npt.NDArray[Any]:
    kind = next(_bias(layer).dtype for layer in layers if layer is not None)
    return np.concatenate(
        [
            np.zeros(one.count * one.size, kind) if layer is None else _bias(layer)
            for one, layer in zip(heads, layers, strict=True)
        ]
    )
