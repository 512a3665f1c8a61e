"""Masks that say of each key whether it counts, found upwards from what is added to the scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis.operands import cast_target, operand, squeeze_axes
from graphopt.ir import constant_array

__all__ = ["KeyMask", "find_key_mask"]

# `exp(-1000)` is 0 in every type of floats: what is masked gets no share.
_LEAST_PENALTY = 1e3
_MAX_STEPS = 16
_RANK = 4
_Pair = npt.NDArray[Any]  # what a value is where the mask is 0, and where it is 1


class KeyMask(NamedTuple):
    """What is added to scores, as a function of a mask of zeros and ones.

    Attributes:
        mask: 1 for keys that count, of shape (B, T).
        penalty: What is added where the mask is 0; nothing is added where it is 1.
    """

    mask: ir.Value
    penalty: float


class _Followed(NamedTuple):
    base: ir.Value | None  # `None`: a number
    pair: _Pair
    axes: tuple[int | None, ...]  # for each axis the axis of the mask; `None`: of size 1, expanded


def find_key_mask(
    addend: ir.Value, masks: frozenset[str], chosen: tuple[float, bool] | None = None
) -> KeyMask | None:
    """Return the mask that ``addend``, (B, 1, S or 1, T), is computed of by single elements.

    Args:
        addend: What is added to the scores, or a condition.
        masks: Names of the inputs that hold zeros and ones; boolean values do so anyway.
        chosen: Scores become this number where the condition is so, else nothing is added.
    """
    found = _follow(addend, masks, _MAX_STEPS)
    if found is None or found.base is None or found.axes != (0, None, None, 1):
        return None
    pair = found.pair
    if chosen is not None:
        number, holds = chosen
        pair = np.where(pair.astype(bool) == holds, number, 0.0)
    masked, kept = (float(number) for number in pair)
    # Written so that NaN, which 0 times infinity is, is no mask.
    if kept != 0 or not masked <= -_LEAST_PENALTY or not np.isfinite(masked):
        return None
    return KeyMask(found.base, masked)


def _follow(value: ir.Value | None, masks: frozenset[str], steps: int) -> _Followed | None:
    """Return what ``value`` is where the mask is 0 and where it is 1."""
    if value is None or not steps:
        return None
    number = constant_array(value, 1)
    if number is not None and number.size == 1:
        return _Followed(None, np.repeat(number.reshape(-1), 2), (None,) * number.ndim)
    if _holds_bits(value, masks):
        dtype = ir.DataType.BOOL if value.dtype is None else value.dtype
        return _Followed(value, np.array([0, 1]).astype(dtype.numpy()), (0, 1))
    return _follow_node(value.producer(), masks, steps)


def _follow_node(node: ir.Node | None, masks: frozenset[str], steps: int) -> _Followed | None:
    if node is None or node.domain:
        return None
    if node.op_type in _LAYOUTS:
        inner = _follow(operand(node, 0), masks, steps - 1)
        return None if inner is None else _LAYOUTS[node.op_type](node, inner)
    if node.op_type not in _ELEMENTS:
        return None
    operands = [_follow(given, masks, steps - 1) for given in node.inputs]
    known = [given for given in operands if given is not None]
    return _combined(node, known) if len(known) == len(operands) else None


def _holds_bits(value: ir.Value, masks: frozenset[str]) -> bool:
    is_flat = value.shape is not None and len(value.shape) == 2  # noqa: PLR2004 - (B, T)
    return (
        is_flat
        and value.is_graph_input()
        and (value.name in masks or value.dtype == ir.DataType.BOOL)
    )


def _combined(node: ir.Node, operands: list[_Followed]) -> _Followed | None:
    bases = {given.base for given in operands if given.base is not None}
    axes = {given.axes for given in operands if given.base is not None}
    if len(bases) > 1 or len(axes) > 1:
        return None
    layout = axes.pop() if axes else ()
    if any(len(given.axes) > len(layout) for given in operands):
        return None
    with np.errstate(all="ignore"):
        pair = _ELEMENTS[node.op_type](node, [given.pair for given in operands])
    return None if pair is None else _Followed(bases.pop() if bases else None, pair, layout)


def _cast(node: ir.Node, pairs: list[_Pair]) -> _Pair | None:
    target = cast_target(node)
    return None if target is None else pairs[0].astype(target.numpy())


_ELEMENTS: Mapping[str, Callable[[ir.Node, list[_Pair]], _Pair | None]] = {
    "Add": lambda _, pairs: pairs[0] + pairs[1],
    "Cast": _cast,
    "Equal": lambda _, pairs: np.equal(pairs[0], pairs[1]),
    "Greater": lambda _, pairs: np.greater(pairs[0], pairs[1]),
    "Identity": lambda _, pairs: pairs[0],
    "Less": lambda _, pairs: np.less(pairs[0], pairs[1]),
    "Mul": lambda _, pairs: pairs[0] * pairs[1],
    "Not": lambda _, pairs: np.logical_not(pairs[0]),
    "Sub": lambda _, pairs: pairs[0] - pairs[1],
    "Where": lambda _, pairs: np.where(pairs[0], pairs[1], pairs[2]),
}


def _unsqueezed(node: ir.Node, inner: _Followed) -> _Followed | None:
    axes = squeeze_axes(node)
    if axes is None:
        return None
    rank = len(inner.axes) + len(axes)
    new = {axis % rank for axis in axes}
    rest = iter(inner.axes)
    return inner._replace(axes=tuple(None if axis in new else next(rest) for axis in range(rank)))


def _expanded(_node: ir.Node, inner: _Followed) -> _Followed | None:
    """Let elements repeat along axes of size 1; scores have no more than four axes."""
    return inner if len(inner.axes) == _RANK else None


_LAYOUTS: Mapping[str, Callable[[ir.Node, _Followed], _Followed | None]] = {
    "Expand": _expanded,
    "Unsqueeze": _unsqueezed,
}
