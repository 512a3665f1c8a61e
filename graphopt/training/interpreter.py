"""A model as a function of torch tensors, so that gradients can be taken of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.errors import RunError, UnsupportedModelError
from graphopt.ir import graphs, opset_version
from graphopt.training.operators.registry import (
    Call,
    Operator,
    Tensor,
    UnsupportedForm,
    find_operator,
)
from graphopt.training.torch_extra import require_torch

__all__ = ["Operand", "TorchModel", "unsupported_operators"]

Operand = tuple[ir.Node, int]
"""A node, and which of its inputs."""


class TorchModel:
    """Computes what a model computes, node by node, in torch on the CPU.

    The model is read once and must not change while this object is in use. Initializers are copied:
    `parameters` are those that can be trained, float tensors that record gradients.

    Args:
        model: The model; functions must be inlined.
        trainable: Names of initializers of the main graph to train; they need a float type.
        changed: What becomes of an operand before its node computes: functions of tensors.

    Raises:
        MissingExtraError: torch is not installed.
        UnsupportedModelError: It has operators that `unsupported_operators` tells, types that torch
            lacks, or no float initializer of a name.
    """

    def __init__(
        self,
        model: ir.Model,
        *,
        trainable: Collection[str] = (),
        changed: Mapping[Operand, Callable[[Tensor], Tensor]] | None = None,
    ) -> None:
        self._torch = require_torch("the interpreter")
        unknown = unsupported_operators(model)
        if unknown:
            raise UnsupportedModelError(
                "the model cannot be computed in torch",
                where=f"node `{unknown[0].name}`",
                why="no function for " + ", ".join(sorted({_described(model, n) for n in unknown})),
                hint="functions are inlined with `--pipeline inline-functions`",
            )
        self._model = model
        self._changed = dict(changed or {})
        self._constants = _constants(model)
        self._steps = {graph: _steps(model, graph) for graph in graphs(model)}
        self._last = _last_readers(model.graph)
        self.parameters: dict[str, Tensor] = {name: self._parameter(name) for name in trainable}

    def _parameter(self, name: str) -> Tensor:
        value = self._model.graph.initializers.get(name)
        tensor = None if value is None else self._constants.get(value)
        if value is None or tensor is None or not tensor.is_floating_point():
            raise UnsupportedModelError(
                f"`{name}` cannot be trained", why="it is no initializer of a float type"
            )
        self._constants[value] = tensor.requires_grad_()
        return tensor

    def __call__(
        self, feeds: Mapping[str, Any], outputs: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Return values of the main graph; gradients are recorded as torch is told to.

        Args:
            feeds: Arrays or tensors by name of the input; initializers may be overridden, too.
            outputs: Names of values; those that the model returns by default.

        Raises:
            RunError: torch fails at a node, or an input is missing.
            UnsupportedModelError: A node uses an option that its function does not know.
        """
        wanted = [value.name or "" for value in self._model.graph.outputs]
        wanted = wanted if outputs is None else list(outputs)
        known = dict(self._constants)
        for value in self._model.graph.inputs:
            name = value.name or ""
            if name in feeds:
                known[value] = self._fed(feeds[name], name)
            elif value not in known and value.uses():
                raise RunError("an input is missing", where=f"input `{name}`")
        return self._run(known, wanted)

    def _fed(self, given: Any, name: str) -> Tensor:
        if isinstance(given, np.ndarray) and not given.flags.writeable:
            given = given.copy()  # torch has no tensors that cannot be written to, and warns
        try:
            return self._torch.as_tensor(given)
        except TypeError as error:
            raise UnsupportedModelError(
                "an input cannot be held in torch", where=f"input `{name}`", why=str(error)
            ) from error

    def _run(self, known: dict[ir.Value, Tensor], wanted: Sequence[str]) -> dict[str, Tensor]:
        names = set(wanted)
        found = {value.name: tensor for value, tensor in known.items() if value.name in names}
        for node, function, attributes in self._steps[self._model.graph]:
            self._compute(node, function, attributes, known)
            for output in node.outputs:
                if output.name in names and output in known:
                    found[output.name] = known[output]
            for value in self._last.get(node, ()):
                known.pop(value, None)
        missing = [name for name in wanted if name not in found]
        if missing:
            raise RunError("a value was not computed", where=f"`{missing[0]}`")
        return {name: found[name] for name in wanted}

    def _compute(
        self,
        node: ir.Node,
        function: Operator,
        attributes: Mapping[str, Any],
        known: dict[ir.Value, Tensor],
    ) -> None:
        given = [None if value is None else known[value] for value in node.inputs]
        for place in range(len(given)) if self._changed else ():
            change = self._changed.get((node, place))
            if change is not None and given[place] is not None:
                given[place] = change(given[place])

        def run_graph(graph: ir.Graph, values: Sequence[Tensor]) -> list[Tensor]:
            known.update(zip(graph.inputs, values, strict=True))
            for inner, its_function, its_attributes in self._steps[graph]:
                self._compute(inner, its_function, its_attributes, known)
            return [known[value] for value in graph.outputs]

        version = opset_version(self._model, node.domain)
        call = Call(node, version, attributes, run_graph)
        try:
            results = function(call, *given)
        except NotImplementedError as error:  # `UnsupportedForm`, or a type that torch lacks here
            raise UnsupportedModelError(
                "a node cannot be computed in torch",
                where=f"{_described(self._model, node)} node `{node.name}`",
                why=str(error).splitlines()[0],
            ) from error
        except (RuntimeError, IndexError, TypeError, ValueError) as error:
            if isinstance(error, RunError):
                raise
            raise RunError(
                "torch failed at a node",
                where=f"{_described(self._model, node)} node `{node.name}`",
                why=str(error).splitlines()[0] if str(error) else type(error).__name__,
            ) from error
        results = results if isinstance(results, (tuple, list)) else (results,)
        known.update(zip(node.outputs, results, strict=False))

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of what must be fed."""
        graph = self._model.graph
        return tuple(v.name or "" for v in graph.inputs if v.name not in graph.initializers)

    @property
    def is_open(self) -> bool:
        """Tell whether every input leaves the length of its first axis open, as for a batch."""
        values = [value for value in self._model.graph.inputs if value.name in self.inputs]
        shapes = [value.shape for value in values]
        return all(
            shape is not None and len(shape) and not isinstance(shape[0], int) for shape in shapes
        )

    def array(self, name: str) -> npt.NDArray[Any]:
        """Return a copy of a parameter as it is now."""
        found: npt.NDArray[Any] = np.array(self.parameters[name].detach().cpu().numpy())
        return found


def unsupported_operators(model: ir.Model) -> list[ir.Node]:
    """Return the nodes for whose operator, at its version, there is no function."""
    return [
        node
        for graph in graphs(model)
        if not isinstance(graph, ir.Function)  # what is called has no function either
        for node in graph
        if find_operator(node.domain, node.op_type, opset_version(model, node.domain)) is None
    ]


def _described(model: ir.Model, node: ir.Node) -> str:
    version = opset_version(model, node.domain)
    return f"{node.domain or 'ai.onnx'}.{node.op_type} (opset {version})"


def _constants(model: ir.Model) -> dict[ir.Value, Tensor]:
    """Return the tensors of the initializers of all graphs."""
    from graphopt.training.operators.element_types import as_torch

    found = {}
    for graph in graphs(model):
        if isinstance(graph, ir.Function):
            continue
        for value in graph.initializers.values():
            if value.const_value is None or not (value.uses() or value.is_graph_output()):
                continue
            try:
                found[value] = as_torch(value.const_value)
            except UnsupportedForm as error:
                raise UnsupportedModelError(
                    "a weight cannot be held in torch", where=f"`{value.name}`", why=str(error)
                ) from error
    return found


def _steps(
    model: ir.Model, graph: ir.Graph | ir.Function
) -> list[tuple[ir.Node, Operator, dict[str, Any]]]:
    found = []
    for node in graph:
        function = find_operator(node.domain, node.op_type, opset_version(model, node.domain))
        if function is not None:
            attributes = {name: _plain(attribute) for name, attribute in node.attributes.items()}
            found.append((node, function, attributes))
    return found


def _plain(attribute: ir.Attr) -> Any:
    if attribute.type is ir.AttributeType.STRING:
        return attribute.as_string()
    return attribute.value


def _last_readers(graph: ir.Graph) -> dict[ir.Node, list[ir.Value]]:
    """Return by node the values that nobody reads after it, so that they need not be held."""
    last: dict[ir.Value, ir.Node] = {}
    for node in graph:
        for value in _read_by(node):
            last[value] = node
    found: dict[ir.Node, list[ir.Value]] = {}
    for value, node in last.items():
        if value.producer() is not None:
            found.setdefault(node, []).append(value)
    return found


def _read_by(node: ir.Node) -> Iterable[ir.Value]:
    """Yield what a node and the graphs in it read."""
    yield from (value for value in node.inputs if value is not None)
    for attribute in node.attributes.values():
        if attribute.type is ir.AttributeType.GRAPH:
            yield from attribute.as_graph().outputs
            for inner in attribute.as_graph():
                yield from _read_by(inner)
