"""Structural rules that every model must keep, checked in one walk.

The walk carries what each name means at the current point, in the current scope. A value may be
used exactly where its name means that very value: this one look-up finds dangling values, broken
order, use outside the scope, and names that hide one another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx_ir as ir

from graphopt.errors import StructureMismatch
from graphopt.ir import may_hold_graphs, node_list, subgraphs_of, tensor_dims, use_count
from graphopt.verification.operators import (
    ABSENT,
    ValueKey,
    rule_or_fault,
    signature_faults,
    signature_of,
    value_key,
)

__all__ = ["check_structure", "structure_faults"]


def check_structure(model: ir.Model, *, where: str | None = None) -> None:
    """Check the structural rules of a whole model, its functions and subgraphs included.

    Args:
        model: The model.
        where: What the model is, for the message: a file, a pass.

    Raises:
        StructureMismatch: A rule is broken; the message holds the first fault and counts the rest.
    """
    faults = structure_faults(model)
    if not faults:
        return
    others = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    raise StructureMismatch(
        f"the model breaks a structural rule: {faults[0]}{others}",
        where=where,
        why="every value must be defined once, before its uses, and fit its operators",
    )


def structure_faults(model: ir.Model) -> list[str]:
    """Return every structural fault of a model, in the order of its nodes.

    Checked are: names unique in every scope they are visible in, uses of values that nothing
    defines, topological order, outputs defined by their own graph, initializers registered under
    their name with a tensor of their type and shape, use lists, opset imports, and for operators
    with a published schema their inputs, outputs, attributes and types. Time is O(nodes + edges);
    no weight is read.
    """
    functions = frozenset(model.functions)
    faults: list[str] = []
    # A function sees no name of the main graph: each has a walk of its own.
    for function in model.functions.values():
        title = f"function `{function.domain}::{function.name}`"
        walk = _Walk(function.opset_imports, functions, title)
        walk.check_graph(function.graph)
        faults += walk.finish()
    walk = _Walk(model.opset_imports, functions, "the graph")
    walk.check_graph(model.graph)
    walk.check_interface_types(model.graph)
    return faults + walk.finish()


_Own = dict[ir.Value, None]
"""The values that one graph defines, in order."""
_Hidden = dict[str, ir.Value]
"""What names that a graph defines meant around it."""


class _Walk:
    """One walk over a graph and its subgraphs."""

    def __init__(
        self, imports: Mapping[str, int], functions: frozenset[ir.OperatorIdentifier], title: str
    ) -> None:
        self._imports = imports
        self._functions = functions
        self._title = title
        self._faults: list[str] = []
        self._meaning: dict[str, ir.Value] = {}
        self._visible: dict[ir.Value, int] = {}  # values that their names mean; uses met of each
        self._passed: dict[ir.Value, int] = {}  # those of which that was so before
        self._strays: dict[ir.Value, int] = {}  # number of uses met where the value means nothing
        self._missing_imports: set[str] = set()

    def finish(self) -> list[str]:
        """Check the use lists against the uses that were met, and return all faults."""
        for value, regular in (*self._passed.items(), *self._visible.items()):
            met = regular + self._strays.get(value, 0)
            if use_count(value) != met:
                uses = value.uses()
                stale = [use for use in uses if use.node.graph is None]
                readers = ", ".join(f"`{use.node.name}`" for use in stale or uses)
                self._faults.append(
                    f"value `{value.name}` lists {len(uses)} uses, the model holds {met}"
                    f" (listed: {readers or 'none'})"
                )
        return self._faults

    def check_interface_types(self, graph: ir.Graph) -> None:
        """Check that every input and output of the main graph has a type."""
        for what, values in (("input", graph.inputs), ("output", graph.outputs)):
            for value in values:
                if value.type is None:
                    self._faults.append(f"{what} `{value.name}` of the graph has no type")

    def check_graph(self, graph: ir.Graph) -> tuple[_Own, _Hidden]:
        """Check a graph in the scope that the walk has reached.

        Returns:
            The values that it defines, and what their names meant around it: `_leave` takes both.
        """
        own: _Own = {}
        hidden: _Hidden = {}
        for value in graph.inputs:
            self._define(value, own, hidden, "input")
        self._define_initializers(graph, own, hidden)
        for node in node_list(graph):
            self._check_node(node)
            if may_hold_graphs(node):
                for inner in subgraphs_of(node):
                    self._leave(*self.check_graph(inner))
            for value in node.outputs:
                if value.name != "":
                    self._define(value, own, hidden, "output of a node")
                elif use_count(value):
                    self._faults.append(f"{_label(node)} has a used output without a name")
        for value in graph.outputs:
            self._check_output(value, own)
        return own, hidden

    def _leave(self, own: _Own, hidden: _Hidden) -> None:
        """Let names mean again what they meant around a graph."""
        for value in own:
            name = value.name or ""
            if self._meaning.get(name) is value:
                self._passed[value] = self._visible.pop(value)
                del self._meaning[name]
        for name, earlier in hidden.items():
            self._meaning[name] = earlier
            self._visible[earlier] = self._passed.pop(earlier)

    def _define(self, value: ir.Value, own: _Own, hidden: _Hidden, what: str) -> None:
        name = value.name
        if not name:
            self._faults.append(f"an {what} of {self._title} has no name")
            return
        if name in self._meaning:
            self._hide(name, own, hidden, what)
        own[value] = None
        self._meaning[name] = value
        self._visible[value] = self._passed.pop(value, 0) if self._passed else 0

    def _hide(self, name: str, own: _Own, hidden: _Hidden, what: str) -> None:
        """Let ``name`` mean nothing, for it is defined again."""
        earlier = self._meaning[name]
        # An input or initializer of a subgraph may hide an outer value: the checker and the runtime
        # take that, and a use of the hidden value inside is found by `_check_node`.
        if earlier in own or what == "output of a node":
            self._faults.append(f"name `{name}` is defined more than once in {self._title}")
        if earlier not in own:
            hidden[name] = earlier
        self._passed[earlier] = self._visible.pop(earlier)

    def _define_initializers(self, graph: ir.Graph, own: _Own, hidden: _Hidden) -> None:
        for key, value in graph.initializers.data.items():
            if value.name != key:
                self._faults.append(f"initializer `{value.name}` is registered as `{key}`")
            if value not in own:  # an overridable initializer is an input as well
                self._define(value, own, hidden, "initializer")
            if not _fits(value):
                self._faults += _tensor_faults(value)

    def _check_node(self, node: ir.Node) -> None:
        """Check what a node reads, and that it is as its operator demands."""
        visible = self._visible
        kinds: list[ValueKey] = []
        for index, value in enumerate(node.inputs):
            if value is None:
                kinds.append(ABSENT)
                continue
            if value in visible:
                visible[value] += 1
            else:
                self._strays[value] = self._strays.get(value, 0) + 1
                self._faults.append(self._explain(node, index, value))
            kinds.append(value_key(value))
        self._check_operator(node, tuple(kinds))

    def _explain(self, node: ir.Node, index: int, value: ir.Value) -> str:
        head = f"input {index} of {_label(node)}"
        hiding = self._meaning.get(value.name or "")
        if hiding is not None:
            return f"{head} is `{value.name}`, a name that means another value here"
        producer = value.producer()
        if value in self._passed:
            return f"{head} is `{value.name}`, which is out of scope here"
        if producer is not None and producer.graph is not None:
            return f"{head} is `{value.name}`, which {_label(producer)} produces only later"
        if producer is not None:
            return f"{head} is `{value.name}`, whose {_label(producer)} is not in the model"
        if value.const_value is not None:
            return f"{head} is `{value.name}`, a constant that is not registered as initializer"
        return f"{head} is `{value.name}`, which nothing produces"

    def _check_operator(self, node: ir.Node, inputs: tuple[ValueKey, ...]) -> None:
        version = self._imports.get(node.domain)
        if version is None:
            if node.domain not in self._missing_imports:
                self._missing_imports.add(node.domain)
                self._faults.append(
                    f"{_label(node)} needs domain `{node.domain}`,"
                    f" which {self._title} does not import"
                )
            return
        if self._functions and node.op_identifier() in self._functions:
            return
        rule = rule_or_fault(node.domain, node.op_type, version)
        if rule is None:
            return
        found: Iterable[str]
        if isinstance(rule, str):
            found = (rule,)
        else:
            found = signature_faults(rule, signature_of(node, inputs))
        self._faults += [f"{_label(node)}: {fault}" for fault in found]

    def _check_output(self, value: ir.Value, own: _Own) -> None:
        if value in own:
            return
        if value in self._visible or value in self._passed:
            fault = "belongs to an outer graph; pass it through an `Identity`"
        else:
            fault = "is produced by nothing"
        self._faults.append(f"output `{value.name}` of {self._title} {fault}")


def _fits(value: ir.Value) -> bool:
    """Tell whether the tensor of an initializer is just what is declared: nearly all are."""
    tensor = value.const_value
    # By identity where that will do: the shape of an initializer is mostly the tensor's own object.
    if tensor is None or (value.type is not None and value.dtype is not tensor.dtype):
        return False
    shape = value.shape
    return shape is None or shape is tensor.shape or shape.dims == tensor_dims(tensor)


def _tensor_faults(value: ir.Value) -> Iterable[str]:
    tensor = value.const_value
    if tensor is None:
        yield f"initializer `{value.name}` has no tensor"
        return
    if value.dtype is not None and value.dtype != tensor.dtype:
        yield (
            f"initializer `{value.name}` is declared {value.dtype.name}"
            f" and holds {tensor.dtype.name}"
        )
    declared = value.shape
    # A symbol stands for any size: no tensor contradicts it.
    if declared is None or not declared.is_static():
        return
    if declared.dims != tensor_dims(tensor):
        yield f"initializer `{value.name}` is declared {declared} and holds {tensor.shape}"


def _label(node: ir.Node) -> str:
    domain = f"{node.domain}::" if node.domain else ""
    return f"node `{node.name}` ({domain}{node.op_type})"
