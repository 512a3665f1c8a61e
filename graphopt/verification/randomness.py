"""Which outputs of a model hang on random numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import onnx_ir as ir

from graphopt.analysis import Effect, Operators
from graphopt.ir import subgraphs_of

__all__ = ["RandomOutputs", "random_outputs"]


@dataclass(frozen=True)
class RandomOutputs:
    """Names of outputs by how sure it is that two runs give different values.

    Attributes:
        certain: They depend on an operator that draws random numbers.
        possible: They depend on an operator of which nothing is known; only runs can tell.
    """

    certain: frozenset[str] = frozenset()
    possible: frozenset[str] = frozenset()


def random_outputs(model: ir.Model) -> RandomOutputs:
    """Find the outputs of a model that may differ from run to run, by following the graph.

    A node with subgraphs counts as a whole: any random value inside makes all its outputs random.
    """
    spread = _Spread(Operators(model))
    spread.follow(model.graph)
    # An output may be an input or a weight as it is: what nobody has drawn is pure.
    effects = {value.name or "": spread.effect_of(value) for value in model.graph.outputs}
    return RandomOutputs(
        frozenset(name for name, effect in effects.items() if effect is Effect.RANDOM),
        frozenset(name for name, effect in effects.items() if effect is Effect.UNKNOWN),
    )


class _Spread:
    """Carries the effect of nodes forward to everything computed from their outputs."""

    def __init__(self, operators: Operators) -> None:
        self._operators = operators
        self._effects: dict[ir.Value, Effect] = {}

    def effect_of(self, value: ir.Value | None) -> Effect:
        return self._effects.get(value, Effect.PURE) if value is not None else Effect.PURE

    def follow(self, nodes: Iterable[ir.Node]) -> Effect:
        """Follow nodes in order, and return the surest effect among them."""
        strongest = Effect.PURE
        for node in nodes:
            effects = [self._operators.effect(node), *map(self.effect_of, node.inputs)]
            effects += [self.follow(graph) for graph in subgraphs_of(node)]
            effect = _surest(effects)
            if effect is not Effect.PURE:
                self._effects.update(dict.fromkeys(node.outputs, effect))
                strongest = _surest((strongest, effect))
        return strongest


def _surest(effects: Iterable[Effect]) -> Effect:
    found = set(effects)
    if Effect.RANDOM in found:
        return Effect.RANDOM
    return Effect.UNKNOWN if Effect.UNKNOWN in found else Effect.PURE
