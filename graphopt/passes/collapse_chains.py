"""Collapsing chains of operators that only move or convert data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis import Operators, is_annotated
from graphopt.analysis.axis_chains import merge_axes
from graphopt.analysis.casts import is_direct_cast_equal
from graphopt.analysis.operands import (
    cast_target,
    operand,
    reshape_target,
    transpose_permutation,
)
from graphopt.analysis.shape_proofs import (
    reshape_target_of,
    same_shape_and_count,
    target_without_copies,
)
from graphopt.ir import graphs
from graphopt.rewrite import (
    Change,
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

__all__ = ["CollapseChains"]


@dataclass(frozen=True, kw_only=True)
class CollapseChains(Pass):
    """Turn chains of data-moving operators into one operator, or none.

    What it does
        Transpose of Transpose becomes one Transpose. Reshape, Flatten, Squeeze and Unsqueeze of one
        another become the last one, one with merged axes, or one Reshape to a constant shape. Cast
        of Cast becomes one Cast where the first loses nothing. Where the chain restores what it
        started from, it is taken out.

    When it refuses
        `lossy-cast`          the first Cast may lose bits, or casting at once might round or
                              overflow in another way.
        `may-copy-dimension`  the target of the last Reshape may hold a 0, which copies a dimension
                              of the value between.
        `names-an-output`     the chain restores an input, or an output under another name.
        `annotated`           a quantization annotation describes the value between or the result.

    What it keeps
        The model's inputs and outputs, their names, order, types and shapes; every bit of them. A
        value between that others read stays for them.

    Cost
        Time O(nodes + edges), after shape inference; memory O(nodes). No weight above 64 elements
        is read.

    Example
        before  (float[A,B,C] x) => (float[B,C,A] z) { y = Transpose<perm=[1,0,2]>(x)  z = Transpose<perm=[0,2,1]>(y) }
        after   (float[A,B,C] x) => (float[B,C,A] z) { z = Transpose<perm=[1,2,0]>(x) }

    References
        ONNX operator specifications; IEEE 754 for conversions that lose nothing.
    """  # noqa: E501 - the example is one line of ONNX text

    name: ClassVar[str] = "collapse-chains"
    contract: ClassVar[Contract] = Contract(numerics=Exact(), is_idempotent=True)

    def needs(self, model: ir.Model) -> Needs:  # noqa: ARG002
        """Ask for shapes."""
        return Needs(shapes=True)

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Collapse chains, the first link first, so that long chains need one walk."""
        operators = Operators(model)
        shapes = _Shapes(facts.shapes)
        postponed: list[ir.Node] = []
        for graph in reversed(list(graphs(model))):  # subgraphs read what their owners settled on
            settled = ((node, _collapse(node, operators, shapes, edit)) for node in graph)
            postponed.extend(node for node, slug in settled if slug == "names-an-output")
        _retry(postponed, operators, shapes, edit)


def _retry(postponed: list[ir.Node], operators: Operators, shapes: _Shapes, edit: Editor) -> None:
    """Try again while it helps: the other readers of the value between may be gone."""
    while postponed:
        left = [node for node in postponed if _collapse(node, operators, shapes, edit)]
        if len(left) == len(postponed):
            break
        postponed = left
    for node in postponed:
        edit.refuse(node, "names-an-output")


class _Shapes:
    """The shape table, and the shapes of values that this run created."""

    def __init__(self, table: ShapeTable) -> None:
        self._table = table
        self._new: dict[ir.Value, ValueShape] = {}

    def of(self, value: ir.Value | None) -> ValueShape | None:
        known = self._table.of(value)
        return known if known is not None or value is None else self._new.get(value)

    def alias(self, new: ir.Value, old: ir.Value) -> None:
        known = self.of(old)
        if known is not None:
            self._new[new] = known


@dataclass(frozen=True)
class _Chain:
    """Two nodes, the second reading the first; ``source`` is what the first reads."""

    first: ir.Node
    second: ir.Node
    shapes: _Shapes
    version: int  # opset of the second

    @property
    def source(self) -> ir.Value | None:
        return operand(self.first, 0)

    @property
    def source_shape(self) -> ValueShape | None:
        return self.shapes.of(self.source)

    @property
    def middle_shape(self) -> ValueShape | None:
        return self.shapes.of(self.first.outputs[0])

    @property
    def result_shape(self) -> ValueShape | None:
        return self.shapes.of(self.second.outputs[0])

    @property
    def middle_is_shared(self) -> bool:
        middle = self.first.outputs[0]
        return middle.is_graph_output() or len(middle.uses()) > 1


@dataclass(frozen=True)
class _Skip:
    """Let the second node read the source; its parameters still mean the same."""


@dataclass(frozen=True)
class _Restore:
    """The result is the source."""


@dataclass(frozen=True)
class _Replace:
    """One new node in the place of the second; integer parameters as attribute or as input."""

    op_type: str
    attribute: str | None
    numbers: tuple[int, ...] | None


_Plan = _Skip | _Restore | _Replace | str | None
"""What to do; a refusal's slug, or ``None`` where nothing can be said against or for it."""


def _collapse(node: ir.Node, operators: Operators, shapes: _Shapes, edit: Editor) -> str | None:
    """Collapse ``node`` with what it reads, as often as that goes; return why not further.

    Refusals are recorded, but for `names-an-output`, which may change while others collapse.
    """
    current: ir.Node | None = node
    while current is not None:
        chain = _chain_to(current, operators, shapes)
        plan = None if chain is None else _checked_plan(chain)
        if chain is None or plan is None:
            return None
        if isinstance(plan, str):
            if plan != "names-an-output":
                edit.refuse(current, plan)
            return plan
        current = _carry_out(plan, chain, edit)
    return None


def _chain_to(node: ir.Node, operators: Operators, shapes: _Shapes) -> _Chain | None:
    """Return the chain that ends in ``node``, where there is a rule for it."""
    rules = _RULES.get(node.op_type) if not node.domain else None
    if rules is None:
        return None
    data = operand(node, 0)
    first = data.producer() if data is not None else None
    if first is None or first.domain or not first.inputs:
        return None
    if first.op_type not in rules.before or operand(first, 0) is None:
        return None
    return _Chain(first, node, shapes, operators.version(node) or 1)


def _checked_plan(chain: _Chain) -> _Plan:
    first, node, source = chain.first, chain.second, chain.source
    plan = _RULES[node.op_type].plan(chain)
    if plan is None or isinstance(plan, str) or source is None:
        return plan
    if is_annotated(first.outputs[0]) or is_annotated(node.outputs[0]):
        return "annotated"
    if isinstance(plan, _Restore) and not can_replace(node.outputs[0], source):
        is_gain = not _is_read_elsewhere(first, node)
        return _Replace("Identity", None, None) if is_gain else "names-an-output"
    return plan


def _carry_out(plan: _Skip | _Restore | _Replace, chain: _Chain, edit: Editor) -> ir.Node | None:
    first, node, source = chain.first, chain.second, chain.source
    result = node.outputs[0]
    assert source is not None
    is_first_dead = first.graph is node.graph and not _is_read_elsewhere(first, node)
    replacement: ir.Value | None = None
    with edit.rewrite(node, because=f"{node.op_type} of {first.op_type}") as change:
        if isinstance(plan, _Skip):
            change.set_input(node, 0, source)
        else:
            built = source if isinstance(plan, _Restore) else _build(plan, source, result, change)
            replacement = built
            chain.shapes.alias(built, result)
            change.replace(result, built)
            change.remove(node)
        if is_first_dead:
            change.remove(first)
    if isinstance(plan, _Skip):
        return node if node.inputs[0] is source else None
    return replacement.producer() if isinstance(plan, _Replace) and replacement else None


def _is_read_elsewhere(first: ir.Node, node: ir.Node) -> bool:
    if any(output.is_graph_output() for output in first.outputs):
        return True
    return any(user is not node for output in first.outputs for user, _ in output.uses())


def _build(plan: _Replace, source: ir.Value, result: ir.Value, change: Change) -> ir.Value:
    if plan.numbers is None:
        return change.node(plan.op_type, [source], like=result)
    if plan.attribute is not None:
        attributes = {plan.attribute: list(plan.numbers)}
        return change.node(plan.op_type, [source], attributes=attributes, like=result)
    numbers = change.initializer(
        np.array(plan.numbers, np.int64), name=f"{result.name}_{plan.op_type.lower()}"
    )
    return change.node(plan.op_type, [source, numbers], like=result)


# -- transpositions and conversions -----------------------------------------------------------


def _plan_transpose(chain: _Chain) -> _Plan:
    inner, outer = chain.first, chain.second
    known = next((n for n in (inner, outer) if "perm" in n.attributes), None)
    rank = _rank(chain.middle_shape)
    if known is not None and rank is None:
        permutation = transpose_permutation(known, None)
        rank = None if permutation is None else len(permutation)
    before, after = transpose_permutation(inner, rank), transpose_permutation(outer, rank)
    if before is None or after is None:
        return None
    combined = tuple(before[axis] for axis in after)
    if combined == tuple(range(len(combined))):
        return _Restore()
    return _Replace("Transpose", "perm", combined)


def _rank(shape: ValueShape | None) -> int | None:
    return None if shape is None or shape.dims is None else len(shape.dims)


def _plan_cast(chain: _Chain) -> _Plan:
    source = chain.source_shape
    middle, target = cast_target(chain.first), cast_target(chain.second)
    if source is None or source.dtype is None or middle is None or target is None:
        return None
    if not is_direct_cast_equal(source.dtype, middle, target):
        return "lossy-cast"
    return _Restore() if target == source.dtype else _Skip()


# -- operators that keep the order of the elements ---------------------------------------------

_INPUT_SHAPE_SINCE = 5
_INPUT_AXES_SINCE = 13


def _plan_reshape(chain: _Chain) -> _Plan:
    if same_shape_and_count(chain.source_shape, chain.result_shape):
        return _Restore()
    asked = reshape_target(chain.second)
    if asked is not None and (asked[1] or 0 not in asked[0]):
        return _Skip()
    allow_zero = chain.second.attributes.get("allowzero")
    if asked is None and allow_zero is not None and allow_zero.value == 1:
        return _Skip()
    shapes = (chain.middle_shape, chain.source_shape)
    resolved = None if asked is None else target_without_copies(asked[0], *shapes)
    if resolved is not None and chain.version >= _INPUT_SHAPE_SINCE:
        return _Replace("Reshape", None, resolved)
    return "may-copy-dimension"


def _plan_axes(chain: _Chain) -> _Plan:
    """Plan a Squeeze, Unsqueeze or Flatten of an operator that keeps the order of the elements."""
    if same_shape_and_count(chain.source_shape, chain.result_shape):
        return _Restore()
    merged = _merge_axes(chain)
    if merged is not None:
        return merged
    target = reshape_target_of(chain.result_shape)
    if target is None or chain.middle_is_shared or chain.version < _INPUT_SHAPE_SINCE:
        return None
    return _Replace("Reshape", None, target)


def _merge_axes(chain: _Chain) -> _Plan:
    """Merge two of Squeeze and Unsqueeze whose axes are constant."""
    merged = merge_axes(chain.first, chain.second, _rank(chain.middle_shape))
    if merged is None:
        return None
    op_type, axes = merged
    if not axes:
        return _Restore()
    return _Replace(op_type, "axes" if chain.version < _INPUT_AXES_SINCE else None, axes)


@dataclass(frozen=True)
class _Rules:
    before: frozenset[str]
    plan: Callable[[_Chain], _Plan]


_ORDER_KEEPING = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze"})
_RULES: Mapping[str, _Rules] = {
    "Cast": _Rules(frozenset({"Cast"}), _plan_cast),
    "Flatten": _Rules(_ORDER_KEEPING, _plan_axes),
    "Reshape": _Rules(_ORDER_KEEPING, _plan_reshape),
    "Squeeze": _Rules(_ORDER_KEEPING, _plan_axes),
    "Transpose": _Rules(frozenset({"Transpose"}), _plan_transpose),
    "Unsqueeze": _Rules(_ORDER_KEEPING, _plan_axes),
}
