"""Collapsing of chains of Transpose and Reshape, whatever moves and joins dimensions between."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from graphopt.analysis import is_annotated
from graphopt.analysis.constant_targets import (
    added_or_removed_ones,
    is_same_target,
    reshape_target,
)
from graphopt.analysis.operands import int_attribute, operand, transpose_permutation
from graphopt.analysis.rearrangements import Move, Step, plans_of
from graphopt.analysis.symbolic_shapes import Dims, SymbolicShapes
from graphopt.ir import is_call, nodes_of_types
from graphopt.rewrite import (
    Change,
    Contract,
    Editor,
    Exact,
    Facts,
    Needs,
    Pass,
    ShapeTable,
    can_replace,
)

__all__ = ["CollapseRearrangements"]


@dataclass(frozen=True, kw_only=True)
class CollapseRearrangements(Pass):
    """Do with fewer operators what a chain of Transpose and Reshape does.

    What it does
        Follows the factors of sizes through chains of Transpose, Reshape, Flatten, Squeeze and
        Unsqueeze, and writes what a chain does as one Transpose, one Reshape, or one of each,
        where nodes are saved by that; values between that others read are kept for them. A
        Transpose that only moves dimensions of size 1 becomes a Reshape. A chain that does nothing
        is taken out.

    When it refuses
        `several-dimensions`  the shape between would have more than one dimension that is neither a
                              number nor one that stays in its place.
        `may-be-empty`        -1 would stand beside a dimension that may be 0, which is ambiguous.
        `annotated`           a quantization annotation describes the result.

    What it keeps
        The model's inputs and outputs, their names, order, types and shapes; every bit of them.

    Cost
        Time O(nodes + edges), after shape inference; memory O(nodes). Chains are looked at in
        pieces of 8 nodes. No weight above 64 elements is read.

    Example
        before  (float[B,2,5,8] x) => (float[B,2,8,5] z) <int64[3] s = {-1, 5, 8}, int64[4] t = {-1, 2, 8, 5}> { a = Reshape(x, s)  b = Transpose<perm = [0, 2, 1]>(a)  z = Reshape(b, t) }
        after   (float[B,2,5,8] x) => (float[B,2,8,5] z) <int64[3] s = {-1, 5, 8}, int64[4] t = {-1, 2, 8, 5}> { z = Transpose<perm = [0, 1, 3, 2]>(x) }

    References
        ONNX operator specifications; what PyTorch's exporter writes for the keys of attention.
    """  # noqa: E501 - the example is one line of ONNX text

    name: ClassVar[str] = "collapse-rearrangements"
    contract: ClassVar[Contract] = Contract(numerics=Exact(), is_idempotent=True)
    anchors: ClassVar[frozenset[str] | None] = frozenset({"Transpose"})

    def needs(self, model: ir.Model) -> Needs:  # noqa: ARG002
        """Ask for shapes."""
        return Needs(shapes=True)

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Collapse chains, the last link first, so that each is seen as a whole."""
        shapes = facts.shapes
        if not any(_may_be_less(node, shapes) for node in nodes_of_types(model, {"Transpose"})):
            return
        known = SymbolicShapes.kept(model, shapes)
        if known.version < _RESHAPE_HAS_INPUT_SINCE:
            return
        run = _Run(edit, known, {})
        is_news = True
        while is_news:  # once more after each round that found something: every edit saves nodes
            before = len(edit.journal.edits)
            for node in reversed(nodes_of_types(model, _LINKS)):
                # A chain that ends further down may have taken it along.
                if node.graph is not None and not is_call(node, model):
                    run.collapse(node)
            is_news = len(edit.journal.edits) > before


_MAX_LINKS = 8
_RESHAPERS = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze"})
_LINKS = _RESHAPERS | {"Transpose"}
_RESHAPE_HAS_INPUT_SINCE = 5


def _may_be_less(node: ir.Node, shapes: ShapeTable) -> bool:
    """Tell whether a Transpose is worth a closer look: it moves a 1, or is no chain of one node."""
    data = operand(node, 0)
    if _follows_a_link(node):
        return True
    known = shapes.of(data)
    if known is not None and known.dims is not None and 1 in known.dims:
        return True
    return any(user.op_type in _LINKS for user, _ in node.outputs[0].uses())


def _follows_a_link(node: ir.Node) -> bool:
    data = operand(node, 0)
    producer = None if data is None else data.producer()
    return producer is not None and producer.op_type in _LINKS


@dataclass(frozen=True)
class _Operator:
    """What to put in the place of a chain, in order.

    Attributes:
        op_type: Transpose, Reshape, Squeeze or Unsqueeze.
        parameter: The permutation, shape or axes; for a Reshape also the value of a shape.
        dims: Dimensions of the result.
    """

    op_type: str
    parameter: tuple[int, ...] | ir.Value
    dims: Dims


@dataclass(frozen=True)
class _Plan:
    """What to put in the place of the last nodes of a chain.

    Attributes:
        source: The value to begin with.
        operators: What to do with it.
        dead: Nodes that nobody reads afterwards, the last one first.
    """

    source: ir.Value
    operators: tuple[_Operator, ...]
    dead: tuple[ir.Node, ...]

    @property
    def gain(self) -> tuple[int, int]:
        """Nodes saved, then Transposes saved."""
        before = sum(node.op_type == "Transpose" for node in self.dead)
        after = sum(operator.op_type == "Transpose" for operator in self.operators)
        nodes = 1 if self.names_an_output else len(self.operators)
        return len(self.dead) - nodes, before - after

    @property
    def names_an_output(self) -> bool:
        """Tell whether nothing is left to do but to give the source the name of an output."""
        return not self.operators and not can_replace(self.dead[0].outputs[0], self.source)


def _saves(steps: list[Step], dead: tuple[ir.Node, ...]) -> bool:
    """Tell whether steps are fewer than the nodes that they replace, or move elements less often.

    Most chains are as short as can be, which is cheaper to see before operators are looked for.
    """
    if len(steps) != len(dead):
        return len(steps) < len(dead)
    before = sum(node.op_type == "Transpose" for node in dead)
    return sum(step.permutation is not None for step in steps) < before


def _moves_sizes(dims: Dims, kind: str, given: Dims) -> bool:
    """Tell of one node whether it moves more than ones: then nothing less does what it does."""
    axes = [axis for axis in given if isinstance(axis, int)]
    if kind != "Transpose" or sorted(axes) != list(range(len(dims))):
        return False
    moved = [axis for axis in axes if dims[axis] != 1]
    return moved != sorted(moved)


@dataclass(frozen=True)
class _Run:
    edit: Editor
    known: SymbolicShapes
    vectors: dict[tuple[int, ...], ir.Value]

    def collapse(self, last: ir.Node) -> None:
        """Collapse the chain that ends in ``last``, where that saves something."""
        if last.op_type != "Transpose" and not _follows_a_link(last):
            return  # of a lone one that moves nothing there is nothing to say
        refusals: list[str] = []
        plans = [plan for plan in self._plans(last, refusals) if plan.gain > (0, 0)]
        if not plans:
            for slug in refusals[:1]:
                self.edit.refuse(last, slug)
            return
        if is_annotated(last.outputs[0]):
            self.edit.refuse(last, "annotated")
            return
        self._carry_out(max(plans, key=lambda plan: plan.gain), last)

    def _plans(self, last: ir.Node, refusals: list[str]) -> Iterator[_Plan]:
        """Yield a plan for each value of the chain that it could begin with, nearest first."""
        links: list[ir.Node] = []
        dead: list[ir.Node] = []
        moves: tuple[Move, ...] = ()
        has_moved = False
        node: ir.Node | None = last
        while node is not None and len(links) < _MAX_LINKS:
            source, move = operand(node, 0), self._move(node)
            if source is None or move is None:
                return
            if len(dead) == len(links) and (not links or _is_read_by(node, links[-1])):
                dead.append(node)
            links.append(node)
            moves = (move, *moves)
            has_moved = has_moved or node.op_type == "Transpose"
            if has_moved:
                yield from self._plan(source, last, moves, tuple(dead), refusals)
            producer = source.producer()
            # A loop would do again and again what is done once outside.
            is_next = producer is not None and producer.graph is last.graph
            node = producer if is_next and producer is not None and _is_plain(producer) else None

    def _plan(
        self,
        source: ir.Value,
        last: ir.Node,
        moves: tuple[Move, ...],
        dead: tuple[ir.Node, ...],
        refusals: list[str],
    ) -> Iterator[_Plan]:
        dims = self.known.dims(source)
        if dims is None or (len(moves) == 1 and _moves_sizes(dims, *moves[0])):
            return
        for steps in self._step_plans(dims, moves, len(dead)):
            if len(steps) > len(dead) or (steps and not _saves(steps, dead)):
                return
            operators = self._operators(dims, steps, last)
            if not isinstance(operators, str):
                yield _Plan(source, operators, dead)
                return
            if len(steps) < len(dead):
                refusals.append(operators)

    def _move(self, node: ir.Node) -> Move | None:
        """Return what a link does, or ``None`` where that is not to be told."""
        kind, given = "Reshape", self.known.dims(node.outputs[0])
        if node.op_type == "Transpose":
            kind = node.op_type
            given = transpose_permutation(node, self.known.rank(node.inputs[0]))
        return None if given is None else (kind, given)

    def _step_plans(self, dims: Dims, moves: tuple[Move, ...], at_most: int) -> list[list[Step]]:
        """Return `plans_of` a chain; layers repeat, and so do runs of this pass."""
        key = (plans_of, dims, moves, at_most)
        found: list[list[Step]] | None = self.known.memo.get(key)
        if found is None:
            found = self.known.memo[key] = plans_of(dims, moves, at_most)
        return found

    # -- operators for the steps ---------------------------------------------------------------

    def _operators(
        self, dims: Dims, steps: list[Step], last: ir.Node
    ) -> tuple[_Operator, ...] | str:
        found: list[_Operator] = []
        for step in steps:
            if step.permutation is not None:
                found.append(_Operator("Transpose", step.permutation, step.dims))
            else:
                operator = self._reshape(dims, step, last if step is steps[-1] else None)
                if isinstance(operator, str):
                    return operator
                found.append(operator)
            dims = step.dims
        return tuple(found)

    def _reshape(self, dims: Dims, step: Step, last: ir.Node | None) -> _Operator | str:
        """Return the operator that reshapes, or the slug of the reason why there is none."""
        target = reshape_target(dims, step.dims, self._computed_axis(last))
        if isinstance(target, tuple):
            return _Operator("Reshape", target, step.dims)
        ones = added_or_removed_ones(dims, step.dims)
        if ones is not None:
            return _Operator(*ones, step.dims)
        if last is not None and last.inputs[1:] and self._keeps_its_target(last, dims):
            shape = last.inputs[1]
            assert shape is not None
            return _Operator("Reshape", shape, step.dims)
        return target

    def _computed_axis(self, node: ir.Node | None) -> int | None:
        """Return the axis for which the Reshape is given -1, so that no other one is 0."""
        if node is None or node.op_type != "Reshape":
            return None
        wanted = self.known.elements(operand(node, 1))
        if wanted is None or int_attribute(node, "allowzero", 0) != 0:
            return None
        items = wanted.tolist()
        return items.index(-1) if items.count(-1) == 1 else None

    def _keeps_its_target(self, node: ir.Node, dims: Dims) -> bool:
        """Tell whether the target of the Reshape means the same for a value of ``dims``."""
        wanted = self.known.elements(operand(node, 1)) if node.op_type == "Reshape" else None
        allow_zero = int_attribute(node, "allowzero", 0)
        if wanted is None or wanted.ndim != 1 or allow_zero is None:
            return False
        return bool(allow_zero) or is_same_target(dims, wanted.tolist())

    # -- carrying out --------------------------------------------------------------------------

    def _carry_out(self, plan: _Plan, last: ir.Node) -> None:
        result = last.outputs[0]
        with self.edit.rewrite(last, because=_reason(plan)) as change:
            value = plan.source
            for operator in plan.operators:
                like = result if operator is plan.operators[-1] else None
                value = self._node(change, operator, value, last, like=like)
                self.known.learn(value, operator.dims)
            if plan.names_an_output:
                value = change.node("Identity", [value], like=result)
                self.known.alias(value, result)
            change.replace(result, value)
            for node in plan.dead:
                change.remove(node)

    def _node(
        self,
        change: Change,
        operator: _Operator,
        value: ir.Value,
        last: ir.Node,
        like: ir.Value | None,
    ) -> ir.Value:
        op_type, parameter = operator.op_type, operator.parameter
        if isinstance(parameter, ir.Value):
            allow_zero = last.attributes.get("allowzero")
            kept = {} if allow_zero is None else {"allowzero": allow_zero}
            return change.node(op_type, [value, parameter], attributes=kept, like=like)
        axes = "axes" if self.known.version < _AXES_ARE_INPUT_SINCE else ""
        name = {"Reshape": "", "Transpose": "perm"}.get(op_type, axes)
        if name:
            return change.node(op_type, [value], attributes={name: parameter}, like=like)
        if parameter not in self.vectors:
            array = np.array(parameter, np.int64)
            name = "shape" if op_type == "Reshape" else "axes"
            vector = change.initializer(array, name=f"{last.outputs[0].name}_{name}")
            self.vectors[parameter] = vector
        return change.node(op_type, [value, self.vectors[parameter]], like=like)


_AXES_ARE_INPUT_SINCE = 13


def _is_read_by(node: ir.Node, reader: ir.Node) -> bool:
    """Tell whether ``reader`` alone reads what ``node`` computes."""
    output = node.outputs[0]
    return not output.is_graph_output() and all(user is reader for user, _ in output.uses())


def _is_plain(node: ir.Node) -> bool:
    return not node.domain and node.op_type in _LINKS and not is_annotated(node.outputs[0])


def _reason(plan: _Plan) -> str:
    before = " of ".join(node.op_type for node in plan.dead)
    return f"{before} is {' and '.join(map(_name, plan.operators)) or 'nothing'}"


def _name(operator: _Operator) -> str:
    if isinstance(operator.parameter, ir.Value):
        return operator.op_type
    return f"{operator.op_type} {list(operator.parameter)}"
