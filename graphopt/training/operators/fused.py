"""Operators of com.microsoft that stand for several of the standard."""

from __future__ import annotations

import torch
from torch.nn import functional

from graphopt.training.operators.registry import (
    CONTRIB,
    Call,
    Tensor,
    UnsupportedForm,
    find_operator,
    operator,
)

__all__: list[str] = []

_ACTIVATIONS = {
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
    "Gelu": functional.gelu,
}


@operator("Gelu", "BiasGelu", domain=CONTRIB)
def _gelu(_call: Call, x: Tensor, bias: Tensor | None = None) -> Tensor:
    return functional.gelu(x if bias is None else x + bias)


@operator("FastGelu", domain=CONTRIB)
def _fast_gelu(_call: Call, x: Tensor, bias: Tensor | None = None) -> Tensor:
    return functional.gelu(x if bias is None else x + bias, approximate="tanh")


@operator("QuickGelu", domain=CONTRIB)
def _quick_gelu(call: Call, x: Tensor) -> Tensor:
    return x * torch.sigmoid(call.get("alpha", 1.702) * x)


@operator("FusedMatMul", domain=CONTRIB)
def _fused_mat_mul(call: Call, a: Tensor, b: Tensor) -> Tensor:
    if call.get("transBatchA", 0) or call.get("transBatchB", 0):
        raise UnsupportedForm("transBatchA or transBatchB")
    a = a.transpose(-1, -2) if call.get("transA", 0) else a
    b = b.transpose(-1, -2) if call.get("transB", 0) else b
    return torch.matmul(a, b) * call.get("alpha", 1.0)


@operator("FusedGemm", "FusedConv", domain=CONTRIB)
def _fused_layer(call: Call, *given: Tensor) -> Tensor:
    kind = call.node.op_type.removeprefix("Fused")
    layer = find_operator("", kind, 13)
    name = call.get("activation", "")
    if layer is None or name not in _ACTIVATIONS or len(given) > 3:  # noqa: PLR2004 - a sum
        raise UnsupportedForm(f"activation {name}")
    return _ACTIVATIONS[name](layer(call, *given))


@operator("EmbedLayerNormalization", domain=CONTRIB)
def _embed_layer_normalization(
    call: Call,
    words: Tensor,
    segments: Tensor | None,
    word_table: Tensor,
    position_table: Tensor,
    segment_table: Tensor | None,
    scale: Tensor,
    shift: Tensor,
    mask: Tensor | None = None,
    positions: Tensor | None = None,
) -> tuple[Tensor, ...]:
    places = torch.arange(words.shape[1]) if positions is None else positions.long()
    total = word_table[words.long()] + position_table[places]
    if segments is not None and segment_table is not None:
        total = total + segment_table[segments.long()]
    width = (total.shape[-1],)
    found = functional.layer_norm(total, width, scale, shift, call.get("epsilon", 1e-12))
    lengths = torch.zeros(words.shape[0]) if mask is None else mask.sum(dim=1)
    return found, lengths.to(torch.int32), total
