"""Attention in which several queries share their keys and values, which a Gather repeats for them.

MultiHeadAttention(q, Gather(k, [0, 0, 1, 1]), Gather(v, [0, 0, 1, 1])), num_heads = 4
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from graphopt.analysis.attention_blocks import Mismatch
from graphopt.analysis.head_splits import Heads, split_heads
from graphopt.analysis.operands import gathered_indices, int_attribute, operand, squeeze_axes
from graphopt.analysis.symbolic_table import SymbolicTable
from graphopt.rewrite import can_replace

__all__ = ["Grouped", "Joined", "find_grouped", "find_joined", "sums_of"]

_HEADS_AXIS = 1
_RANK = 4  # of (B, H, T, d), and of what is added to the scores
_ROWS_RANK = 3
_MASK_RANK = 2
_INPUTS = ("query", "key", "value", "bias", "mask", "added")
_BIAS, _MASK, _ADDED, _FIRST_PAST = 3, 4, 5, 6


@dataclass(frozen=True)
class Grouped:
    """One attention whose keys and values are repeated.

    Attributes:
        node: The MultiHeadAttention.
        query: Of shape (B, S, count * group * size).
        key: What is repeated, (B, count, T, size).
        value: What is repeated, (B, count, T, value_size).
        mask: Which keys count, (B, T).
        added: What is added to the scores, (B or 1, 1, S, T).
        count: Number of heads of keys and values.
        group: Number of queries that share one of them.
        size: Elements of a query.
        value_size: Elements of a value.
    """

    node: ir.Node
    query: ir.Value
    key: ir.Value
    value: ir.Value
    mask: ir.Value | None
    added: ir.Value | None
    count: int
    group: int
    size: int
    value_size: int

    @property
    def repeated(self) -> tuple[ir.Value, ir.Value]:
        """Keys and values as the operator reads them, repeated for each query."""
        key, value = self.node.inputs[1:3]
        assert key is not None
        assert value is not None
        return key, value


class Joined(NamedTuple):
    """Keys and values that continue those of earlier runs, past and new apart."""

    key: Heads
    value: Heads


def find_grouped(node: ir.Node, shapes: SymbolicTable) -> Grouped | Mismatch | None:
    """Return what a MultiHeadAttention repeats, why it has to, or ``None`` where it does not.

    Args:
        node: A MultiHeadAttention of ONNX Runtime.
        shapes: Shapes of the values.
    """
    query, key, value = (operand(node, index) for index in range(3))
    of_keys, of_values = (_repeated(one, shapes) for one in (key, value))
    if query is None or (of_keys is None and of_values is None):
        return None
    if of_keys is None or of_values is None or of_keys[1] != of_values[1] or not of_keys[1]:
        return Mismatch("repeats-differ", "not the same for keys and values, or not each in a row")
    (keys, group), (values, _) = of_keys, of_values
    counts = [_dims(one, shapes) for one in (keys, values)]
    count, size, value_size = counts[0][1], counts[0][3], counts[1][3]
    if not isinstance(size, int) or not isinstance(value_size, int) or not isinstance(count, int):
        return Mismatch("unknown-shapes", "the size of a head is not known")
    if int_attribute(node, "num_heads", 0) != count * group or counts[1][1] != count:
        return Mismatch("repeats-differ", f"{count} heads, each {group} times")
    added, mask = operand(node, _ADDED), operand(node, _MASK)
    refused = _other_operands(node) or _mask_refusal(mask, added, shapes)
    if refused is not None:
        return refused
    return Grouped(node, query, keys, values, mask, added, count, group, size, value_size)


def _repeated(value: ir.Value | None, shapes: SymbolicTable) -> tuple[ir.Value, int] | None:
    """Return (B, c, T, d) and how often each of its heads comes in a row; 0: in another order."""
    node = value.producer() if value is not None else None
    if node is None or node.op_type != "Gather" or node.domain:
        return None
    source = operand(node, 0)
    dims = _dims(source, shapes)
    if source is None or int_attribute(node, "axis", 0) != _HEADS_AXIS or len(dims) != _RANK:
        return None
    count = dims[1]
    if not isinstance(count, int) or not count:
        return None
    places = gathered_indices(node, count)
    if places is None or places.size % count or places.size == count:
        return None
    group = int(places.size // count)
    is_in_a_row = np.array_equal(places, np.repeat(np.arange(count), group))
    return source, group if is_in_a_row else 0


def _dims(value: ir.Value | None, shapes: SymbolicTable) -> tuple[int | str | None, ...]:
    known = shapes.of(value)
    return known.dims if known is not None and known.dims is not None else ()


def _other_operands(node: ir.Node) -> Mismatch | None:
    """Tell what of the operator depends on how queries and keys are arranged."""
    if int_attribute(node, "unidirectional", 0) != 0:
        return Mismatch("other-operands", "it masks later keys by the place of their query")
    given = [index for index, value in enumerate(node.inputs) if value is not None]
    if _BIAS in given or max(given) >= _FIRST_PAST:
        return Mismatch("other-operands", "biases, or a past of repeated heads")
    if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
        return Mismatch("other-operands", "more than the context is read")
    return None


def _mask_refusal(
    mask: ir.Value | None, added: ir.Value | None, shapes: SymbolicTable
) -> Mismatch | None:
    if mask is not None and len(_dims(mask, shapes)) != _MASK_RANK:
        return Mismatch("mask-form", f"`{mask.name}` is not provably (B, T)")
    if added is None:
        return None
    dims = _dims(added, shapes)
    if len(dims) != _RANK or dims[1] != 1:
        return Mismatch("mask-form", f"`{added.name}` is not provably one for all heads")
    return None


def find_joined(
    found: Grouped, shapes: SymbolicTable, places: Mapping[ir.Node, int]
) -> Joined | None:
    """Return past and new keys and values, where the operator itself can join them.

    It can where nobody asks for the joined ones before it is done.

    Args:
        found: An attention.
        shapes: Shapes of the values.
        places: Where each node of the graph stands in the order of execution.
    """
    heads = [_continued(one, found, shapes) for one in (found.key, found.value)]
    # The operator keeps two caches, of one shape.
    is_one = found.key is found.value or found.size != found.value_size
    if heads[0] is None or heads[1] is None or is_one:
        return None
    own = {one.producer() for one in found.repeated}
    for joined, repeated in zip((found.key, found.value), found.repeated, strict=True):
        sums = sums_of(repeated, found)
        later = [user for user, _ in joined.uses() if user not in own]
        if sums is None or any(places.get(user, -1) < places[found.node] for user in later + sums):
            return None
        if not can_replace(joined, repeated):
            return None
    return Joined(heads[0], heads[1])


def _continued(value: ir.Value, found: Grouped, shapes: SymbolicTable) -> Heads | None:
    node = value.producer()
    if node is None or node.graph is not found.node.graph:
        return None
    heads = split_heads(value, shapes)
    if isinstance(heads, str) or heads.past is None or heads.joined is not value:
        return None
    is_rows = heads.flat is None and heads.part is None and not heads.is_split
    if not is_rows or heads.is_time_first or heads.scale != 1.0:
        return None
    return heads if len(_dims(heads.source, shapes)) == _ROWS_RANK else None


def sums_of(repeated: ir.Value, found: Grouped) -> list[ir.Node] | None:
    """Return the sums that read repeated values, if nobody else does but the attention.

    They are sums over other axes than that of the heads, which may as well be repeated afterwards.
    """
    if repeated.is_graph_output():
        return None
    readers = [user for user, _ in repeated.uses() if user is not found.node]
    return readers if all(map(_sums_no_heads, readers)) else None


def _sums_no_heads(node: ir.Node) -> bool:
    axes = squeeze_axes(node) if node.op_type == "ReduceSum" and not node.domain else None
    return axes is not None and all(axis > _HEADS_AXIS for axis in axes)
