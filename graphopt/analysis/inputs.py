"""What values the inputs of a model may take: indices of tables, and masks.

Both questions are answered by following each input forward, through operators that keep values or
shift them, into subgraphs and functions, to the operators that give the values a meaning.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from graphopt.ir import constant_array, constant_tensor, graphs, subgraphs_of

__all__ = ["compared_values", "index_ranges", "mask_inputs"]

_NUMBERS = "biuf"

# Operators that hand on the values of one input, moved, repeated or selected.
_MOVES_FIRST = frozenset(
    {"Identity", "Cast", "CastLike", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Expand", "Tile"}
    | {"Transpose", "Slice", "Split", "Gather", "GatherElements", "GatherND", "Pad", "Trilu"}
    | {"Compress", "Dropout", "Clip"}
)
_MOVES_ANY = frozenset({"Concat", "Min", "Max"})
_MOVES_OTHERS = {"Where": (1, 2), "ScatterND": (0, 2), "ScatterElements": (0, 2)}
_KEEPS_LAYOUT = frozenset({"Identity", "Cast", "DequantizeLinear", "Dropout"})

_MICROSOFT = "com.microsoft"
# Operator -> input that holds indices -> (input that is the table, axis).
_TABLES: dict[tuple[str, str], dict[int, tuple[int, int]]] = {
    (_MICROSOFT, "EmbedLayerNormalization"): {0: (2, 0), 1: (4, 0), 8: (3, 0)},
    (_MICROSOFT, "RotaryEmbedding"): {1: (2, 0)},
    ("", "RotaryEmbedding"): {3: (1, 0)},
}
# Operators that index one axis of their first input: input that holds indices, attribute of axis.
_AXIS_INDEXED = {
    ("", "Gather"): (1, "axis"),
    ("", "GatherElements"): (1, "axis"),
    ("", "ScatterElements"): (1, "axis"),
    ("", "Scatter"): (1, "axis"),
    (_MICROSOFT, "GatherBlockQuantized"): (1, "gather_axis"),
}
_ND_INDEXED = {"GatherND": 1, "ScatterND": 1}

_MASK_INPUTS = {
    ("", "Where"): 0,
    ("", "Attention"): 3,
    (_MICROSOFT, "Attention"): 3,
    (_MICROSOFT, "MultiHeadAttention"): 4,
    (_MICROSOFT, "EmbedLayerNormalization"): 7,
}
_LOGICAL = frozenset({"And", "Or", "Xor", "Not"})
_COMPARISONS = frozenset({"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"})
# The penalty that `(1 - mask) * penalty` adds to attention scores: -1e4, -65504, -3.4e38.
_LEAST_PENALTY = 1e3


class _Reach(NamedTuple):
    """A value that holds `scale * input + offset`, elements in another order."""

    value: ir.Value
    scale: float
    offset: float


def index_ranges(model: ir.Model) -> dict[str, int]:
    """Return the inputs that index a table, with an upper bound for their values.

    Returns:
        Name of a graph input to the least N over its uses such that values in ``[0, N)`` stay
        inside every table; inputs that index nothing of a known size are left out.
    """
    links = _scope_links(model)
    bounds: dict[str, int] = {}
    for value in _fed_inputs(model):
        sizes = [
            int((size - 1 - reach.offset) // reach.scale) + 1
            for reach in _reached(value, links)
            for size in _table_sizes(reach.value)
        ]
        if sizes:
            bounds[value.name or ""] = max(1, min(sizes))
    return bounds


def mask_inputs(model: ir.Model) -> frozenset[str]:
    """Return the names of graph inputs that act as masks, 1 (or true) for what counts.

    An input is one when its name says so, or when it decides between values: as a condition, in a
    logical operator, compared with 0 or 1, or as ``(1 - mask) * large``. Indices are not masks.
    """
    links = _scope_links(model)
    indices = index_ranges(model)
    return frozenset(
        value.name or ""
        for value in _fed_inputs(model)
        if value.name not in indices
        # A condition without dimensions chooses a mode for the whole run.
        and not _is_scalar(value)
        and ("mask" in (value.name or "").lower() or _decides(value, links))
    )


def compared_values(model: ir.Model) -> dict[str, tuple[int, ...]]:
    """Return, for whole-number inputs that a model tests with Equal, the constants it tests for.

    A sampling rate or a mode is such an input: other values choose no branch that means anything.
    """
    links = _scope_links(model)
    found = {
        value.name or "": {
            int(element)
            for reach in _reached(value, links)
            if reach.scale == 1 and reach.offset == 0
            for node, index in reach.value.uses()
            if node.op_type == "Equal" and not node.domain
            for element in _few_elements(node.inputs[1 - index])
            if element.is_integer()
        }
        for value in _fed_inputs(model)
        if value.dtype is not None and value.dtype.is_integer()
    }
    return {name: tuple(sorted(values)) for name, values in found.items() if values}


def _few_elements(value: ir.Value | None) -> list[float]:
    array = constant_array(value, max_elements=16)
    if array is None or array.dtype.kind not in _NUMBERS:  # numbers as text are compared, too
        return []
    return [float(element) for element in array.reshape(-1)]


def _fed_inputs(model: ir.Model) -> list[ir.Value]:
    return [value for value in model.graph.inputs if not value.is_initializer()]


def _is_scalar(value: ir.Value) -> bool:
    return value.shape is not None and len(value.shape) == 0


def _reached(start: ir.Value, links: dict[ir.Value, list[ir.Value]]) -> Iterator[_Reach]:
    """Yield every value that carries `start`, each once."""
    queue = [_Reach(start, 1.0, 0.0)]
    seen = {start}
    while queue:
        reach = queue.pop()
        yield reach
        following = [reach._replace(value=value) for value in links.get(reach.value, ())]
        for node, index in reach.value.uses():
            following.extend(_through(node, index, reach))
        for step in following:
            if step.value not in seen:
                seen.add(step.value)
                queue.append(step)


def _through(node: ir.Node, index: int, reach: _Reach) -> Iterator[_Reach]:
    if node.domain:
        return
    operator = node.op_type
    moves = (
        (operator in _MOVES_FIRST and index == 0)
        or operator in _MOVES_ANY
        or index in _MOVES_OTHERS.get(operator, ())
    )
    if moves and not _is_cast_to_bool(node):
        yield from (reach._replace(value=output) for output in node.outputs)
    elif operator in ("Add", "Mul") or (operator == "Sub" and index == 0):
        yield _shifted(node, index, reach)


def _shifted(node: ir.Node, index: int, reach: _Reach) -> _Reach:
    """Follow arithmetic with a constant; where the other side is computed, as if it were nothing.

    A bound that is too low still gives valid indices, so the least favourable element counts.
    """
    moved = reach._replace(value=node.outputs[0])
    other = constant_array(node.inputs[1 - index], max_elements=4096)
    if other is None or other.size == 0 or other.dtype.kind not in "iuf":
        return moved
    if node.op_type == "Mul":
        factor = float(other.max())
        if factor <= 0:
            return moved
        return moved._replace(scale=reach.scale * factor, offset=reach.offset * factor)
    shift = float(other.max()) if node.op_type == "Add" else -float(other.min())
    return moved._replace(offset=reach.offset + shift)


def _table_sizes(indices: ir.Value) -> Iterator[int]:
    """Yield the sizes of the axes that `indices` points into."""
    for node, index in indices.uses():
        key = (node.domain, node.op_type)
        if key in _AXIS_INDEXED and index == _AXIS_INDEXED[key][0]:
            axis = node.attributes.get_int(_AXIS_INDEXED[key][1], 0)
            yield from _axis_size(node.inputs[0], axis)
        elif not node.domain and _ND_INDEXED.get(node.op_type) == index:
            yield from _least_dimension(node, indices)
        elif not node.domain and node.op_type == "OneHot" and index == 0:
            depth = constant_array(node.inputs[1], max_elements=1)
            yield from [] if depth is None else [int(depth.reshape(-1)[0])]
        elif index in _TABLES.get(key, {}):
            table, axis = _TABLES[key][index]
            yield from _axis_size(node.inputs[table], axis)


def _least_dimension(node: ir.Node, indices: ir.Value) -> Iterator[int]:
    """Yield the least of the dimensions that the last axis of `indices` counts through."""
    first = node.attributes.get_int("batch_dims", 0)
    width = indices.shape[-1] if indices.shape is not None and len(indices.shape) else None
    count = width if isinstance(width, int) else 1
    sizes = [
        size for axis in range(first, first + count) for size in _axis_size(node.inputs[0], axis)
    ]
    yield from [min(sizes)] if sizes else []


def _axis_size(table: ir.Value | None, axis: int) -> Iterator[int]:
    """Yield the size of an axis of `table`, once, where it is known before run time."""
    while table is not None:
        tensor = constant_tensor(table)
        shape = table.shape if tensor is None else tensor.shape
        if shape is not None and -len(shape) <= axis < len(shape):
            size = shape[axis]
            if isinstance(size, int) and size > 0:
                yield size
                return
        producer = table.producer()
        if producer is None or producer.op_type not in _KEEPS_LAYOUT:
            return
        table = producer.inputs[0]


def _decides(value: ir.Value, links: dict[ir.Value, list[ir.Value]]) -> bool:
    return any(
        _gives_meaning(node, index, value.dtype)
        for reach in _reached(value, links)
        for node, index in reach.value.uses()
    )


def _gives_meaning(node: ir.Node, index: int, dtype: ir.DataType | None) -> bool:
    if _MASK_INPUTS.get((node.domain, node.op_type)) == index:
        return True
    if node.domain:
        return False
    if dtype == ir.DataType.BOOL:
        return node.op_type in _LOGICAL
    # Measurements are compared with 0 and 1 too: only whole numbers can be bits.
    is_bit = dtype is not None and dtype.is_integer() and _compares_with_bit(node, index)
    return is_bit or _is_cast_to_bool(node) or _penalises(node, index)


def _is_cast_to_bool(node: ir.Node) -> bool:
    return node.op_type == "Cast" and node.attributes.get_int("to", 0) == ir.DataType.BOOL


def _compares_with_bit(node: ir.Node, index: int) -> bool:
    if node.op_type not in _COMPARISONS:
        return False
    other = constant_array(node.inputs[1 - index], max_elements=1)
    if other is None or other.size != 1 or other.dtype.kind not in _NUMBERS:
        return False
    return float(other.reshape(-1)[0]) in (0.0, 1.0)


def _penalises(node: ir.Node, index: int) -> bool:
    """Tell whether `node` subtracts in ``(1 - mask) * large`` or ``(mask - 1) * large``."""
    if node.op_type != "Sub" or not _is_constant(node.inputs[1 - index], 1.0):
        return False
    for user, place in node.outputs[0].uses():
        if user.op_type == "Mul":
            penalty = constant_array(user.inputs[1 - place], max_elements=1)
            if penalty is not None and float(np.abs(penalty).max()) >= _LEAST_PENALTY:
                return True
    return False


def _is_constant(value: ir.Value | None, number: float) -> bool:
    array = constant_array(value, max_elements=1)
    return array is not None and array.size == 1 and float(array.reshape(-1)[0]) == number


def _scope_links(model: ir.Model) -> dict[ir.Value, list[ir.Value]]:
    """Return where values cross the border of a subgraph or function, in both directions."""
    links: defaultdict[ir.Value, list[ir.Value]] = defaultdict(list)

    def link(sources: list[ir.Value | None], targets: list[ir.Value]) -> None:
        for source, target in zip(sources, targets, strict=False):
            if source is not None:
                links[source].append(target)

    for graph in graphs(model):
        for node in graph:
            function = model.functions.get(node.op_identifier())
            if function is not None:
                link(list(node.inputs), list(function.inputs))
                link(list(function.outputs), list(node.outputs))
            elif not node.domain:
                for body in subgraphs_of(node):
                    _link_body(node, body, link)
    return dict(links)


def _link_body(node: ir.Node, body: ir.Graph, link: Callable[..., None]) -> None:
    inputs, outputs = list(body.inputs), list(body.outputs)
    if node.op_type == "Loop":  # trip count and condition; then what is carried
        link(list(node.inputs)[2:], inputs[2:])
        link(outputs[1:], inputs[2:])
        link(outputs[1:], list(node.outputs))
    elif node.op_type == "Scan":  # the first ones are carried, which costs no more than a bound
        link(list(node.inputs), inputs)
        link(outputs, list(node.outputs))
    else:
        link(outputs, list(node.outputs))
