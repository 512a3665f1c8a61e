"""Attention as one operator, and rotary embeddings."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from graphopt.training.operators.element_types import torch_type
from graphopt.training.operators.registry import CONTRIB, Call, Tensor, UnsupportedForm, operator

__all__: list[str] = []

_RANK_WITH_HEADS = 4
_ATTENTION_ATTRIBUTES = {"is_causal", "kv_num_heads", "q_num_heads", "qk_matmul_output_mode"}
_ATTENTION_ATTRIBUTES |= {"scale", "softcap", "softmax_precision"}
_ATTENTION_ATTRIBUTES |= {"left_window_size", "right_window_size"}


def _with_heads(x: Tensor, heads: int) -> Tensor:
    """Return (batch, heads, sequence, size) of (batch, sequence, heads x size)."""
    if x.dim() == _RANK_WITH_HEADS:
        return x
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)


def _without_heads(x: Tensor) -> Tensor:
    return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], -1)


class _Mask(NamedTuple):
    """Which keys a query sees, and what is added to its scores.

    Attributes:
        added: Added to scores; of booleans, false ones are masked.
        reach: How many keys before and behind its own place a query sees; -1: all.
        offset: Place of the first query among the keys, one number or one for each batch.
        lengths: Keys of each batch that are no padding.
    """

    added: Tensor | None
    reach: tuple[int, int]
    offset: int | Tensor
    lengths: Tensor | None = None


def _masked(scores: Tensor, mask: _Mask) -> Tensor:
    queries, keys = scores.shape[-2:]
    if mask.added is not None:
        scores = scores + _added(mask.added, keys, scores)
    before, behind = mask.reach
    distance = torch.arange(queries)[:, None] + mask.offset - torch.arange(keys)
    if before >= 0:
        scores = scores.masked_fill(distance > before, -torch.inf)
    if behind >= 0:
        scores = scores.masked_fill(-distance > behind, -torch.inf)
    if mask.lengths is not None:
        is_pad = torch.arange(keys) >= mask.lengths.reshape(-1, 1, 1, 1)
        scores = scores.masked_fill(is_pad, -torch.inf)
    return scores


def _added(added: Tensor, keys: int, scores: Tensor) -> Tensor:
    if added.dtype is torch.bool:
        nothing = torch.zeros((), dtype=scores.dtype)
        added = torch.where(added, nothing, -torch.inf)
    if added.shape[-1] < keys:  # Attention 23: padded with minus infinity
        missing = (*added.shape[:-1], keys - added.shape[-1])
        added = torch.cat([added, added.new_full(missing, -torch.inf)], dim=-1)
    return added


def _weights(scores: Tensor) -> Tensor:
    """Return softmax over keys; a query that sees none weighs none."""
    is_blind = torch.isneginf(scores).all(dim=-1, keepdim=True)
    return torch.where(is_blind, 0.0, torch.softmax(scores, dim=-1))


@operator("Attention", since=23)
def _attention(
    call: Call,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    added: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    lengths: Tensor | None = None,
) -> tuple[Tensor, ...]:
    unknown = set(call.attributes) - _ATTENTION_ATTRIBUTES
    if unknown:
        raise UnsupportedForm(f"attribute {min(unknown)}")
    is_flat = query.dim() != _RANK_WITH_HEADS
    heads, kept = call.get("q_num_heads", 0), call.get("kv_num_heads", 0)
    query, key, value = (
        _with_heads(x, count) for x, count in ((query, heads), (key, kept), (value, kept))
    )
    if past_key is not None:
        key = torch.cat([past_key, key], dim=2)
        value = torch.cat([past_value, value], dim=2)
    past = 0 if past_key is None else past_key.shape[2]
    # Attention 24: behind a cache of fixed size, queries are the last of what is no padding.
    offset = past if lengths is None else lengths.reshape(-1, 1, 1, 1) - query.shape[2]
    reach = call.get("left_window_size", -1), call.get("right_window_size", -1)
    if call.get("is_causal", 0):
        reach = reach[0], 0
    repeats = query.shape[1] // key.shape[1]
    wide_key, wide_value = (x.repeat_interleave(repeats, dim=1) for x in (key, value))
    root = math.sqrt(call.get("scale", 1.0 / math.sqrt(query.shape[-1])))
    raw = torch.matmul(query * root, (wide_key * root).transpose(-1, -2))
    cap, kind = call.get("softcap", 0.0), call.get("softmax_precision")
    capped = cap * torch.tanh(raw / cap) if cap else raw
    biased = _masked(capped, _Mask(added, reach, offset, lengths))
    weights = _weights(biased if kind is None else biased.to(torch_type(kind))).to(query.dtype)
    found = torch.matmul(weights, wide_value)
    matrix = (raw, capped, biased, weights)[call.get("qk_matmul_output_mode", 0)]
    return _without_heads(found) if is_flat else found, key, value, matrix


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, *, is_interleaved: bool) -> Tensor:
    """Rotate pairs of the last axis, as many as there are angles; the rest stays."""
    size = 2 * cos.shape[-1]
    turned, rest = x[..., :size], x[..., size:]
    first, second = (
        (turned[..., 0::2], turned[..., 1::2]) if is_interleaved else turned.chunk(2, dim=-1)
    )
    one, two = cos * first - sin * second, sin * first + cos * second
    if is_interleaved:
        return torch.cat([torch.stack([one, two], dim=-1).flatten(-2), rest], dim=-1)
    return torch.cat([one, two, rest], dim=-1)


@operator("RotaryEmbedding", since=23)
def _rotary_embedding(
    call: Call, x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor | None = None
) -> Tensor:
    parts = _with_heads(x, call.get("num_heads", 0)).transpose(1, 2)
    if positions is not None:
        cos, sin = cos[positions.long()], sin[positions.long()]
    half = call.get("rotary_embedding_dim", 0) // 2 or cos.shape[-1]
    cos, sin = (angles[..., :half].unsqueeze(2) for angles in (cos, sin))
    found = _rotated(parts, cos, sin, is_interleaved=bool(call.get("interleaved", 0)))
    return found.reshape(x.shape) if x.dim() != _RANK_WITH_HEADS else found.transpose(1, 2)


# -- of com.microsoft ----------------------------------------------------------------------------


@operator("RotaryEmbedding", domain=CONTRIB)
def _contrib_rotary_embedding(
    call: Call, x: Tensor, positions: Tensor, cos: Tensor, sin: Tensor
) -> Tensor:
    if call.get("scale", 1.0) != 1.0 or call.get("is_packed_batching", 0):
        raise UnsupportedForm("scale or is_packed_batching")
    heads, is_flat = call.get("num_heads", 0), x.dim() != _RANK_WITH_HEADS
    if is_flat and not heads:
        heads = x.shape[-1] // (2 * cos.shape[-1])
    parts = _with_heads(x, heads).transpose(1, 2)
    length = parts.shape[1]
    places = (
        positions.reshape(-1, 1) + torch.arange(length) if positions.numel() == 1 else positions
    )
    cos, sin = cos[places].unsqueeze(2), sin[places].unsqueeze(2)
    found = _rotated(parts, cos, sin, is_interleaved=bool(call.get("interleaved", 0)))
    return found.reshape(x.shape) if is_flat else found.transpose(1, 2)


@operator("MultiHeadAttention", domain=CONTRIB)
def _multi_head_attention(
    call: Call,
    query: Tensor,
    key: Tensor | None = None,
    value: Tensor | None = None,
    bias: Tensor | None = None,
    padding: Tensor | None = None,
    added: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
) -> tuple[Tensor, ...]:
    if key is None or value is None or padding is not None or query.dim() != 3:  # noqa: PLR2004
        raise UnsupportedForm("packed inputs or key_padding_mask")
    heads = call.get("num_heads")
    if bias is not None:
        parts = torch.split(bias, [query.shape[-1]] * 2 + [bias.shape[0] - 2 * query.shape[-1]])
        query = query + parts[0]
        key = key + parts[1] if key.dim() != _RANK_WITH_HEADS else key
        value = value + parts[2] if value.dim() != _RANK_WITH_HEADS else value
    query, key, value = (_with_heads(x, heads) for x in (query, key, value))
    past = 0 if past_key is None else past_key.shape[2]
    if past_key is not None:
        key = torch.cat([past_key, key], dim=2)
        value = torch.cat([past_value, value], dim=2)
    scale = call.get("scale", 0.0) or 1.0 / math.sqrt(query.shape[-1])
    scores = torch.matmul(query, key.transpose(-1, -2)) * scale
    reach = -1, 0 if call.get("unidirectional", 0) else -1
    found = torch.matmul(_weights(_masked(scores, _Mask(added, reach, past))), value)
    return _without_heads(found), key, value
