"""Scores of an attention: what happens between the product of queries and keys and the Softmax."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import onnx_ir as ir

from graphopt.analysis.head_splits import Dims, asked_dims, unscaled
from graphopt.analysis.symbolic_table import SymbolicTable
from graphopt.ir import constant_array

__all__ = ["Choice", "Mask", "Scores", "read_scores"]

_LEAST_PENALTY = 1e3
_MAX_STEPS = 10


class Mask(NamedTuple):
    """A value that is added to the scaled scores.

    Attributes:
        value: What is added.
        view: The dimensions of the scores where it is added, which may be reshaped for that; `None`
            where they are as the product computes them.
    """

    value: ir.Value
    view: Dims | None


class Choice(NamedTuple):
    """Scores replaced by a number, ``Where(condition, number, scores)`` or the other way round.

    Attributes:
        condition: Where they are replaced, or where not.
        number: What they are replaced by.
        is_number_first: They are replaced where the condition holds.
        view: As in `Mask`.
        is_after_mask: Something was added to the scores before.
    """

    condition: ir.Value
    number: float
    is_number_first: bool
    view: Dims | None
    is_after_mask: bool


class Scores(NamedTuple):
    """The product of queries and keys, and what becomes of it.

    Attributes:
        product: The MatMul.
        scale: What the product is multiplied with.
        masks: What is added to it then, innermost first.
        choices: Scores replaced by a number, innermost first.
        view: The dimensions of the result; `None` where they are as the product computes them.
        views: All dimensions that the scores have on the way.
    """

    product: ir.Node
    scale: float = 1.0
    masks: tuple[Mask, ...] = ()
    choices: tuple[Choice, ...] = ()
    view: Dims | None = None
    views: tuple[Dims, ...] = ()


def read_scores(value: ir.Value | None, shapes: SymbolicTable) -> Iterator[Scores]:
    """Yield the ways to read ``value`` as scaled and masked scores."""
    yield from _read(value, shapes, _MAX_STEPS)


def _read(value: ir.Value | None, shapes: SymbolicTable, steps: int) -> Iterator[Scores]:
    node = value.producer() if value is not None else None
    if value is None or node is None or node.domain or not steps:
        return
    if node.op_type == "MatMul":
        yield Scores(node)
        return
    inner, factor = unscaled(value)
    if inner is not value:
        for found in _read(inner, shapes, steps - 1):
            # A factor behind a mask would scale the mask as well.
            if factor == 1.0 or not (found.masks or found.choices):
                yield found._replace(scale=found.scale * factor)
    elif node.op_type in _READERS:
        yield from _READERS[node.op_type](node, shapes, steps - 1)


def _masked(node: ir.Node, shapes: SymbolicTable, steps: int) -> Iterator[Scores]:
    for value, mask in (tuple(node.inputs), tuple(reversed(node.inputs))):
        for found in _read(value, shapes, steps):
            if mask is not None:
                yield found._replace(masks=(*found.masks, Mask(mask, found.view)))


def _reshaped(node: ir.Node, shapes: SymbolicTable, steps: int) -> Iterator[Scores]:
    view = asked_dims(node, shapes)
    for found in _read(node.inputs[0], shapes, steps):
        if view is not None:
            yield found._replace(view=view, views=(*found.views, view))


def _chosen(node: ir.Node, shapes: SymbolicTable, steps: int) -> Iterator[Scores]:
    condition = node.inputs[0]
    for index in (1, 2):
        number = constant_array(node.inputs[3 - index], 1)
        if condition is None or number is None or number.size != 1:
            continue
        penalty = float(number.reshape(-1)[0])
        if not penalty <= -_LEAST_PENALTY:
            continue
        for found in _read(node.inputs[index], shapes, steps):
            choice = Choice(condition, penalty, index == 2, found.view, bool(found.masks))  # noqa: PLR2004
            yield found._replace(choices=(*found.choices, choice))


_READERS: Mapping[str, Callable[[ir.Node, SymbolicTable, int], Iterator[Scores]]] = {
    "Add": _masked,
    "Reshape": _reshaped,
    "Where": _chosen,
}
