"""Elimination of nodes that return their input."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis import Operators, is_annotated
from graphopt.analysis.operands import (
    cast_target,
    ints_operand,
    is_training,
    operand,
    pad_amounts,
    reshape_target,
    slice_bounds,
    transpose_permutation,
)
from graphopt.analysis.shape_proofs import same_shape, same_shape_and_count
from graphopt.ir import constant_array, is_call, nodes_of_types
from graphopt.rewrite import (
    Contract,
    Editor,
    Exact,
    Facts,
    Needs,
    Pass,
    ShapeTable,
    ValueShape,
    can_replace,
)

__all__ = ["EliminateIdentities"]


@dataclass(frozen=True, kw_only=True)
class EliminateIdentities(Pass):
    """Remove every node whose output is its input, bit for bit.

    What it does
        Lets the readers of the output read the input instead. Covers Identity; Dropout in
        inference mode; Cast to the same type; Reshape, Flatten, Squeeze, Unsqueeze and Expand that
        keep the shape; Transpose that keeps the order; Pad by nothing; Slice of everything; Tile
        once; Concat, Sum, Max, Min and Mean of one input; Split into one output; multiplication
        and division by exactly 1, addition of exactly 0 to integers and of -0.0 to floats, and
        subtraction of exactly 0; Where that always takes one side.

    When it refuses
        `training-mode`     the Dropout trains, or a caller may make it train.
        `mask-used`         somebody reads the mask of the Dropout.
        `sign-of-zero`      the zero that is added would turn -0.0 into +0.0, or what a Where takes
                            may hold -0.0, which the runtime's kernel of Where turns into +0.0.
        `names-an-output`   the graph returns both values, or returns what it was given: the node
                            is what carries the public name. Or BatchNormalization in training mode
                            updates the output in place, so that it has to be a copy.
        `annotated`         a quantization annotation describes the output.

    What it keeps
        The model's inputs and outputs, their names, order, types and shapes; every bit of them.
        NaN payloads may differ where a floating-point node is removed.

    Cost
        Time O(nodes + edges), after shape inference; memory O(nodes). No weight above 64 elements
        is read.

    Example
        before  (float[N] x) => (float[N] z) { y = Identity(x)  z = Relu(y) }
        after   (float[N] x) => (float[N] z) { z = Relu(x) }

    References
        ONNX operator specifications, each in the opset version that the model imports.
    """

    name: ClassVar[str] = "eliminate-identities"
    contract: ClassVar[Contract] = Contract(numerics=Exact(), is_idempotent=True)

    def needs(self, model: ir.Model) -> Needs:  # noqa: ARG002
        """Ask for shapes."""
        return Needs(shapes=True)

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Remove identities."""
        operators = Operators(model)
        contexts: dict[int, _Context] = {}
        for node in nodes_of_types(model, _RULES, with_functions=True):
            version = operators.version(node)
            if version is None or is_call(node, model):
                continue
            context = contexts.get(version) or contexts.setdefault(
                version, _Context(facts.shapes, version)
            )
            verdict = _RULES[node.op_type](node, context)
            if verdict is True:
                _remove(node, context, edit)
            elif isinstance(verdict, str):
                edit.refuse(node, verdict)


@dataclass(frozen=True)
class _Context:
    shapes: ShapeTable
    version: int

    def shape(self, value: ir.Value | None) -> ValueShape | None:
        return self.shapes.of(value)

    def rank(self, value: ir.Value | None) -> int | None:
        known = self.shapes.of(value)
        return None if known is None or known.dims is None else len(known.dims)

    def has_no_sign(self, value: ir.Value | None) -> bool:
        """Tell whether the elements are known to be of a type that has no zero but one."""
        known = self.shapes.of(value)
        return known is not None and known.dtype is not None and not _has_signed_zeros(known.dtype)

    def keeps_shape(self, node: ir.Node, index: int = 0) -> bool:
        return same_shape(self.shape(operand(node, index)), self.shape(node.outputs[0]))


def _has_signed_zeros(dtype: ir.DataType) -> bool:
    return dtype.is_floating_point() or dtype in (ir.DataType.COMPLEX64, ir.DataType.COMPLEX128)


_Verdict = bool | str
"""``True``: the first output is the kept input; a slug: nearly so; ``False``: not at all."""


def _remove(node: ir.Node, context: _Context, edit: Editor) -> None:
    output, source = node.outputs[0], _kept_input(node, context)
    if any(other.uses() or other.is_graph_output() for other in node.outputs[1:]):
        edit.refuse(node, "mask-used")
    elif is_annotated(output):
        edit.refuse(node, "annotated")
    elif source is None or not can_replace(output, source):
        edit.refuse(node, "names-an-output")
    else:
        with edit.rewrite(node, because=f"{node.op_type} returns its input") as change:
            change.replace(output, source)
            change.remove(node)


def _kept_input(node: ir.Node, context: _Context) -> ir.Value | None:
    """Return the input that is not the neutral constant."""
    if node.op_type == "Where":
        return operand(node, _taken_side(node) or 0)
    is_first_neutral = node.op_type in _COMMUTATIVE and _neutral_operand(node, context)[0] == 0
    return operand(node, 1 if is_first_neutral else 0)


# -- rules: one for each operator -------------------------------------------------------------


def _always(node: ir.Node, context: _Context) -> _Verdict:  # noqa: ARG001
    return True


def _dropout(node: ir.Node, context: _Context) -> _Verdict:
    return "training-mode" if is_training(node, context.version) else True


def _cast(node: ir.Node, context: _Context) -> _Verdict:
    known = context.shape(operand(node, 0))
    return known is not None and known.dtype is not None and known.dtype == cast_target(node)


def _cast_like(node: ir.Node, context: _Context) -> _Verdict:
    first, second = context.shape(operand(node, 0)), context.shape(operand(node, 1))
    if first is None or second is None or first.dtype is None:
        return False
    return first.dtype == second.dtype


def _reshape(node: ir.Node, context: _Context) -> _Verdict:
    known = context.shape(operand(node, 0))
    if same_shape_and_count(known, context.shape(node.outputs[0])):
        return True
    asked = reshape_target(node)
    if asked is None or known is None or known.dims is None:
        return False
    target, allow_zero = asked
    if len(target) != len(known.dims):
        return False
    copied = [
        size == dim or (size == 0 and not allow_zero)
        for size, dim in zip(target, known.dims, strict=True)
    ]
    computed = [size == -1 for size in target]
    return sum(computed) <= 1 and all(
        is_copied or is_computed for is_copied, is_computed in zip(copied, computed, strict=True)
    )


def _same_elements(node: ir.Node, context: _Context) -> _Verdict:
    return same_shape_and_count(context.shape(operand(node, 0)), context.shape(node.outputs[0]))


def _expand(node: ir.Node, context: _Context) -> _Verdict:
    if context.keeps_shape(node):
        return True
    target, known = ints_operand(node, 1), context.shape(operand(node, 0))
    if target is None or known is None or known.dims is None or len(target) > len(known.dims):
        return False
    aligned = known.dims[len(known.dims) - len(target) :]
    return all(size in (1, dim) for size, dim in zip(target, aligned, strict=True))


def _transpose(node: ir.Node, context: _Context) -> _Verdict:
    permutation = transpose_permutation(node, context.rank(operand(node, 0)))
    return permutation is not None and permutation == tuple(range(len(permutation)))


def _pad(node: ir.Node, context: _Context) -> _Verdict:  # noqa: ARG001
    amounts = pad_amounts(node)
    return amounts is not None and not any(amounts)


_TO_THE_END = 2**31 - 1
"""The smallest end that the specification of Slice recommends for *to the end*."""


def _slice(node: ir.Node, context: _Context) -> _Verdict:
    bounds, known = slice_bounds(node), context.shape(operand(node, 0))
    if bounds is None:
        return False
    dims = known.dims if known is not None else None
    return all(
        step == 1 and start == 0 and _reaches_end(end, axis, dims)
        for start, end, axis, step in zip(
            bounds.starts, bounds.ends, bounds.axes, bounds.steps, strict=True
        )
    )


def _reaches_end(end: int, axis: int, dims: tuple[int | str | None, ...] | None) -> bool:
    if end >= _TO_THE_END:
        return True
    if dims is None or not -len(dims) <= axis < len(dims):
        return False
    size = dims[axis]
    return isinstance(size, int) and end >= size


def _tile(node: ir.Node, context: _Context) -> _Verdict:  # noqa: ARG001
    repeats = ints_operand(node, 1) if len(node.inputs) == 2 else None  # noqa: PLR2004 - opset 6
    return repeats is not None and all(repeat == 1 for repeat in repeats)


def _single_input(node: ir.Node, context: _Context) -> _Verdict:  # noqa: ARG001
    return len(node.inputs) == 1


def _single_output(node: ir.Node, context: _Context) -> _Verdict:  # noqa: ARG001
    return len(node.outputs) == 1


_BROADCASTING_SINCE = 7


def _arithmetic(node: ir.Node, context: _Context) -> _Verdict:
    if context.version < _BROADCASTING_SINCE or len(node.inputs) != 2:  # noqa: PLR2004 - binary
        return False
    return _neutral_operand(node, context)[1]


def _where(node: ir.Node, context: _Context) -> _Verdict:
    side = _taken_side(node)
    if side is None or not context.keeps_shape(node, side):
        return False
    return True if _has_no_negative_zero(node.inputs[side], context) else "sign-of-zero"


# What these compute is never -0.0. A Where of the runtime is not, either: its kernel adds.
_POSITIVE_ZEROS = frozenset({"Abs", "Exp", "Sigmoid", "Softmax", "Where"})


def _has_no_negative_zero(value: ir.Value | None, context: _Context) -> bool:
    """Tell whether no element can be -0.0, which the runtime's kernel of Where turns into 0.0."""
    if context.has_no_sign(value):
        return True
    array = constant_array(value, _MAX_NEUTRAL_ELEMENTS)
    if array is not None:
        return not (np.signbit(array) & (array == 0)).any()
    producer = value.producer() if value is not None else None
    return producer is not None and producer.op_type in _POSITIVE_ZEROS and not producer.domain


def _taken_side(node: ir.Node) -> int | None:
    """Return the index of the input that a Where always takes, or ``None``."""
    condition = constant_array(operand(node, 0), _MAX_NEUTRAL_ELEMENTS)
    if condition is None or not condition.size or condition.all() != condition.any():
        return None
    return 1 if condition.all() else 2


def _neutral_operand(node: ir.Node, context: _Context) -> tuple[int, _Verdict]:
    """Return which operand the node could do without: both may be neutral, and one be too small."""
    for index in (1, 0) if node.op_type in _COMMUTATIVE else (1,):
        verdict = _neutral(node, node.inputs[index])
        if verdict and (context.keeps_shape(node, 1 - index) or _is_scalar(node, index, context)):
            return index, verdict
    return -1, False


def _is_scalar(node: ir.Node, index: int, context: _Context) -> bool:
    """Tell whether the constant input has one element and adds no dimension to the other input."""
    constant, rank = constant_array(operand(node, index), 1), context.rank(node.inputs[1 - index])
    if constant is None or constant.size != 1:
        return False
    return constant.ndim == 0 or (rank is not None and constant.ndim <= rank)


def _neutral(node: ir.Node, value: ir.Value | None) -> _Verdict:
    """Tell whether ``value`` is neutral for the arithmetic of ``node``, element by element."""
    array = constant_array(value, _MAX_NEUTRAL_ELEMENTS)
    if array is None or not array.size or array.dtype.kind in "OSUc":
        return False
    # The first element tells of nearly all that they are not.
    if node.op_type in ("Mul", "Div"):
        return bool(array.item(0) == 1 and (array == 1).all())
    if node.op_type in ("And", "Or"):
        return bool((array == (node.op_type == "And")).all())
    return _is_neutral_zero(array, is_subtracted=node.op_type == "Sub")


def _is_neutral_zero(array: np.ndarray[Any, Any], *, is_subtracted: bool) -> _Verdict:
    """Judge the zeros of ``x + 0`` and ``x - 0``: only ``x + -0.0`` and ``x - +0.0`` keep -0.0."""
    if array.item(0) != 0 or (array != 0).any():
        return False
    if array.dtype.kind in "iu":
        return True
    is_negative = np.signbit(array.astype(np.float64))
    return True if bool((is_negative != is_subtracted).all()) else "sign-of-zero"


_MAX_NEUTRAL_ELEMENTS = 4096
_COMMUTATIVE = frozenset({"Add", "And", "Mul", "Or"})
_RULES: Mapping[str, Callable[[ir.Node, _Context], _Verdict]] = {
    "Add": _arithmetic,
    "And": _arithmetic,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Concat": _single_input,
    "Div": _arithmetic,
    "Dropout": _dropout,
    "Expand": _expand,
    "Flatten": _same_elements,
    "Identity": _always,
    "Max": _single_input,
    "Mean": _single_input,
    "Min": _single_input,
    "Mul": _arithmetic,
    "Or": _arithmetic,
    "Pad": _pad,
    "Reshape": _reshape,
    "Slice": _slice,
    "Split": _single_output,
    "Squeeze": _same_elements,
    "Sub": _arithmetic,
    "Sum": _single_input,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _same_elements,
    "Where": _where,
}
