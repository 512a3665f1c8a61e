"""The part of a model that computes sizes, and the plan to compute them with fewer nodes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import onnx_ir as ir

from graphopt.analysis.annotations import is_annotated
from graphopt.analysis.shape_plans import Recipe, Recipes, SourceTable, recipe_of
from graphopt.analysis.symbolic_shapes import SymbolicShapes
from graphopt.ir import ordered_nodes, subgraphs_of
from graphopt.rewrite import is_overwritten

__all__ = ["Replacement", "Scope", "ShapeArithmetic"]


@dataclass
class Scope:
    """What one graph offers to the arithmetic, up to the node that is looked at.

    Attributes:
        sources: Where sizes can be read.
        outer: The scope around it.
        existing: Values that are there, by the recipe that they follow.
        made: Values that were made, by recipe; filled by whoever carries out the plan.
    """

    sources: SourceTable
    outer: Scope | None = None
    existing: dict[Recipe, ir.Value] = field(default_factory=dict)
    made: dict[Recipe, ir.Value] = field(default_factory=dict)
    planned: set[Recipe] = field(default_factory=set)

    def around(self) -> Iterator[Scope]:
        """Yield this scope and those around it."""
        scope: Scope | None = self
        while scope is not None:
            yield scope
            scope = scope.outer

    def find(self, recipe: Recipe) -> ir.Value | None:
        """Return a value that follows ``recipe`` and that nodes of this graph may read."""
        return next((s.existing[recipe] for s in self.around() if recipe in s.existing), None)


@dataclass(frozen=True)
class Replacement:
    """A value that nodes outside of the arithmetic read, and how to compute it instead.

    Attributes:
        value: The value.
        recipe: How to compute it; ``None`` where every element is a number.
        reused: Values to take where a recipe asks for what is there already.
        scope: The graph in which it is computed.
    """

    value: ir.Value
    recipe: Recipe | None
    reused: dict[Recipe, ir.Value]
    scope: Scope


class ShapeArithmetic:
    """Nodes whose results are small integer tensors that follow from shapes.

    Attributes:
        replacements: Values to compute in another way, in the order of execution; empty where that
            takes no fewer nodes than there are.
    """

    def __init__(self, model: ir.Model, known: SymbolicShapes) -> None:
        self._known = known
        self._order = ordered_nodes(model)
        self._nodes = {node for node in self._order if known.is_computed(node)}
        self._roots: list[ir.Value] = []
        self._kept: list[ir.Value] = []
        self._planned_count = 0
        self._written: dict[ir.Value, Recipe] = {}
        self.replacements: list[Replacement] = []
        # Most arithmetic is read by nobody any more once parameters are constants.
        if not any(self._is_root(value) for node in self._nodes for value in node.outputs):
            return
        self._plan(model.graph, None)
        before, kept = self._closure(self._roots), self._closure(self._kept)
        if len(kept) + self._planned_count >= len(before):
            self.replacements = []

    def dead(self) -> Iterator[ir.Node]:
        """Yield the nodes of the arithmetic that nobody reads, readers before what they read."""
        for node in reversed(self._order):
            if node in self._nodes and not any(map(_is_used, node.outputs)):
                yield node

    # -- planning ----------------------------------------------------------------------------

    def _plan(self, graph: ir.Graph, outer: Scope | None) -> None:
        scope = Scope(SourceTable(outer.sources if outer is not None else None), outer)
        recipes = Recipes(self._known.version, scope.sources)
        self._offer(graph.inputs, scope)
        for node in graph:
            for inner in subgraphs_of(node):
                self._plan(inner, scope)
            if node in self._nodes:
                self._note(node, scope)
                for root in filter(self._is_root, node.outputs):
                    self._roots.append(root)
                    self._plan_root(root, recipes, scope)
            self._offer(node.outputs, scope)

    def _offer(self, values: Iterable[ir.Value], scope: Scope) -> None:
        for value in values:
            dims = self._known.dims(value)
            if dims and not all(isinstance(dim, int) for dim in dims) and _is_used(value):
                is_there = value.is_graph_input() or self._is_root(value)
                scope.sources.add(value, dims, is_spare=not is_there)

    def _note(self, node: ir.Node, scope: Scope) -> None:
        """Remember which recipe ``node`` follows."""
        output = node.outputs[0]
        if self._known.dtype(output) != ir.DataType.INT64 or len(node.outputs) != 1:
            return
        recipe = recipe_of(node, self._written, self._known.rank(node.inputs[0]))
        if recipe is not None:
            self._written[output] = recipe
            scope.existing.setdefault(recipe, output)

    def _is_root(self, value: ir.Value) -> bool:
        return value.is_graph_output() or any(user not in self._nodes for user, _ in value.uses())

    def _plan_root(self, value: ir.Value, recipes: Recipes, scope: Scope) -> None:
        if value.is_graph_output() or is_annotated(value) or is_overwritten(value):
            self._kept.append(value)
        elif self._known.array(value) is not None:
            self.replacements.append(Replacement(value, None, {}, scope))
        else:
            self._plan_recipe(value, recipes, scope)

    def _plan_recipe(self, value: ir.Value, recipes: Recipes, scope: Scope) -> None:
        recipe = self._recipe(value, recipes)
        if recipe is None or recipe == self._written.get(value):
            self._kept.append(value)
            return
        reused: dict[Recipe, ir.Value] = {}
        self._resolve(recipe, scope, reused)
        self._kept.extend(reused.values())
        self.replacements.append(Replacement(value, recipe, reused, scope))

    def _recipe(self, value: ir.Value, recipes: Recipes) -> Recipe | None:
        elements = self._known.elements(value)
        if elements is None or self._known.dtype(value) != ir.DataType.INT64 or elements.ndim > 1:
            return None
        items = tuple(elements.reshape(-1).tolist())
        return recipes.vector(items) if elements.ndim else recipes.scalar(items[0])

    def _resolve(self, recipe: Recipe, scope: Scope, reused: dict[Recipe, ir.Value]) -> None:
        """Find out what of ``recipe`` is there, and count what must be made."""
        if not recipe.operator or any(recipe in s.planned for s in scope.around()):
            return
        found = scope.find(recipe)
        if found is not None:
            reused[recipe] = found
            return
        scope.planned.add(recipe)
        self._planned_count += 1
        for needed in recipe.inputs:
            self._resolve(needed, scope, reused)

    def _closure(self, values: Iterable[ir.Value]) -> set[ir.Node]:
        """Return the nodes of the arithmetic that ``values`` depend on."""
        found: set[ir.Node] = set()
        pending = list(values)
        while pending:
            node = pending.pop().producer()
            if node is not None and node in self._nodes and node not in found:
                found.add(node)
                pending.extend(given for given in node.inputs if given is not None)
        return found


def _is_used(value: ir.Value) -> bool:
    return value.is_graph_output() or bool(value.uses())
