"""Dimensions of tensors: what each operator makes of expressions.

A rule returns the dimensions of the outputs, ``None`` for one that it cannot tell, or ``None`` for
all of them. What it says holds in every run that succeeds, for dimensions of size 0 too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import onnx_ir as ir

from graphopt.analysis.operands import (
    int_attribute,
    ints_attribute,
    operand,
    transpose_permutation,
)
from graphopt.analysis.symbolic_expressions import (
    Integer,
    divide,
    is_nonnegative,
    is_positive,
    product,
    vanishes_with,
)
from graphopt.analysis.symbolic_numbers import limit_of, sliced
from graphopt.analysis.symbolic_operands import axes_of, items_of, slice_operands
from graphopt.analysis.symbolic_windows import WINDOW_DIMS

if TYPE_CHECKING:
    from graphopt.analysis.symbolic_shapes import SymbolicShapes

__all__ = ["DIMS", "broadcast"]

_Dims = tuple[Integer, ...]
_Found = Sequence[_Dims | None] | None
_Rule = Callable[[ir.Node, "SymbolicShapes"], _Found]


def _first(node: ir.Node, known: SymbolicShapes) -> _Found:
    """The first output has the shape of the first input."""
    return [known.dims(operand(node, 0))]


def broadcast(known: SymbolicShapes, shapes: Sequence[_Dims]) -> _Dims:
    """Return the shape that several shapes have together, given that they fit."""
    if shapes and shapes.count(shapes[0]) == len(shapes):
        return shapes[0]  # most are of one shape
    rank = max(map(len, shapes), default=0)
    padded = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    return tuple(_broadcast_dim(known, dims) for dims in zip(*padded, strict=True))


def _broadcast_dim(known: SymbolicShapes, dims: Sequence[Integer]) -> Integer:
    different = {dim for dim in dims if dim != 1}
    numbers = [dim for dim in different if isinstance(dim, int)]
    if numbers:
        return numbers[0]  # the others are equal to it, or 1
    if len(different) <= 1:
        return different.pop() if different else 1
    for dim in different:
        if different == {dim, _cut_of(dim, different)}:
            return dim
    return known.symbols.of(("broadcast", frozenset(different)), is_size=True)


def _cut_of(dim: Integer, dims: Iterable[Integer]) -> Integer | None:
    """Return the one of ``dims`` that is ``dim`` or some number above zero, whichever is less.

    The two fit together only where they are equal, or where the other one is 1.
    """
    for other in dims:
        limit = limit_of(other, dim)
        if isinstance(limit, int) and limit > 0:
            return other
    return None


def _broadcasting(node: ir.Node, known: SymbolicShapes) -> _Found:
    shapes = [known.dims(value) for value in node.inputs]
    given = [shape for shape in shapes if shape is not None]
    return [broadcast(known, given)] if len(given) == len(shapes) else None


def _expand(node: ir.Node, known: SymbolicShapes) -> _Found:
    data, target = known.dims(operand(node, 0)), known.elements(operand(node, 1))
    if data is None or target is None or target.ndim != 1:
        return None
    return [broadcast(known, [data, tuple(target.tolist())])]


def _constant_of_shape(node: ir.Node, known: SymbolicShapes) -> _Found:
    target = known.elements(operand(node, 0))
    return None if target is None or target.ndim != 1 else [tuple(target.tolist())]


def _shape(node: ir.Node, known: SymbolicShapes) -> _Found:
    rank = known.rank(operand(node, 0))
    start, end = int_attribute(node, "start", 0), int_attribute(node, "end", rank or 0)
    if rank is None or start is None or end is None:
        return None
    return [(len(range(rank)[start:end]),)]


def _matmul(node: ir.Node, known: SymbolicShapes) -> _Found:
    first, second = known.dims(operand(node, 0)), known.dims(operand(node, 1))
    if not first or not second:
        return None
    inner = {first[-1], second[-2:][0]}
    if len(inner) > 1 and all(isinstance(dim, int) for dim in inner):
        return None  # the run fails
    batch = broadcast(known, [first[:-2], second[:-2]])
    rows = first[-2:-1]
    columns = second[-1:] if len(second) > 1 else ()
    return [(*batch, *rows, *columns)]


def _gemm(node: ir.Node, known: SymbolicShapes) -> _Found:
    first, second = known.dims(operand(node, 0)), known.dims(operand(node, 1))
    turns = int_attribute(node, "transA", 0), int_attribute(node, "transB", 0)
    if first is None or second is None or None in turns:
        return None
    if len(first) != 2 or len(second) != 2:  # noqa: PLR2004
        return None
    return [(first[1 if turns[0] else 0], second[0 if turns[1] else 1])]


def _transpose(node: ir.Node, known: SymbolicShapes) -> _Found:
    data = known.dims(operand(node, 0))
    order = transpose_permutation(node, None if data is None else len(data))
    if data is None or order is None or sorted(order) != list(range(len(data))):
        return None
    return [tuple(data[axis] for axis in order)]


def _reshape(node: ir.Node, known: SymbolicShapes) -> _Found:
    data, target = known.dims(operand(node, 0)), known.elements(operand(node, 1))
    allow_zero = int_attribute(node, "allowzero", 0)
    if data is None or target is None or target.ndim != 1 or allow_zero is None:
        return None
    asked: list[Integer] = target.tolist()
    sizes = [
        _reshaped_dim(node, known, data, (axis, item), allow_zero)
        for axis, item in enumerate(asked)
    ]
    if asked.count(-1) == 1 and all(is_nonnegative(item) for item in asked if item != -1):
        place = asked.index(-1)
        others = [*sizes[:place], *sizes[place + 1 :]]
        sizes[place] = _rest(known, data, others)
        for size in others:  # with `allowzero`, too: see the assumptions of the analysis
            known.assume_positive(node, size)
    return [tuple(sizes)]


def _reshaped_dim(
    node: ir.Node, known: SymbolicShapes, data: _Dims, asked: tuple[int, Integer], allow_zero: int
) -> Integer:
    """Return the dimension that a Reshape makes of one element of its target."""
    axis, item = asked
    copied = data[axis] if axis < len(data) else None
    if item == 0 and not allow_zero and copied is not None:
        return copied
    if is_positive(item) or (is_nonnegative(item) and allow_zero):
        return item
    if is_nonnegative(item) and copied is None:
        known.assume_positive(node, item)  # there is nothing to copy: a 0 makes the run fail
    # A size that is 0 asks for a copy, which is the same only where what is copied is 0 as well.
    if is_nonnegative(item) and (copied is None or vanishes_with(copied, item)):
        return item
    return known.unknown_dim(node.outputs[0], axis)


def _rest(known: SymbolicShapes, data: _Dims, others: Sequence[Integer]) -> Integer:
    """Return what -1 stands for: no other dimension is 0 then."""
    left, divisors = list(data), []
    for other in others:
        if other in left:
            left.remove(other)
        else:
            divisors.append(other)
    total, divisor = product(left), product(divisors)
    quotient = divide(total, divisor)
    if quotient is None or not is_nonnegative(quotient):
        return known.symbols.of(("quotient", total, divisor), is_size=True)
    return quotient


def _flatten(node: ir.Node, known: SymbolicShapes) -> _Found:
    data, axis = known.dims(operand(node, 0)), int_attribute(node, "axis", 1)
    if data is None or axis is None or not -len(data) <= axis <= len(data):
        return None
    axis = axis + len(data) if axis < 0 else axis
    return [(product(data[:axis]), product(data[axis:]))]


def _squeeze(node: ir.Node, known: SymbolicShapes) -> _Found:
    data, axes = known.dims(operand(node, 0)), axes_of(node, known)
    if not data or not axes:
        return None
    gone = {axis % len(data) for axis in axes}
    return [tuple(dim for axis, dim in enumerate(data) if axis not in gone)]


def _unsqueeze(node: ir.Node, known: SymbolicShapes) -> _Found:
    data, axes = known.dims(operand(node, 0)), axes_of(node, known)
    if data is None or not axes:
        return None
    rank = len(data) + len(axes)
    added, rest = {axis % rank for axis in axes}, iter(data)
    if len(added) < len(axes):
        return None
    return [tuple(1 if axis in added else next(rest) for axis in range(rank))]


def _concat(node: ir.Node, known: SymbolicShapes) -> _Found:
    axis = int_attribute(node, "axis", 1)
    parts = [known.dims(value) for value in node.inputs]
    given = [part for part in parts if part is not None]
    if axis is None or not given or len(given) < len(parts):
        return None
    if not -len(given[0]) <= axis < len(given[0]):
        return None
    axis %= len(given[0])
    if any(len(part) != len(given[0]) for part in given):
        return None
    total: Integer = 0
    for part in given:
        total = total + part[axis]
    # An empty part is skipped by the runtime, whatever its other dimensions.
    sizes = [
        dims[0]
        if all(dim == dims[0] for dim in dims)
        else known.symbols.of(("dim", node.outputs[0], place), is_size=True)
        for place, dims in enumerate(zip(*given, strict=True))
    ]
    return [(*sizes[:axis], total, *sizes[axis + 1 :])]


def _split(node: ir.Node, known: SymbolicShapes) -> _Found:
    data, axis = known.dims(operand(node, 0)), int_attribute(node, "axis", 0)
    sizes: Sequence[Integer] | None = ints_attribute(node, "split")
    if data is None or axis is None or not -len(data) <= axis < len(data):
        return None
    axis %= len(data)
    if sizes is None and operand(node, 1) is not None:
        given = known.elements(operand(node, 1))
        sizes = None if given is None else given.reshape(-1).tolist()
    elif sizes is None:
        part = divide(data[axis], len(node.outputs))
        if part is None or part * len(node.outputs) != data[axis]:
            return None
        sizes = [part] * len(node.outputs)
    if sizes is None or len(sizes) != len(node.outputs):
        return None
    return [(*data[:axis], size, *data[axis + 1 :]) for size in sizes]


def _gather(node: ir.Node, known: SymbolicShapes) -> _Found:
    data, indices = known.dims(operand(node, 0)), known.dims(operand(node, 1))
    axis = int_attribute(node, "axis", 0)
    if data is None or indices is None or axis is None or not -len(data) <= axis < len(data):
        return None
    axis %= len(data)
    # A constant index points to an element: without any the run fails.
    if known.numbers(operand(node, 1)):
        known.assume_positive(node, data[axis])
    return [(*data[:axis], *indices, *data[axis + 1 :])]


def _slice(node: ir.Node, known: SymbolicShapes) -> _Found:
    data = known.dims(operand(node, 0))
    bounds = slice_operands(node, known)
    if data is None or bounds is None:
        return None
    dims = list(data)
    for start, end, axis, step in bounds:
        if not -len(data) <= axis < len(data):
            return None
        dims[axis] = sliced(known.symbols, data[axis], (start, end, step))
    return [tuple(dims)]


def _range(node: ir.Node, known: SymbolicShapes) -> _Found:
    bounds = [known.elements(value) for value in node.inputs]
    if any(bound is None or bound.size != 1 for bound in bounds):
        return [(known.symbols.of(("dim", node.outputs[0], 0), is_size=True),)]
    start, limit, delta = (bound.item() for bound in bounds if bound is not None)
    if delta == 1 and is_nonnegative(limit - start):
        return [(limit - start,)]
    return [(known.symbols.of(("range", start, limit, delta), is_size=True),)]


def _tile(node: ir.Node, known: SymbolicShapes) -> _Found:
    data, repeats = known.dims(operand(node, 0)), known.elements(operand(node, 1))
    if data is None or repeats is None or repeats.shape != (len(data),):
        return None
    return [tuple(dim * count for dim, count in zip(data, repeats.tolist(), strict=True))]


def _pad(node: ir.Node, known: SymbolicShapes) -> _Found:
    data = known.dims(operand(node, 0))
    attribute = ints_attribute(node, "pads")
    amounts = attribute if attribute is not None else items_of(known, operand(node, 1))
    # Input 3 names axes (opset 18), whose amounts are fewer.
    if data is None or amounts is None or operand(node, 3) is not None:
        return None
    if len(amounts) != 2 * len(data):
        return None
    before, after = amounts[: len(data)], amounts[len(data) :]
    return [tuple(dim + a + b for dim, a, b in zip(data, before, after, strict=True))]


def _reduced(node: ir.Node, known: SymbolicShapes) -> _Found:
    data, axes = known.dims(operand(node, 0)), axes_of(node, known)
    keep = int_attribute(node, "keepdims", 1)
    if data is None or axes is None or keep is None:
        return None
    if not axes and int_attribute(node, "noop_with_empty_axes", 0) != 0:
        return None
    return [_without_axes(data, axes or tuple(range(len(data))), keep=keep)]


def _arg_reduced(node: ir.Node, known: SymbolicShapes) -> _Found:
    data, axis = known.dims(operand(node, 0)), int_attribute(node, "axis", 0)
    keep = int_attribute(node, "keepdims", 1)
    if not data or axis is None or keep is None:
        return None
    return [_without_axes(data, (axis,), keep=keep)]


def _without_axes(data: _Dims, axes: Sequence[int], *, keep: int) -> _Dims:
    gone = {axis % max(1, len(data)) for axis in axes}
    if keep:
        return tuple(1 if axis in gone else dim for axis, dim in enumerate(data))
    return tuple(dim for axis, dim in enumerate(data) if axis not in gone)


def _non_zero(node: ir.Node, known: SymbolicShapes) -> _Found:
    rank = known.rank(operand(node, 0))
    if not rank:
        return None  # the runtime makes a vector of a scalar
    return [(rank, known.symbols.of(("dim", node.outputs[0], 1), is_size=True))]


_UNARY = """
    Abs Acos Acosh Asin Asinh Atan Atanh BatchNormalization Bernoulli BitwiseNot Cast CastLike
    Ceil Celu Clip Cos Cosh CumSum DequantizeLinear Dropout DynamicQuantizeLinear Elu Erf Exp
    Floor Gelu GroupNormalization HardSigmoid HardSwish Hardmax Identity InstanceNormalization
    IsInf IsNaN LRN LayerNormalization LeakyRelu Log LogSoftmax LpNormalization
    MeanVarianceNormalization Mish Neg Not QuantizeLinear RMSNormalization RandomNormalLike
    RandomUniformLike Reciprocal Relu Round ScatterElements ScatterND Selu Shrink Sigmoid Sign
    Sin Sinh Softmax Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu Trilu
""".split()  # noqa: SIM905 - a block of names reads better
_BINARY = """
    Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual Less
    LessOrEqual Max Mean Min Mod Mul Or PRelu Pow Sub Sum Where Xor
""".split()  # noqa: SIM905
_REDUCE = """
    ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd
    ReduceSum ReduceSumSquare
""".split()  # noqa: SIM905

DIMS: Mapping[str, _Rule] = {
    **dict.fromkeys(_UNARY, _first),
    **dict.fromkeys(_BINARY, _broadcasting),
    **dict.fromkeys(_REDUCE, _reduced),
    **WINDOW_DIMS,
    "ArgMax": _arg_reduced,
    "ArgMin": _arg_reduced,
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "NonZero": _non_zero,
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "Shape": _shape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
