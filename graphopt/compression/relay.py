"""Going on where a model was left: of layers that are done, nothing is computed again.

Layers are fitted one after the other, each to what enters it in the model as it is by then. What
lies before a layer that was fitted stays as it is, so that runs for the next one begin there: both
models are then computed once or twice over all layers, not once for each.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from graphopt.analysis.reads import values_read
from graphopt.rewrite import Held, Measure

__all__ = ["Relay", "values_to_hold"]


@dataclass
class Relay:
    """How far models were run on one set of samples.

    Attributes:
        measure: Runs them.
    """

    measure: Measure
    _reached: dict[int, list[ir.Value]] = field(default_factory=dict)
    _held: dict[int, Held] = field(default_factory=dict)

    def held(self, model: ir.Model) -> Held | None:
        """Return what is held of a model."""
        return self._held.get(id(model))

    def go_on(
        self,
        model: ir.Model,
        reached: ir.Value,
        ahead: Sequence[ir.Value],
        pending: Collection[ir.Node] = (),
    ) -> None:
        """Run a model up to a value, and keep there what is read further on.

        Args:
            model: The model, always the same object.
            reached: A value that stays as it is, as does all that leads to it.
            ahead: What will be asked for later; ``reached`` may be one of them.
            pending: Nodes that will change: what they lead to is not kept.
        """
        if not ahead:
            return
        reached_so_far = self._reached.setdefault(id(model), [])
        reached_so_far.append(reached)
        names = values_to_hold(model.graph, reached_so_far, ahead, pending)
        before = self._held.get(id(model))
        found = self.measure.hold(model, names, before) if names else None
        if found is None:  # runs begin where they began before
            return
        if before is not None:
            before.close()
        self._held[id(model)] = found


def values_to_hold(
    graph: ir.Graph,
    reached: Iterable[ir.Value],
    ahead: Iterable[ir.Value],
    pending: Collection[ir.Node] = (),
) -> list[str]:
    """Return the names of what has to be kept so that nothing before ``reached`` runs again.

    Constants, and what is computed from them alone, are not among them: they cost nothing.

    Args:
        graph: The graph of a model.
        reached: Values of it.
        ahead: Values that will be asked for.
        pending: Nodes that will change.
    """
    fed = {value for value in graph.inputs if value.name not in graph.initializers}
    moving, changing = set[ir.Node](), set(pending)
    for node in graph:  # in the order in which they run
        sources = {value.producer() for value in values_read(node)}
        if not fed.isdisjoint(values_read(node)) or not moving.isdisjoint(sources - {None}):
            moving.add(node)
        if not changing.isdisjoint(sources - {None}):
            changing.add(node)
    behind = (_leading_to(reached) & moving) - changing
    wanted = set(ahead)
    readers = _leading_to(wanted) - behind
    read = {value for node in readers for value in values_read(node)} | wanted
    return [
        value.name or ""
        for node in graph
        if node in behind
        for value in node.outputs
        if value in read
    ]


def _leading_to(values: Iterable[ir.Value]) -> set[ir.Node]:
    """Return the nodes of the main graph on which values depend."""
    found = set[ir.Node]()
    left = [node for value in values if (node := value.producer()) is not None]
    while left:
        node = left.pop()
        if node in found:
            continue
        found.add(node)
        left += [one for value in values_read(node) if (one := value.producer()) is not None]
    return found
