"""Simplification of the arithmetic that computes shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis import is_annotated
from graphopt.analysis.constant_targets import (
    added_or_removed_ones,
    expand_target,
    reshape_target,
    slice_bound,
)
from graphopt.analysis.operands import int_attribute, operand
from graphopt.analysis.shape_arithmetic import Replacement, Scope, ShapeArithmetic
from graphopt.analysis.shape_plans import Recipe
from graphopt.analysis.symbolic_operands import slice_operands
from graphopt.analysis.symbolic_shapes import SymbolicShapes
from graphopt.ir import constant_tensor, is_call, nodes_of_types
from graphopt.rewrite import Change, Contract, Editor, Exact, Facts, Needs, Pass

__all__ = ["SimplifyShapes"]


@dataclass(frozen=True, kw_only=True)
class SimplifyShapes(Pass):
    """Make the shapes that a model computes constant, or compute them with fewer nodes.

    What it does
        Follows sizes as expressions over the sizes of the inputs. Gives Reshape, Expand and Slice
        constant parameters that mean the same for all sizes, zero included: 0 for a dimension that
        stays in its place, -1 for one that may be left to the runtime, 1 for what Expand need not
        expand, the end for a Slice to the end. Resize gets constant sizes of the axes that change
        (from opset 18). Turns a Reshape that only adds or removes
        dimensions of size 1 into Unsqueeze or Squeeze. Where shapes must be computed, computes each
        one once: runs of dimensions with one Shape, each size from the first value that has it.

    When it refuses
        `several-dimensions`  more than one dimension of the result is neither a number nor one that
                              stays in its place.
        `may-be-empty`        -1 would stand beside a dimension that may be 0, which is ambiguous.
        `annotated`           a quantization annotation describes the result.

    What it keeps
        The model's inputs and outputs, their names, order, types and shapes; every bit of them in
        every run that succeeds. Shapes that the caller gives, initializers that a caller may
        override included, are not constants.

    Cost
        Time O(nodes + edges), after shape inference; memory O(nodes). No weight above 64 elements
        is read.

    Example
        before  (float[B,S,6] x) => (float[B,S,2,3] z) <int64[2] tail = {2, 3}, int64[2] first = {0, 1}> { s = Shape(x)  d = Gather(s, first)  t = Concat<axis = 0>(d, tail)  z = Reshape(x, t) }
        after   (float[B,S,6] x) => (float[B,S,2,3] z) <int64[2] tail = {2, 3}, int64[2] first = {0, 1}, int64[4] target = {0, 0, 2, 3}> { z = Reshape(x, target) }

    References
        ONNX operator specifications; ONNX Runtime 1.32 for -1 in a Reshape of an empty tensor.
    """  # noqa: E501 - the example is one line of ONNX text

    name: ClassVar[str] = "simplify-shapes"
    contract: ClassVar[Contract] = Contract(numerics=Exact(), is_idempotent=True)

    def needs(self, model: ir.Model) -> Needs:  # noqa: ARG002
        """Ask for shapes."""
        return Needs(shapes=True)

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Make parameters constant first, then plan what is left to compute."""
        known = SymbolicShapes.kept(model, facts.shapes)
        constants: dict[tuple[int, ...], ir.Value] = {}
        for node in nodes_of_types(model, _RULES):
            if not is_call(node, model):
                _RULES[node.op_type](node, known, _Constants(edit, constants))
        arithmetic = ShapeArithmetic(model, known)
        for replacement in arithmetic.replacements:
            _replace(replacement, known, edit)
        for node in arithmetic.dead():
            edit.remove(node, because="nobody reads this size any more")


@dataclass(frozen=True)
class _Constants:
    """Makes rewrites; equal vectors are stored once."""

    edit: Editor
    vectors: dict[tuple[int, ...], ir.Value]

    def vector(self, change: Change, items: tuple[int, ...], name: str) -> ir.Value:
        """Return a constant vector of int64."""
        if items not in self.vectors:
            self.vectors[items] = change.initializer(np.array(items, np.int64), name=name)
        return self.vectors[items]


def _is_computed(value: ir.Value | None, known: SymbolicShapes) -> bool:
    """Tell whether ``value`` is computed from shapes and no constant yet."""
    producer = value.producer() if value is not None else None
    if producer is None or constant_tensor(value) is not None:
        return False
    return known.is_computed(producer)


# -- constant parameters ------------------------------------------------------------------------


def _reshape(node: ir.Node, known: SymbolicShapes, constants: _Constants) -> None:
    shape, output = operand(node, 1), node.outputs[0]
    data, result = known.dims(operand(node, 0)), known.dims(output)
    if not _is_computed(shape, known) or data is None or result is None:
        return
    target = reshape_target(data, result, _computed_axis(node, known))
    if isinstance(target, str):
        _reshape_ones(node, known, constants, slug=target)
        return
    with constants.edit.rewrite(node, because=f"its shape is always {list(target)}") as change:
        change.set_input(node, 1, constants.vector(change, target, f"{output.name}_shape"))
        if "allowzero" in node.attributes:
            change.set_attributes(node, {"allowzero": None})


def _computed_axis(node: ir.Node, known: SymbolicShapes) -> int | None:
    """Return the axis for which a Reshape is given -1 already; ``None`` also where that depends."""
    shape = known.elements(operand(node, 1))
    if shape is None or int_attribute(node, "allowzero", 0) != 0:
        return None
    items = shape.tolist()
    return items.index(-1) if items.count(-1) == 1 else None


def _reshape_ones(
    node: ir.Node, known: SymbolicShapes, constants: _Constants, *, slug: str
) -> None:
    """Add or remove dimensions of size 1, or refuse for the reason ``slug``."""
    source, output = operand(node, 0), node.outputs[0]
    data, result = known.dims(source), known.dims(output)
    assert data is not None
    assert result is not None
    found = added_or_removed_ones(data, result)
    if found is None or is_annotated(output):
        constants.edit.refuse(node, slug if found is None else "annotated")
        return
    operator, axes = found
    with constants.edit.rewrite(node, because="only dimensions of size 1 differ") as change:
        if known.version < _AXES_ARE_INPUT_SINCE:
            new = change.node(operator, [source], attributes={"axes": axes}, like=output)
        else:
            given = constants.vector(change, axes, f"{output.name}_axes")
            new = change.node(operator, [source, given], like=output)
        known.alias(new, output)
        change.replace(output, new)
        change.remove(node)


_AXES_ARE_INPUT_SINCE = 13


def _expand(node: ir.Node, known: SymbolicShapes, constants: _Constants) -> None:
    shape, data = operand(node, 1), known.dims(operand(node, 0))
    wanted = known.elements(shape)
    if not _is_computed(shape, known) or data is None or wanted is None:
        return
    target = expand_target(data, wanted.tolist())
    if target is None:
        return
    with constants.edit.rewrite(node, because=f"its shape may be {list(target)}") as change:
        name = f"{node.outputs[0].name}_shape"
        change.set_input(node, 1, constants.vector(change, target, name))


def _slice(node: ir.Node, known: SymbolicShapes, constants: _Constants) -> None:
    computed = [index for index in (1, 2) if _is_computed(operand(node, index), known)]
    bounds, dims = slice_operands(node, known), known.dims(operand(node, 0))
    if not computed or bounds is None or dims is None:
        return
    if any(not isinstance(step, int) or step <= 0 for *_, step in bounds):
        return
    for index in computed:
        found = [slice_bound(bound[index - 1], dims[bound[2]]) for bound in bounds]
        _set_bounds(node, index, found, constants, known)


def _set_bounds(
    node: ir.Node,
    index: int,
    found: Sequence[int | None],
    constants: _Constants,
    known: SymbolicShapes,
) -> None:
    items = tuple(item for item in found if item is not None)
    dtype = known.dtype(operand(node, index))
    if len(items) < len(found) or dtype not in (ir.DataType.INT64, ir.DataType.INT32):
        return
    with constants.edit.rewrite(node, because=f"input {index} may be {list(items)}") as change:
        name = f"{node.outputs[0].name}_{'starts' if index == 1 else 'ends'}"
        if dtype == ir.DataType.INT64:
            value = constants.vector(change, items, name)
        else:
            value = change.initializer(np.clip(items, -_INT32, _INT32).astype(np.int32), name=name)
        change.set_input(node, index, value)


_INT32 = 2**31 - 1


def _resize(node: ir.Node, known: SymbolicShapes, constants: _Constants) -> None:
    """Name the axes that are resized, where the sizes of all others are computed as they are."""
    sizes, data = operand(node, _RESIZE_SIZES), known.dims(operand(node, 0))
    wanted = known.elements(sizes)
    if known.version < _RESIZE_AXES_SINCE or not _is_computed(sizes, known):
        return
    if data is None or wanted is None or not _plain_resize(node):
        return
    pairs = list(zip(wanted.tolist(), data, strict=False))
    axes = [axis for axis, (size, own) in enumerate(pairs) if size != own]
    axes = axes or [len(pairs) - 1]  # where nothing changes, one axis must be named all the same
    resized = tuple(pairs[axis][0] for axis in axes)
    if len(pairs) != len(data) or not all(isinstance(size, int) for size in resized):
        return
    with constants.edit.rewrite(node, because=f"no axis but {axes} is resized") as change:
        change.set_attributes(node, {"axes": axes})
        name = f"{node.outputs[0].name}_sizes"
        change.set_input(node, _RESIZE_SIZES, constants.vector(change, resized, name))


def _plain_resize(node: ir.Node) -> bool:
    """Tell whether no attribute speaks of axes, or of sizes other than those asked for."""
    mode = node.attributes.get("coordinate_transformation_mode")
    policy = node.attributes.get("keep_aspect_ratio_policy")
    return (
        "axes" not in node.attributes
        and (mode is None or mode.value != "tf_crop_and_resize")
        and (policy is None or policy.value == "stretch")
    )


_RESIZE_SIZES, _RESIZE_AXES_SINCE = 3, 18

_RULES: Mapping[str, Callable[[ir.Node, SymbolicShapes, _Constants], None]] = {
    "Expand": _expand,
    "Reshape": _reshape,
    "Resize": _resize,
    "Slice": _slice,
}


# -- what is left to compute --------------------------------------------------------------------


def _replace(replacement: Replacement, known: SymbolicShapes, edit: Editor) -> None:
    value = replacement.value
    node = value.producer()
    assert node is not None
    with edit.rewrite(node, because="its sizes can be had with fewer nodes") as change:
        if replacement.recipe is None:
            array = known.array(value)
            assert array is not None
            new = change.initializer(array, name=value.name or "size")
        else:
            new = _Kitchen(replacement, change).make(replacement.recipe)
        change.replace(value, new)


class _Kitchen:
    """Carries out one recipe; what earlier recipes made is taken from where they put it."""

    def __init__(self, replacement: Replacement, change: Change) -> None:
        self._replacement = replacement
        self._scope: Scope = replacement.scope
        self._change = change

    def make(self, recipe: Recipe) -> ir.Value:
        """Return the value that ``recipe`` describes."""
        if recipe.value is not None:
            return recipe.value
        if recipe in self._replacement.reused:
            return self._replacement.reused[recipe]
        for scope in self._scope.around():
            if recipe in scope.made:
                return scope.made[recipe]
        made = self._scope.made[recipe] = self._new(recipe)
        return made

    def _new(self, recipe: Recipe) -> ir.Value:
        name = self._replacement.value.name or "size"
        if recipe.constant is not None:
            return self._change.initializer(np.array(recipe.constant, np.int64), name=name)
        inputs = [self.make(needed) for needed in recipe.inputs]
        return self._change.node(recipe.operator, inputs, attributes=dict(recipe.attributes))
