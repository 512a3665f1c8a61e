"""One rewrite: operations collected first, applied together or not at all."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.errors import PassError
from graphopt.ir import Node, Value, as_tensor, forget_graphs, forget_nodes, may_hold_graphs
from graphopt.rewrite.attachment import (
    can_replace,
    copy_shape,
    detach_subgraphs,
    graph_of,
    insert_at_value,
    is_within_function,
    remove_node,
    take_over_output,
)
from graphopt.rewrite.journal import Touched
from graphopt.rewrite.names import NamePool

__all__ = ["Change"]

Place = ir.Node | ir.Value | ir.Graph

_INITIALIZERS_ALONE_SINCE = 4
"""The IR version since which an initializer need not be an input as well."""


class Change:
    """The operations of one rewrite, in the order in which they were asked for.

    Values returned by `node` and `initializer` exist at once and may be used in later operations;
    the model itself changes only when the editor applies the whole rewrite.

    Attributes:
        added: Names of the nodes and initializers that it creates.
        removed: Names of the nodes and initializers that it removes.
        changed: Names of the nodes and values that it modifies.
        touched: What is another one, once it is applied.
    """

    def __init__(self, model: ir.Model, names: NamePool, place: Place) -> None:
        self._model = model
        self._names = names
        self._place = place
        self._operations: list[Callable[[], None]] = []
        self._removals: list[ir.Node] = []
        self._new_nodes: set[ir.Node] = set()
        self._is_renaming = False
        self.added: list[str] = []
        self.removed: list[str] = []
        self.changed: list[str] = []
        self.touched = Touched()

    def __bool__(self) -> bool:
        return bool(self._operations or self._removals)

    def only_drops_weights(self) -> bool:
        """Tell whether all that it does is to remove initializers that nobody reads.

        No pass can do more afterwards than before: what nodes read and compute is as it was.
        """
        return not (self.added or self.changed or self._removals or self.touched)

    # -- creating ----------------------------------------------------------------------------

    def node(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        *,
        attributes: Mapping[str, Any] | None = None,
        domain: str = "",
        name: str | None = None,
        like: ir.Value | None = None,
        before: ir.Node | None = None,
        after: ir.Node | None = None,
    ) -> ir.Value:
        """Create a node with one output and return that output; see `multi_output_node`."""
        return self.multi_output_node(
            op_type,
            inputs,
            1,
            attributes=attributes,
            domain=domain,
            name=name,
            like=like,
            before=before,
            after=after,
        )[0]

    def multi_output_node(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        outputs: int,
        *,
        attributes: Mapping[str, Any] | None = None,
        domain: str = "",
        name: str | None = None,
        like: ir.Value | None = None,
        before: ir.Node | None = None,
        after: ir.Node | None = None,
        unused: Collection[int] = (),
    ) -> tuple[ir.Value, ...]:
        """Create a node before the place of the rewrite (after the producer of a value).

        Args:
            op_type: Operator.
            inputs: Input values; ``None`` for an optional input left out.
            outputs: How many outputs to create.
            attributes: Python values, arrays, graphs or `ir.Attr`.
            domain: Operator domain.
            name: Hint for the node's name; the output takes it too.
            like: A value whose type and shape the first output has.
            before: Put the node before this one instead.
            after: Put the node after this one instead.
            unused: Optional outputs that are left out, by index.

        Returns:
            The output values.
        """
        hint = name or f"{self._place_name()}_{op_type}"
        node_name = self._names.unique(hint)
        values = tuple(
            Value(name="" if index in unused else self._names.unique(f"{hint}_output"))
            for index in range(outputs)
        )
        if like is not None and values:
            values[0].type, values[0].shape = like.type, copy_shape(like.shape)
        self.added.append(node_name)

        def build() -> None:
            attrs = ir.convenience.convert_attributes(dict(attributes or {}))
            created = Node(domain, op_type, inputs, attrs, outputs=values, name=node_name)
            self._new_nodes.add(created)
            self.touched.nodes[created] = None
            self._insert(created, before, after)

        self._operations.append(build)
        return values

    def initializer(
        self,
        data: np.ndarray[Any, Any] | ir.TensorProtocol,
        *,
        name: str,
        graph: ir.Graph | None = None,
    ) -> ir.Value:
        """Create a constant in the main graph.

        It is a ``Constant`` node inside a function, and in models of an IR version before 4, in
        which every initializer has to be an input.

        Args:
            data: Array or tensor, of any shape.
            name: Hint for its name.
            graph: The graph that shall own it, where not the main graph.
        """
        unique = self._names.unique(name)
        tensor = as_tensor(data, unique)
        if graph is None and self._is_inside_function():
            return self.node("Constant", [], attributes={"value": tensor}, name=unique)
        owner = graph or self._model.graph
        if self._model.ir_version < _INITIALIZERS_ALONE_SINCE:
            first = owner[0] if len(owner) else None
            attributes = {"value": tensor}
            return self.node("Constant", [], attributes=attributes, name=unique, before=first)
        value = Value(
            name=unique,
            type=ir.TensorType(tensor.dtype),
            shape=ir.Shape(tensor.shape.numpy()),
            const_value=tensor,
        )
        self.added.append(unique)
        self._operations.append(lambda: owner.register_initializer(value))
        return value

    # -- rewiring ----------------------------------------------------------------------------

    def replace(self, old: ir.Value, new: ir.Value) -> None:
        """Let every reader of ``old`` read ``new``, nodes created by this rewrite excepted.

        Where the graph returns ``old``, it returns ``new`` under the old public name, type and
        shape; ask `can_replace` first.
        """
        self.changed.append(old.name or "")
        self._operations.append(lambda: self._replace(old, new))

    def _replace(self, old: ir.Value, new: ir.Value) -> None:
        for user, index in old.uses():
            if user not in self._new_nodes:
                user.replace_input_with(index, new)
                self.touched.replaced.append((user, old, new))
        if new.type is None:
            new.type = old.type
        if new.shape is None:
            new.shape = copy_shape(old.shape)
        if old.is_graph_output():
            self._take_over_output(old, new)

    def _take_over_output(self, old: ir.Value, new: ir.Value) -> None:
        if not can_replace(old, new):
            raise PassError(
                f"output `{old.name}` cannot be replaced by `{new.name}`",
                why="the graph must go on returning a value of its own under that name",
                hint="a pass asks `can_replace` first; please report this",
            )
        take_over_output(old, new, self._names.unique(f"{old.name}_replaced"))

    def set_input(self, node: ir.Node, index: int, value: ir.Value | None) -> None:
        """Let input ``index`` of ``node`` read ``value``; the input list grows as needed."""
        self.changed.append(node.name or node.op_type)

        def rewire() -> None:
            if index >= len(node.inputs):
                node.resize_inputs(index + 1)
            node.replace_input_with(index, value)

        self._operate(node, rewire)

    def set_output_count(self, node: ir.Node, count: int) -> None:
        """Drop unused trailing outputs of ``node``, or add new ones."""
        self.changed.append(node.name or node.op_type)
        self._operate(node, lambda: node.resize_outputs(count))

    def set_input_count(self, node: ir.Node, count: int) -> None:
        """Drop trailing inputs of ``node``, or add empty ones."""
        self.changed.append(node.name or node.op_type)
        self._operate(node, lambda: node.resize_inputs(count))

    def set_attributes(self, node: ir.Node, attributes: Mapping[str, Any]) -> None:
        """Set attributes of ``node``; ``None`` removes one."""
        self.changed.append(node.name or node.op_type)

        def assign() -> None:
            for key, value in attributes.items():
                if value is None:
                    node.attributes.pop(key, None)
                else:
                    node.attributes[key] = ir.convenience.convert_attribute(key, value)

        self._operate(node, assign)

    def set_operator(self, node: ir.Node, op_type: str, domain: str | None = None) -> None:
        """Turn ``node`` into another operator with the same inputs and outputs."""
        self.changed.append(node.name or node.op_type)

        def rename() -> None:
            node.op_type = op_type
            if domain is not None:
                node.domain = "" if domain == "ai.onnx" else domain

        self._is_renaming = True
        self._operate(node, rename)

    def _operate(self, node: ir.Node, operation: Callable[[], None]) -> None:
        self._operations.append(operation)
        self.touched.nodes[node] = None

    def set_value_info(
        self, value: ir.Value, *, dtype: ir.DataType | None = None, shape: ir.Shape | None = None
    ) -> None:
        """Declare another type or shape for an intermediate value, or for an input."""
        self.changed.append(value.name or "")
        self.touched.everything |= value.is_graph_input()  # all else is inferred from those

        def declare() -> None:
            if dtype is not None:
                value.type = ir.TensorType(dtype)
            if shape is not None:
                value.shape = shape

        self._operations.append(declare)

    def clear_value_info(self, value: ir.Value) -> None:
        """Forget the declared type and shape of an intermediate value."""
        self.changed.append(value.name or "")

        def forget() -> None:
            value.type, value.shape = None, None

        self._operations.append(forget)

    @property
    def model(self) -> ir.Model:
        """The model that is changed."""
        return self._model

    def then(
        self,
        operation: Callable[[], None],
        *,
        added: Sequence[str] = (),
        changed: Sequence[str] = (),
    ) -> None:
        """Carry out ``operation`` in its turn; the names of what it touches go into the journal."""
        self.added += added
        self.changed += changed
        self.touched.everything = True
        self._operations.append(operation)

    def fresh_name(self, hint: str) -> str:
        """Return a name made from ``hint`` that nothing in the model has."""
        return self._names.unique(hint)

    def can_own_initializers(self) -> bool:
        """Tell whether `initializer` makes initializers here, and not ``Constant`` nodes."""
        is_new = self._model.ir_version >= _INITIALIZERS_ALONE_SINCE
        return is_new and not self._is_inside_function()

    # -- weights, removal, model -------------------------------------------------------------

    def set_tensor(self, value: ir.Value, data: np.ndarray[Any, Any] | ir.TensorProtocol) -> None:
        """Give an initializer another tensor under the same name."""
        self.changed.append(value.name or "")

        def assign() -> None:
            tensor = as_tensor(data, value.name or "")
            value.const_value = tensor
            value.type, value.shape = ir.TensorType(tensor.dtype), ir.Shape(tensor.shape.numpy())
            self.touched.values[value] = None

        self._operations.append(assign)

    def remove(self, node: ir.Node) -> None:
        """Remove a node whose outputs nobody reads once the rewrite is applied."""
        self.removed.append(node.name or node.op_type)
        self._removals.append(node)

    def remove_initializer(self, value: ir.Value) -> None:
        """Remove an initializer that nobody reads."""
        self.removed.append(value.name or "")

        def drop() -> None:
            assert value.graph is not None
            del value.graph.initializers[value.name or ""]

        self._operations.append(drop)

    def set_opset(self, domain: str, version: int) -> None:
        """Import version ``version`` of an operator domain."""
        self.changed.append(f"opset {domain or 'ai.onnx'}")
        self._operations.append(lambda: self._model.opset_imports.update({domain: version}))
        self.touched.everything = True

    def set_ir_version(self, version: int) -> None:
        """Declare that the model is of IR version ``version``, at least 4 where it was.

        Raises:
            ValueError: Initializers would become overridable that were not, or the reverse.
        """
        before = self._model.ir_version
        if (before < _INITIALIZERS_ALONE_SINCE) != (version < _INITIALIZERS_ALONE_SINCE):
            raise ValueError(f"IR version {before} cannot become {version}")
        if version == before:
            return
        self.changed.append("IR version")
        self._operations.append(lambda: setattr(self._model, "ir_version", version))
        self.touched.everything = True

    # -- applying ----------------------------------------------------------------------------

    def apply(self) -> None:
        """Carry out the operations; removals come last."""
        for operation in self._operations:
            operation()
        for node in self._removals:
            detach_subgraphs(node)
            remove_node(node)
            self.touched.nodes[node] = None
        if self.touched.everything or any(map(may_hold_graphs, self.touched.nodes)):
            forget_graphs(self._model)
        elif self._new_nodes or self._removals or self._is_renaming:
            forget_nodes(self._model)

    def _insert(self, node: ir.Node, before: ir.Node | None, after: ir.Node | None) -> None:
        place: Place = before or after or self._place
        if isinstance(place, ir.Graph):
            place.append(node)
        elif isinstance(place, ir.Value):
            if insert_at_value(node, place, place.graph or self._model.graph):
                self._place = node.outputs[0]  # later nodes follow in order of creation
        elif after is not None:
            graph_of(place).insert_after(place, node)
        else:
            graph_of(place).insert_before(place, node)

    def _place_name(self) -> str:
        if isinstance(self._place, ir.Node):
            return self._place.name or self._place.op_type
        return self._place.name or "graph"

    def _is_inside_function(self) -> bool:
        return is_within_function(self._model, self._place)
