"""Elements of small integer tensors: what each operator makes of expressions.

A rule returns the elements of the outputs, or ``None`` where it cannot tell.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis.operands import (
    cast_target,
    int_attribute,
    ints_attribute,
    operand,
    transpose_permutation,
)
from graphopt.analysis.symbolic_expressions import Integer, product
from graphopt.analysis.symbolic_numbers import (
    absolute,
    both,
    either,
    is_equal,
    is_less,
    largest,
    negation,
    quotient,
    remainder,
    select,
    smallest,
)
from graphopt.analysis.symbolic_operands import axes_of, slice_operands

if TYPE_CHECKING:
    from graphopt.analysis.symbolic_shapes import SymbolicShapes

__all__ = ["ELEMENTS"]

_Elements = npt.NDArray[np.object_]
_Found = Sequence[_Elements] | None
_Rule = Callable[[ir.Node, "SymbolicShapes"], _Found]

_MAX_ELEMENTS = 64
_MAX_COUNTED = 4096
_INT_MAX = 2**31 - 1


def _array(items: Any) -> _Elements:
    return np.asarray(items, dtype=object)


def _vector(items: Sequence[Integer]) -> _Elements:
    found = np.empty(len(items), object)
    found[:] = items
    return found


# -- from shapes --------------------------------------------------------------------------------


def _shape(node: ir.Node, known: SymbolicShapes) -> _Found:
    dims = known.dims(operand(node, 0))
    if dims is None:
        return None
    start, end = int_attribute(node, "start", 0), int_attribute(node, "end", len(dims))
    return None if start is None or end is None else [_vector(dims[start:end])]


def _size(node: ir.Node, known: SymbolicShapes) -> _Found:
    dims = known.dims(operand(node, 0))
    return None if dims is None else [_array(product(dims))]


def _constant_of_shape(node: ir.Node, known: SymbolicShapes) -> _Found:
    sizes = known.numbers(operand(node, 0))
    if sizes is None or min(sizes, default=0) < 0 or math.prod(sizes) > _MAX_ELEMENTS:
        return None
    attribute = node.attributes.get("value")
    # Without a value it makes floats, whose elements are not followed.
    if attribute is None or attribute.is_ref():
        return None
    value = attribute.as_tensor().numpy()
    if value.dtype.kind not in "iub" or value.size != 1:
        return None
    return [_array(np.full(sizes, int(value.item())))]


def _range(node: ir.Node, known: SymbolicShapes) -> _Found:
    bounds = [known.numbers(value) for value in node.inputs]
    if any(bound is None or len(bound) != 1 for bound in bounds):
        return None
    start, limit, delta = (bound[0] for bound in bounds if bound is not None)
    if delta == 0 or abs(limit - start) > _MAX_COUNTED:
        return None
    return [_vector(list(range(start, limit, delta)))]


# -- moving elements ----------------------------------------------------------------------------


def _same(node: ir.Node, known: SymbolicShapes) -> _Found:
    data = known.elements(operand(node, 0))
    return None if data is None else [data]


def _cast(node: ir.Node, known: SymbolicShapes) -> _Found:
    data = known.elements(operand(node, 0))
    if data is None:
        return None
    if cast_target(node) != ir.DataType.BOOL:
        return [data]
    return [_each(lambda item: negation(known.symbols, is_equal(known.symbols, item, 0)), data)]


def _gather(node: ir.Node, known: SymbolicShapes) -> _Found:
    data, indices = known.elements(operand(node, 0)), known.elements(operand(node, 1))
    axis, numbers = int_attribute(node, "axis", 0), known.numbers(operand(node, 1))
    if data is None or indices is None or numbers is None or axis is None:
        return None
    if not -data.ndim <= axis < data.ndim:
        return None
    count = data.shape[axis]
    if any(not -count <= number < count for number in numbers):
        return None
    if data.ndim == 1 and not indices.ndim:  # one size of a shape: nearly always
        return [_array(data[numbers[0]])]
    return [_array(np.take(data, indices.astype(np.int64), axis=axis))]


def _slice(node: ir.Node, known: SymbolicShapes) -> _Found:
    data, bounds = known.elements(operand(node, 0)), slice_operands(node, known)
    if data is None or bounds is None:
        return None
    index = [slice(None)] * data.ndim
    for start, end, axis, step in bounds:
        numbers = [item for item in (start, end, step) if isinstance(item, int)]
        if len(numbers) < 3 or not -data.ndim <= axis < data.ndim or step == 0:  # noqa: PLR2004
            return None
        if numbers[2] < 0 and (numbers[0] < -data.shape[axis] or numbers[1] >= _INT_MAX):
            return None  # where ONNX, ONNX Runtime and Python begin and end differs
        index[axis] = slice(*numbers)
    return [data[tuple(index)]]


def _concat(node: ir.Node, known: SymbolicShapes) -> _Found:
    axis = int_attribute(node, "axis", 1)
    parts = [known.elements(value) for value in node.inputs]
    found = [part for part in parts if part is not None]
    if (
        axis is None
        or len(found) < len(parts)
        or not all(part.ndim and -part.ndim <= axis < part.ndim for part in found)
    ):
        return None
    if all(part.ndim == 1 for part in found):
        return [np.concatenate(found)]
    around = {(*part.shape[:axis], *part.shape[axis:][1:]) for part in found}
    if len(around) != 1 or len({part.ndim for part in found}) != 1:
        return None
    return [np.concatenate(found, axis=axis)]


def _squeeze(node: ir.Node, known: SymbolicShapes) -> _Found:
    data, axes = known.elements(operand(node, 0)), axes_of(node, known)
    if data is None or axes is None:
        return None
    axes = axes or tuple(axis for axis, size in enumerate(data.shape) if size == 1)
    if any(not -data.ndim <= axis < data.ndim or data.shape[axis] != 1 for axis in axes):
        return None
    gone = {axis % data.ndim for axis in axes}
    return [data.reshape([size for axis, size in enumerate(data.shape) if axis not in gone])]


def _unsqueeze(node: ir.Node, known: SymbolicShapes) -> _Found:
    data, axes = known.elements(operand(node, 0)), axes_of(node, known)
    if data is None or not axes:
        return None
    rank = data.ndim + len(axes)
    new = {axis % rank for axis in axes}
    if any(not -rank <= axis < rank for axis in axes) or len(new) < len(axes):
        return None
    sizes = iter(data.shape)
    return [data.reshape([1 if axis in new else next(sizes) for axis in range(rank)])]


def _reshape(node: ir.Node, known: SymbolicShapes) -> _Found:
    data, target = known.elements(operand(node, 0)), known.numbers(operand(node, 1))
    if data is None or target is None or int_attribute(node, "allowzero", 0) is None:
        return None
    sizes = list(target)
    if int_attribute(node, "allowzero", 0) == 0:
        if any(size == 0 and axis >= data.ndim for axis, size in enumerate(sizes)):
            return None
        sizes = [size or data.shape[axis] for axis, size in enumerate(sizes)]
    rest = math.prod(size for size in sizes if size != -1)
    is_whole = data.size == rest if -1 not in sizes else rest != 0 and data.size % rest == 0
    if not is_whole or sizes.count(-1) > 1 or min(sizes, default=0) < -1:
        return None
    return [data.reshape(sizes)]


def _transpose(node: ir.Node, known: SymbolicShapes) -> _Found:
    data = known.elements(operand(node, 0))
    if data is None:
        return None
    order = transpose_permutation(node, data.ndim)
    if order is None or sorted(order) != list(range(data.ndim)):
        return None
    return [np.transpose(data, order)]


def _expand(node: ir.Node, known: SymbolicShapes) -> _Found:
    data, target = known.elements(operand(node, 0)), known.numbers(operand(node, 1))
    if data is None or target is None:
        return None
    shape = _broadcast_shape(data.shape, target)
    return None if shape is None else [np.broadcast_to(data, shape)]


def _tile(node: ir.Node, known: SymbolicShapes) -> _Found:
    data, repeats = known.elements(operand(node, 0)), known.numbers(operand(node, 1))
    if data is None or repeats is None or len(repeats) != data.ndim or min(repeats, default=0) < 0:
        return None
    if data.size * math.prod(repeats) > _MAX_ELEMENTS:
        return None
    return [np.tile(data, repeats)]


def _split(node: ir.Node, known: SymbolicShapes) -> _Found:
    data, axis = known.elements(operand(node, 0)), int_attribute(node, "axis", 0)
    if data is None or axis is None or not -data.ndim <= axis < data.ndim:
        return None
    count, size = len(node.outputs), data.shape[axis]
    sizes = ints_attribute(node, "split") or known.numbers(operand(node, 1))
    if sizes is None:
        if operand(node, 1) is not None or size % count or "split" in node.attributes:
            return None
        sizes = (size // count,) * count
    if len(sizes) != count or sum(sizes) != size or min(sizes) < 0:
        return None
    return np.split(data, np.cumsum(sizes)[:-1].tolist(), axis=axis)


# -- computing ----------------------------------------------------------------------------------


def _each(compute: Callable[..., Integer], *operands: _Elements) -> _Elements:
    """Apply ``compute`` to each element, after broadcasting."""
    # NumPy returns the bare element where no operand has a dimension.
    return _array(np.frompyfunc(compute, len(operands), 1)(*operands))


def _broadcast_shape(*shapes: Sequence[int]) -> tuple[int, ...] | None:
    try:
        shape = np.broadcast_shapes(*(tuple(shape) for shape in shapes))
    except ValueError:
        return None
    return shape if math.prod(shape) <= _MAX_ELEMENTS else None


def _elementwise(compute: Callable[..., Integer]) -> _Rule:
    """Make a rule from a function of the analysis and one element of each input."""

    def rule(node: ir.Node, known: SymbolicShapes) -> _Found:
        operands = [known.elements(value) for value in node.inputs]
        given = [elements for elements in operands if elements is not None]
        if len(given) < len(operands):
            return None
        if _broadcast_shape(*(elements.shape for elements in given)) is None:
            return None
        return [_each(lambda *items: compute(known.symbols, *items), *given)]

    return rule


def _reduce(combine: Callable[..., Integer], *, empty: int | None) -> _Rule:
    def rule(node: ir.Node, known: SymbolicShapes) -> _Found:
        data, axes = known.elements(operand(node, 0)), axes_of(node, known)
        keep = int_attribute(node, "keepdims", 1)
        if data is None or axes is None or keep is None:
            return None
        if not axes and int_attribute(node, "noop_with_empty_axes", 0) != 0:
            return None
        every = range(data.ndim)
        # A scalar has no axes to count by, and none named are all.
        reduced = sorted({axis % data.ndim for axis in axes} if every else every) or list(every)
        kept = [axis for axis in range(data.ndim) if axis not in reduced]
        shape = [data.shape[axis] for axis in kept]
        count = math.prod(data.shape[axis] for axis in reduced)
        if count == 0 and empty is None:
            return None
        rows = np.transpose(data, kept + reduced).reshape(math.prod(shape), count)
        found = _vector([_folded(combine, known, row.tolist(), empty) for row in rows])
        sizes = [1 if axis in reduced else size for axis, size in enumerate(data.shape)]
        return [found.reshape(sizes if keep else shape)]

    return rule


def _folded(
    combine: Callable[..., Integer], known: SymbolicShapes, items: list[Integer], empty: int | None
) -> Integer:
    if not items:
        assert empty is not None
        return empty
    result = items[0]
    for item in items[1:]:
        result = combine(known.symbols, result, item)
    return result


def _plain(compute: Callable[..., Integer]) -> Callable[..., Integer]:
    return lambda _symbols, *items: compute(*items)


_ADD, _MUL = _plain(operator.add), _plain(operator.mul)

ELEMENTS: Mapping[str, _Rule] = {
    "Abs": _elementwise(absolute),
    "Add": _elementwise(_ADD),
    "And": _elementwise(both),
    "Cast": _cast,
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Div": _elementwise(quotient),
    "Equal": _elementwise(is_equal),
    "Expand": _expand,
    "Gather": _gather,
    "Greater": _elementwise(lambda symbols, a, b: is_less(symbols, b, a)),
    "GreaterOrEqual": _elementwise(lambda symbols, a, b: negation(symbols, is_less(symbols, a, b))),
    "Identity": _same,
    "Less": _elementwise(is_less),
    "LessOrEqual": _elementwise(lambda symbols, a, b: negation(symbols, is_less(symbols, b, a))),
    "Max": _elementwise(largest),
    "Min": _elementwise(smallest),
    "Mod": _elementwise(remainder),
    "Mul": _elementwise(_MUL),
    "Neg": _elementwise(_plain(operator.neg)),
    "Not": _elementwise(negation),
    "Or": _elementwise(either),
    "Range": _range,
    "ReduceMax": _reduce(largest, empty=None),
    "ReduceMin": _reduce(smallest, empty=None),
    "ReduceProd": _reduce(_MUL, empty=1),
    "ReduceSum": _reduce(_ADD, empty=0),
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Sub": _elementwise(_plain(operator.sub)),
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": _elementwise(select),
}
