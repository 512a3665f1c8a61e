"""Integer weights in a graph: each stored once, however many operators read it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy.typing as npt
import onnx_ir as ir

from graphopt.compression.quantization import QuantizationParameters, quantize
from graphopt.compression.weight_source import WeightSource
from graphopt.rewrite import Change, Editor

__all__ = ["QuantizedWeights", "remove_unread"]


class QuantizedWeights:
    """Creates the constants of a quantizer, and reuses them where they are the same.

    Constants live in the main graph, where every graph but that of a function can read them; in
    a function they are shared within one graph.
    """

    def __init__(self, model: ir.Model) -> None:
        self._in_functions = {
            id(graph)
            for function in model.functions.values()
            for graph in (function, function.graph, *function.graph.subgraphs())
        }
        self._stored: dict[tuple[object, ...], ir.Value] = {}

    def integers(
        self,
        change: Change,
        reader: ir.Node,
        weight: WeightSource,
        parameters: QuantizationParameters,
    ) -> ir.Value:
        """Return the constant that holds ``weight`` quantized, as ``reader`` can read it."""
        content = parameters.scale.tobytes() + parameters.zero_point.tobytes()
        key = (self._scope(reader), weight.origin, weight.order, parameters.axis, content)
        held = self._stored.get(key)
        if held is None:
            quantized = quantize(weight.array(), parameters)
            name = f"{weight.origin.name}_quantized"
            held = self._stored[key] = change.initializer(quantized, name=name)
        return held

    def constant(
        self, change: Change, reader: ir.Node | None, array: npt.NDArray[Any], name: str
    ) -> ir.Value:
        """Return a constant that holds ``array``; one for each name, type, shape and content.

        Args:
            change: Where it is created if there is none yet.
            reader: Who will read it; ``None`` for an operator of the main graph.
            array: What it holds.
            name: Hint for its name.
        """
        key = (self._scope(reader), name, array.dtype.str, array.shape, array.tobytes())
        held = self._stored.get(key)
        if held is None:
            held = self._stored[key] = change.initializer(array, name=name)
        return held

    def _scope(self, reader: ir.Node | None) -> int:
        graph = reader.graph if reader is not None else None
        return id(graph) if id(graph) in self._in_functions else 0


def remove_unread(
    model: ir.Model,
    edit: Editor,
    values: Iterable[ir.Value],
    *,
    because: str = "float originals that nobody reads any more",
) -> None:
    """Remove those of ``values`` that nobody reads any more, and what led to them alone.

    A float original left behind would undo the saving, so that a quantizer does not leave this to
    another pass.

    Args:
        model: The model.
        edit: Where the removal is recorded, as one rewrite.
        values: What quantized operators used to read: initializers, or what is computed from them.
        because: What they were.
    """
    unread = _unread(values)
    if not unread:
        return
    with edit.rewrite(model.graph, because=because) as change:
        for found in unread:
            if isinstance(found, ir.Node):
                change.remove(found)
            else:
                change.remove_initializer(found)


def _unread(values: Iterable[ir.Value]) -> dict[ir.Node | ir.Value, None]:
    """Return removable nodes and initializers, readers before what they read."""
    unread: dict[ir.Node | ir.Value, None] = {}

    def is_unread(value: ir.Value) -> bool:
        return not value.is_graph_output() and all(user in unread for user, _ in value.uses())

    queue = list(dict.fromkeys(values))
    while queue:
        value = queue.pop()
        node = value.producer()
        if not is_unread(value):
            continue
        if node is None:
            if value.is_initializer() and not value.is_graph_input():
                unread[value] = None
        elif node not in unread and all(is_unread(output) for output in node.outputs):
            unread[node] = None
            queue.extend(source for source in node.inputs if source is not None)
    return unread
