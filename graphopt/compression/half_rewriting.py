"""Carrying out a plan of 16-bit floats: operands, results, and conversions where types meet."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from graphopt.analysis import Operators
from graphopt.compression.half_formats import HalfFormat, narrowed
from graphopt.compression.half_operators import half_slots
from graphopt.compression.half_plan import HalfPlan
from graphopt.compression.half_stand_ins import LIMITING
from graphopt.compression.quantized_weights import remove_unread
from graphopt.ir import constant_tensor, opset_version
from graphopt.rewrite import Change, Editor, ShapeTable

__all__ = ["HalfRewriter"]

_BOUNDS_ARE_INPUTS = 11  # since which opset Clip takes them so


class HalfRewriter:
    """Makes one rewrite of a whole plan: half of it would join values of different types.

    Args:
        model: The model.
        edit: Its editor.
        half: The 16-bit type.
        plan: What becomes of the main graph.
        shapes: Types of its values.
    """

    def __init__(
        self, model: ir.Model, edit: Editor, half: HalfFormat, plan: HalfPlan, shapes: ShapeTable
    ) -> None:
        self._model = model
        self._edit = edit
        self._half = half
        self._plan = plan
        self._shapes = shapes
        self._operators = Operators(model)
        self._opset = opset_version(model)
        self._narrow: dict[tuple[ir.Value, bool], ir.Value] = {}
        self._home = set(plan.values)
        # What is put before the same node keeps its order; what is put behind one would not.
        ordered = list(model.graph)
        self._following = dict(itertools.pairwise(ordered))

    def run(self, *, keeps_interface: bool) -> None:
        """Convert; with ``keeps_interface`` inputs and outputs of the model stay float32."""
        if not self._plan.nodes:
            return
        because = f"{len(self._plan.nodes)} operators compute in {self._half.name}"
        read = [v for node in self._plan.nodes for v in node.inputs if v is not None]
        read += [v for node in self._plan.followers for v in node.inputs if v is not None]
        with self._edit.rewrite(self._model.graph, because=because) as change:
            if not keeps_interface:
                self._narrow_inputs(change)
            wide = self._wide_uses()
            for node in (*self._plan.nodes, *self._plan.followers):
                self._convert(change, node)
            for value, uses in wide.items():
                self._restore(change, value, uses, keeps_interface=keeps_interface)
            if not keeps_interface:
                self._narrow_outputs(change)
        remove_unread(self._model, self._edit, read)

    # -- interface ---------------------------------------------------------------------------

    def _narrow_inputs(self, change: Change) -> None:
        for value in self._model.graph.inputs:
            if self._is_float(value) and not value.is_initializer():
                change.set_value_info(value, dtype=self._half.dtype)
                self._home.add(value)

    def _narrow_outputs(self, change: Change) -> None:
        for value in tuple(self._model.graph.outputs):
            if value in self._home or not self._is_float(value) or value.producer() is None:
                continue
            uses = tuple(value.uses())
            self._return(change, value, self._cast(change, value, self._half.dtype))
            for reader, index in uses:
                change.set_input(reader, index, value)

    # -- operands ----------------------------------------------------------------------------

    def _convert(self, change: Change, node: ir.Node) -> None:
        for index, value in self._narrow_operands(node):
            narrow = self._narrowed(change, node, value)
            if narrow is not value:
                change.set_input(node, index, narrow)
        if node not in self._plan.nodes:
            return
        for value in node.outputs:
            if value in self._plan.values:
                change.set_value_info(value, dtype=self._half.dtype)
        if node.op_type == "Cast" and not node.domain:
            change.set_attributes(node, {"to": self._half.dtype})
        if node.op_type == "ConstantOfShape":
            filling = node.attributes.get("value")
            array = np.zeros(1, np.float32) if filling is None else filling.as_tensor().numpy()
            stored = narrowed(array, self._half, self._half.mask)
            change.set_attributes(node, {"value": ir.tensor(stored)})

    def _narrow_operands(self, node: ir.Node) -> Iterator[tuple[int, ir.Value]]:
        slots = half_slots(node, self._operators, self._half)
        assert slots is not None  # the plan has asked
        for index, (value, can) in enumerate(zip(node.inputs, slots.inputs, strict=False)):
            if value is not None and can and (value in self._home or self._is_float(value)):
                yield index, value

    def _narrowed(self, change: Change, node: ir.Node, value: ir.Value) -> ir.Value:
        """Return what holds ``value`` in 16 bits; made once for all readers."""
        if value in self._home:
            return value
        tensor = constant_tensor(value)
        is_limit = tensor is not None and node.op_type in LIMITING
        key = (value, is_limit)
        if key not in self._narrow:
            if tensor is None:
                self._narrow[key] = self._cast_down(change, value)
            else:
                beyond = None if is_limit else self._half.mask
                array = narrowed(tensor.numpy(), self._half, beyond)
                name = f"{value.name}_{self._half.name}"
                self._narrow[key] = change.initializer(array, name=name)
        return self._narrow[key]

    def _cast_down(self, change: Change, value: ir.Value) -> ir.Value:
        producer = value.producer()
        if producer is not None and producer.op_type == "Cast" and not producer.domain:
            source = producer.inputs[0]
            known = self._shapes.of(source)
            if source is not None and known is not None and known.dtype == self._half.dtype:
                return source
        if value not in self._plan.masks:
            return self._cast(change, value, self._half.dtype)
        # Computed in float32, a mask is beyond the type: -inf, and NaN in a row of nothing else.
        return self._cast(change, self._clipped(change, value), self._half.dtype, behind=value)

    def _clipped(self, change: Change, value: ir.Value) -> ir.Value:
        bound = self._half.mask
        name = f"{value.name}_limited"
        before, after = self._place(value)
        limits, bounds = {"min": -bound, "max": bound}, []
        if self._opset >= _BOUNDS_ARE_INPUTS:
            arrays = [np.array(limit, np.float32) for limit in limits.values()]
            bounds = [change.initializer(array, name=f"{name}_bound") for array in arrays]
            limits = {}
        return change.node(
            "Clip",
            [value, *bounds],
            attributes=limits,
            name=name,
            like=value,
            before=before,
            after=after,
        )

    # -- results -----------------------------------------------------------------------------

    def _wide_uses(self) -> dict[ir.Value, list[tuple[ir.Node, int]]]:
        """Return the readers that go on reading float32, for each value that becomes 16-bit."""
        narrow: set[tuple[ir.Node, int]] = {
            (node, index)
            for node in (*self._plan.nodes, *self._plan.followers)
            for index, _ in self._narrow_operands(node)
        }
        return {
            value: [(node, index) for node, index in value.uses() if (node, index) not in narrow]
            for value in self._home
        }

    def _restore(
        self,
        change: Change,
        value: ir.Value,
        uses: list[tuple[ir.Node, int]],
        *,
        keeps_interface: bool,
    ) -> None:
        is_returned = value.is_graph_output() and keeps_interface
        if not uses and not is_returned:
            return
        narrow = [use for use in value.uses() if tuple(use) not in uses]
        wide = self._cast(change, value, ir.DataType.FLOAT)
        if is_returned:
            self._return(change, value, wide)
            for reader, index in narrow:
                change.set_input(reader, index, value)
            return
        for reader, index in uses:
            change.set_input(reader, index, wide)

    def _return(self, change: Change, value: ir.Value, cast: ir.Value) -> None:
        """Return ``cast`` for ``value``, each with a type of its own."""
        is_half = value in self._home
        change.replace(value, cast)
        types = (self._half.dtype, ir.DataType.FLOAT)
        for item, dtype in zip((value, cast), types if is_half else types[::-1], strict=True):
            change.set_value_info(item, dtype=dtype)

    def _cast(
        self, change: Change, value: ir.Value, to: ir.DataType, behind: ir.Value | None = None
    ) -> ir.Value:
        before, after = self._place(behind or value)
        name = f"{(behind or value).name}_to_{to.name.lower()}"
        return change.node(
            "Cast", [value], attributes={"to": to}, name=name, before=before, after=after
        )

    def _place(self, value: ir.Value) -> tuple[ir.Node | None, ir.Node | None]:
        """Return the node before, or the node after which what reads ``value`` is put."""
        producer = value.producer()
        if producer is None:
            return self._model.graph[0], None
        following = self._following.get(producer)
        return (following, None) if following is not None else (None, producer)

    def _is_float(self, value: ir.Value) -> bool:
        known = self._shapes.of(value)
        return known is not None and known.dtype == ir.DataType.FLOAT
