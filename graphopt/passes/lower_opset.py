"""Writing a model in an older opset, for older runtimes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from graphopt.analysis import is_annotated
from graphopt.analysis.older_forms import OLDEST_FORM, OlderForm, older_form
from graphopt.analysis.operator_bodies import OperatorBody, operator_body
from graphopt.ir import graphs, opset_version
from graphopt.rewrite import (
    Bindings,
    Change,
    Contract,
    Editor,
    Facts,
    Needs,
    Pass,
    Rounding,
    ShapeTable,
    copy_nodes,
    option,
)

__all__ = ["LowerOpset"]

# The first IR version whose files may hold a type (ONNX `onnx.proto`, `enum Version`).
_TYPES_SINCE = {
    ir.DataType.FLOAT8E4M3FN: 9,
    ir.DataType.FLOAT8E4M3FNUZ: 9,
    ir.DataType.FLOAT8E5M2: 9,
    ir.DataType.FLOAT8E5M2FNUZ: 9,
    ir.DataType.UINT4: 10,
    ir.DataType.INT4: 10,
    ir.DataType.FLOAT4E2M1: 11,
    ir.DataType.FLOAT8E8M0: 12,
    ir.DataType.INT2: 13,
    ir.DataType.UINT2: 13,
}
_OLDEST_IR_VERSION = 8  # functions came with it; what is older is written as it is


@dataclass(frozen=True, kw_only=True)
class LowerOpset(Pass):
    """Write the model in an older opset and IR version where that says the same.

    What it does
        Where the model imports a newer opset of the default domain than `opset` allows, every
        operator is taken back to the form that the older one has. From opset 13 on most versions
        only took more types; attributes that the older form lacks go where they have their
        default. An operator that is new, or that meant another thing, is replaced by the function
        that ONNX defines it by. All of it happens in one rewrite, or none. The IR version goes down
        where the file holds nothing that is newer. Nothing happens to a model that is old enough.

    When it refuses
        `no-older-form`   the operator is new, means another thing, or uses what was added; the way
                          out is to export with the older opset, or to leave out the pass that made
                          the operator. The opset stays as it is.
        `has-functions`   the model has functions, with opsets of their own.
        `annotated`       a quantization annotation describes an output of what would be replaced.
        `opset-too-old`   an opset below 13 is asked for, to which no way back is known.
        `new-type`        the file holds a type that the IR version lacks; it stays.

    What it keeps
        The model's inputs and outputs, their names, order, types and shapes; every weight. Where
        nothing is replaced by its definition, every bit.

    Cost
        Time O(nodes + bodies); memory O(nodes). No weight is read.

    Example
        options {opset=19}
        before  <ir_version: 10, opset_import: ["" : 22]> g (float[N] x) => (float[N] y) { y = Elu(x) }
        after   <ir_version: 10, opset_import: ["" : 19]> g (float[N] x) => (float[N] y) { y = Elu(x) }

    References
        ONNX `docs/Changelog.md` and `docs/Versioning.md`; bodies of functions in `docs/Operators.md`.
    """  # noqa: E501 - the example is one line of ONNX text

    name: ClassVar[str] = "lower-opset"
    contract: ClassVar[Contract] = Contract(
        numerics=Rounding(1e-4, "the definition adds in another order than the kernel: 1e-6 seen"),
        is_idempotent=True,
    )

    opset: int | None = option(
        None, help="newest opset of the default domain; the target's by default", minimum=1
    )
    ir_version: int | None = option(
        None, help="newest IR version; the target's by default", minimum=_OLDEST_IR_VERSION
    )

    def needs(self, model: ir.Model) -> Needs:  # noqa: ARG002
        """Ask for shapes and types."""
        return Needs(shapes=True)

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Lower the opset, then the IR version."""
        opset = self.opset or facts.target.maximum_opset
        if opset is not None and opset_version(model) > opset:
            _lower_opset(model, edit, opset, facts.shapes)
        version = self.ir_version or facts.target.maximum_ir_version
        if version is not None and model.ir_version > version:
            _lower_ir_version(model, edit, max(version, _OLDEST_IR_VERSION))


def _lower_opset(model: ir.Model, edit: Editor, version: int, shapes: ShapeTable) -> None:
    if model.functions:
        edit.refuse(model.graph, "has-functions")
        return
    if version < OLDEST_FORM:
        edit.refuse(model.graph, "opset-too-old", why=f"opset {version} was asked for")
        return
    plan = _Plan(model, version, shapes)
    for node, why in plan.obstacles:
        is_marked = any(is_annotated(value) for value in node.outputs)
        edit.refuse(node, "annotated" if is_marked and not why else "no-older-form", why=why)
    if not plan.obstacles:
        with edit.rewrite(model.graph, because=f"the device takes opset {version}") as change:
            plan.carry_out(change)
            change.set_opset("", version)


class _Plan:
    """What has to happen to every node; see `LowerOpset`."""

    def __init__(self, model: ir.Model, version: int, shapes: ShapeTable) -> None:
        self.obstacles: list[tuple[ir.Node, str]] = []
        self._forms: dict[ir.Node, OlderForm] = {}
        self._bodies: dict[ir.Node, OperatorBody] = {}
        current = opset_version(model)
        # What reads a value before what makes it: copies of bodies follow when that is replaced.
        for node in (node for graph in graphs(model) for node in reversed(graph)):
            if node.domain:
                continue
            form = older_form(node, current, version, shapes)
            if form.obstacle is None:
                self._forms[node] = form
                continue
            body = operator_body(node, current, version, shapes)
            why = form.obstacle if body is None else _obstacle_in(body, version)
            if why is not None or any(is_annotated(value) for value in node.outputs):
                self.obstacles.append((node, why or ""))
            elif body is not None:
                self._bodies[node] = body

    def carry_out(self, change: Change) -> None:
        """Collect the operations of all nodes."""
        for node, form in self._forms.items():
            if form.dropped:
                change.set_attributes(node, dict.fromkeys(form.dropped))
        for node, body in self._bodies.items():
            _expand(change, node, body)


def _obstacle_in(body: OperatorBody, version: int) -> str | None:
    """Return why a body cannot be written in an older opset; types are left to the verifier."""
    if body.version <= version:
        return None
    found = (older_form(node, body.version, version, None) for node in body.function)
    return next((form.obstacle for form in found if form.obstacle is not None), None)


def _expand(change: Change, node: ir.Node, body: OperatorBody) -> None:
    """Put the body in the place of the node."""
    missing = len(body.function.inputs) - len(node.inputs)
    bindings: Bindings = dict(
        zip(body.function.inputs, [*node.inputs, *(None,) * missing], strict=False)
    )
    copy_nodes(change, body.function, bindings, before=node, given=body.given)
    for old, inner in zip(node.outputs, body.function.outputs, strict=False):
        new = bindings.get(inner)
        if new is not None and (old.uses() or old.is_graph_output()):
            change.replace(old, new)
    change.remove(node)


def _lower_ir_version(model: ir.Model, edit: Editor, version: int) -> None:
    for dtype in _types(model):
        if _TYPES_SINCE.get(dtype, 0) > version:
            edit.refuse(
                model.graph, "new-type", why=f"{dtype.name} came with {_TYPES_SINCE[dtype]}"
            )
            return
    if model.ir_version > version:
        with edit.rewrite(model.graph, because=f"the device takes IR version {version}") as change:
            change.set_ir_version(version)


def _types(model: ir.Model) -> Iterator[ir.DataType]:
    """Yield the types of all declared values and weights."""
    for graph in graphs(model):
        values = [*graph.inputs, *graph.initializers.values()]
        values += [value for node in graph for value in node.outputs]
        for value in values:
            tensor = value.const_value
            dtype = tensor.dtype if tensor is not None else value.dtype
            if dtype is not None:
                yield dtype
