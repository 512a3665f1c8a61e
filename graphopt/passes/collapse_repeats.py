"""Repetition of slices by one Gather."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis import Operators, is_annotated
from graphopt.analysis.operands import operand, squeeze_axes
from graphopt.analysis.orphans import orphans
from graphopt.analysis.symbolic_table import SymbolicTable
from graphopt.ir import graphs
from graphopt.rewrite import Contract, Editor, Exact, Facts, Needs, Pass, ShapeTable

__all__ = ["CollapseRepeats"]

_MAX_INDICES = 4096


class _Chain(NamedTuple):
    """An Unsqueeze, the Expand of the new axis, and the Reshape that joins it to a neighbour."""

    source: ir.Value
    axis: int
    expand: ir.Node
    reshape: ir.Node


@dataclass(frozen=True, kw_only=True)
class CollapseRepeats(Pass):
    """Repeat slices of a tensor by one Gather.

    What it does
        Unsqueeze, Expand of the new axis and a Reshape that joins it to one of its neighbours are
        how frameworks repeat slices of a tensor: each slice several times, as attention does with
        heads of keys and values that several queries share, or all of them several times. A Gather
        along that axis, with constant indices, makes the same copy at once, in half the time.
        Functions of the model are left alone.

    When it refuses
        `unknown-shapes`  sizes do not prove that nothing but this axis is repeated.
        `read-between`    somebody else reads the repeated axis before it is joined.
        `annotated`       a quantization annotation describes the result.

    What it keeps
        The model's inputs and outputs, their names, order, types and shapes; every bit of them.

    Cost
        Time O(nodes), and that of shape analysis where there is such a chain. No weight is read.

    Example
        before  (float[B,2,T] x) => (float[B,4,T] z) <int64[1] a = {2}, int64[4] e = {1, 1, 2, 1}, int64[3] t = {0, 4, -1}> { u = Unsqueeze(x, a)  v = Expand(u, e)  z = Reshape(v, t) }
        after   (float[B,2,T] x) => (float[B,4,T] z) <int64[4] i = {0, 0, 1, 1}, int64[1] a = {2}, int64[4] e = {1, 1, 2, 1}, int64[3] t = {0, 4, -1}> { z = Gather<axis=1>(x, i) }

    References
        Ainslie et al., GQA, arXiv 2305.13245, section 2.2; ONNX operator specification of Gather.
    """  # noqa: E501 - the example is one line of ONNX text

    name: ClassVar[str] = "collapse-repeats"
    contract: ClassVar[Contract] = Contract(numerics=Exact(), is_idempotent=True)
    anchors: ClassVar[frozenset[str] | None] = frozenset({"Expand"})

    def needs(self, model: ir.Model) -> Needs:  # noqa: ARG002
        """Ask for shapes."""
        return Needs(shapes=True)

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Look for chains first: most models have none, and need no analysis."""
        operators = Operators(model)
        last = [
            node
            for graph in graphs(model)
            if not operators.is_in_function(graph)
            for node in graph
            if _chain_to(node) is not None
        ]
        shapes = SymbolicTable(model, facts.shapes) if last else None
        for node in last:
            chain = _chain_to(node)  # it may start where the last one ended
            assert chain is not None
            assert shapes is not None
            indices = _indices(chain, shapes)
            if isinstance(indices, str):
                edit.refuse(chain.reshape, indices)
            elif len(chain.expand.outputs[0].uses()) > 1:
                edit.refuse(chain.reshape, "read-between")
            elif is_annotated(chain.reshape.outputs[0]):
                edit.refuse(chain.reshape, "annotated")
            else:
                _gather(chain, indices, operators, shapes, edit)


def _chain_to(reshape: ir.Node) -> _Chain | None:
    expand = _producer(operand(reshape, 0), "Expand") if reshape.op_type == "Reshape" else None
    unsqueeze = _producer(operand(expand, 0), "Unsqueeze") if expand is not None else None
    if expand is None or unsqueeze is None or reshape.domain:
        return None
    axes, source = squeeze_axes(unsqueeze), operand(unsqueeze, 0)
    if axes is None or len(axes) != 1 or source is None or expand.outputs[0].is_graph_output():
        return None
    return _Chain(source, axes[0], expand, reshape)


def _indices(chain: _Chain, shapes: ShapeTable) -> tuple[int, npt.NDArray[Any]] | str:
    """Return the axis to gather along and the indices, or why there are none."""
    known = [shapes.of(one) for one in (chain.source, *_results(chain))]
    before, expanded, after = (None if one is None else one.dims for one in known)
    if before is None or expanded is None or after is None or len(expanded) != len(before) + 1:
        return "unknown-shapes"
    axis = chain.axis % len(expanded)
    count = expanded[axis]
    if None in before or expanded[:axis] + expanded[axis + 1 :] != before:
        return "unknown-shapes"
    for joined in (axis - 1, axis):
        size = before[joined] if 0 <= joined < len(before) else None
        if not isinstance(size, int) or not isinstance(count, int) or size * count > _MAX_INDICES:
            continue
        if after == (*before[:joined], size * count, *before[joined + 1 :]):
            slices = np.arange(size, dtype=np.int64)
            return joined, np.repeat(slices, count) if joined < axis else np.tile(slices, count)
    return "unknown-shapes"


def _results(chain: _Chain) -> tuple[ir.Value, ir.Value]:
    return chain.expand.outputs[0], chain.reshape.outputs[0]


def _gather(
    chain: _Chain,
    found: tuple[int, npt.NDArray[Any]],
    operators: Operators,
    shapes: SymbolicTable,
    edit: Editor,
) -> None:
    axis, indices = found
    result = chain.reshape.outputs[0]
    with edit.rewrite(chain.reshape, because=f"repeats slices along axis {axis}") as change:
        given = [chain.source, change.initializer(indices, name="repeats")]
        made = change.node("Gather", given, attributes={"axis": axis}, like=result)
        change.replace(result, made)
        shapes.alias(made, result)
        for node in orphans([chain.reshape], [chain.source], operators):
            change.remove(node)


def _producer(value: ir.Value | None, op_type: str) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == op_type and not node.domain else None
