"""What masks the scores of an attention, as the fused operators take it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from graphopt.analysis.attention_blocks import Attention, Mismatch
from graphopt.analysis.equal_sizes import EqualSizes
from graphopt.analysis.head_splits import Dims
from graphopt.analysis.key_masks import KeyMask, find_key_mask
from graphopt.analysis.mask_layouts import Layout, is_within, layout_of
from graphopt.analysis.score_chains import Choice, Mask
from graphopt.analysis.symbolic_table import SymbolicTable
from graphopt.ir import constant_array

__all__ = ["Addend", "Masks", "plan_masks"]

_ABSORBING = -1e30
"""Scores vanish in the rounding error of what is as far below zero as this."""

_MAX_CONSTANT = 1 << 20


class Addend(NamedTuple):
    """One mask that is added to the scores.

    Attributes:
        value: What is added, or a condition.
        layout: How it lies over the scores.
        choice: `value` is a condition, and this number is added where it holds, or where not.
    """

    value: ir.Value
    layout: Layout
    choice: Choice | None = None


class Masks(NamedTuple):
    """What masks the scores: one mask of keys, and what is added.

    Attributes:
        key: Says of each key whether it counts.
        added: What is added to the scores.
    """

    key: KeyMask | None
    added: tuple[Addend, ...]

    @property
    def dims(self) -> Dims:
        """The dimensions of everything added, (B or 1, H or 1, S or 1, T or 1)."""
        columns = zip(*(one.layout.dims for one in self.added), strict=True)
        return tuple(next((dim for dim in column if dim != 1), 1) for column in columns)


def plan_masks(
    found: Attention,
    shapes: SymbolicTable,
    sizes: EqualSizes,
    bits: frozenset[str],
    *,
    of_keys: bool = True,
) -> Masks | Mismatch:
    """Return the masks of an attention, or why the operators cannot take them.

    Args:
        found: An attention.
        shapes: Shapes of the values.
        sizes: Sizes that are equal.
        bits: Names of the inputs that hold zeros and ones.
        of_keys: The operator takes a mask of keys; else everything is added to the scores.
    """
    for choice in found.choices:
        if refusal := _refused_choice(choice, found):
            return refusal
    key: KeyMask | None = None
    added: list[Addend] = []
    every: tuple[Mask | Choice, ...] = (*found.choices, *found.masks)
    for one in every:
        key_mask = _key_mask(one, found, shapes, bits) if of_keys and key is None else None
        if key_mask is not None:
            key = key_mask
            continue
        addend = _addend(one, found, shapes, sizes)
        if isinstance(addend, Mismatch):
            return addend
        added.append(addend)
    masks = Masks(key, tuple(added))
    # What is the same for all keys masks none, and the operators do not broadcast over keys.
    if added and masks.dims[3] == 1 != found.scores[3]:
        return Mismatch("mask-shape", "no mask tells one key from another")
    return masks


def _refused_choice(choice: Choice, found: Attention) -> Mismatch | None:
    """Adding the number is the same where it absorbs the scores, and masks that came before."""
    if choice.number > _ABSORBING:
        why = f"scores are replaced by {choice.number:g}, to which they would be added"
        return Mismatch("mask-form", why)
    # Infinity absorbs whatever was added before.
    if not choice.is_after_mask or np.isinf(choice.number):
        return None
    for mask in found.masks:
        array = constant_array(mask.value, _MAX_CONSTANT)
        if array is None or not np.abs(array).max(initial=0) < -_ABSORBING:
            why = f"`{mask.value.name}` is added to scores of which some are replaced afterwards"
            return Mismatch("mask-form", why)
    return None


def _key_mask(
    one: Mask | Choice, found: Attention, shapes: SymbolicTable, bits: frozenset[str]
) -> KeyMask | None:
    of_keys = (
        find_key_mask(one.value, bits)
        if isinstance(one, Mask)
        else find_key_mask(one.condition, bits, (one.number, one.is_number_first))
    )
    known = shapes.of(of_keys.mask) if of_keys is not None else None
    if known is None or found.key.past is not None or found.key.is_split:
        return None
    return of_keys if known.dims == found.key.dims else None


def _addend(
    one: Mask | Choice, found: Attention, shapes: SymbolicTable, sizes: EqualSizes
) -> Addend | Mismatch:
    value = one.value if isinstance(one, Mask) else one.condition
    known = shapes.of(value)
    dims = known.dims if known is not None else None
    view = one.view or found.product
    layout = layout_of(dims, view, found.scores, sizes) if dims is not None else None
    if layout is None or not _fits(layout, found, sizes):
        why = f"`{value.name}` is {dims}, scores are {found.scores}"
        return Mismatch("mask-shape", why)
    return Addend(value, layout, one if isinstance(one, Choice) else None)


def _fits(layout: Layout, found: Attention, sizes: EqualSizes) -> bool:
    if layout.form == "join" and not all(isinstance(dim, int) for dim in layout.dims[1:]):
        return False
    if found.is_asked:  # nothing but 1 and the right size is possible for the first two
        return is_within((1, 1, *layout.dims[2:]), found.scores, sizes)
    return is_within(layout.dims, found.scores, sizes)
