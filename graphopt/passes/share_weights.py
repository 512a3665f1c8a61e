"""Sharing of equal weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from graphopt.analysis import Operators, annotation_parameters, is_annotated
from graphopt.analysis.equal_tensors import classes_of_equal_tensors
from graphopt.ir import initializer_tensors
from graphopt.rewrite import Contract, Editor, Exact, Facts, Pass, is_overwritten

__all__ = ["ShareWeights"]


@dataclass(frozen=True, kw_only=True)
class ShareWeights(Pass):
    """Store equal weights once.

    What it does
        Lets the readers of an initializer read another one that has the same type, shape and bytes,
        in the same graph or in the main graph. Equal initializers of different subgraphs move to
        the main graph, which all of them can see.

    When it refuses
        `overridable`      the weight is an input too, so that a caller may give it another value.
        `names-an-output`  a graph returns the weight under its name.
        `annotated`        a quantization annotation describes the weight or refers to it by name.
        `overwritten`      BatchNormalization in training mode updates the weight in place.

    What it keeps
        The model's inputs and outputs, their names, order, types and shapes; every bit of them:
        0.0 and -0.0 are different weights.

    Cost
        Time O(weights); reads only weights of which another has the same type and shape, and of
        large ones a sample first. Memory O(weights) for names; no weight is copied.

    Example
        before  (float[2] x) => (float[2] z) <float[2] a = {1.0,2.0}, float[2] b = {1.0,2.0}> { y = Add(x, a)  z = Mul(y, b) }
        after   (float[2] x) => (float[2] z) <float[2] a = {1.0,2.0}> { y = Add(x, a)  z = Mul(y, a) }

    References
        Compare onnx-ir `DeduplicateHashedInitializersPass`.
    """  # noqa: E501 - the example is one line of ONNX text

    name: ClassVar[str] = "share-weights"
    contract: ClassVar[Contract] = Contract(numerics=Exact(), is_idempotent=True)
    # Nodes read the same numbers as before, which is all that these look at.
    spares: ClassVar[frozenset[str]] = frozenset(
        """
        collapse-rearrangements eliminate-dead-nodes eliminate-identities fold-constants
        simplify-shapes
        """.split()
    )

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:  # noqa: ARG002
        """Merge equal initializers."""
        referred = annotation_parameters(model)
        for equal in classes_of_equal_tensors(_weights(model)):
            free = list(_unbound(equal, referred, edit))
            kept = _best_to_keep(model, equal, free)
            groups = list(_by_graph(free).values())
            for group in groups:
                home = kept or group[0]
                for value in group:
                    if value is not home:
                        _merge(value, home, edit)
            if kept is None:
                _hoist(model, [group[0] for group in groups], edit)


def _weights(model: ir.Model) -> Iterator[tuple[ir.Value, ir.TensorProtocol]]:
    """Yield the weights that can see each other: those inside functions see nothing outside."""
    operators = Operators(model)
    for value, tensor in initializer_tensors(model):
        if value.graph is not None and not operators.is_in_function(value.graph):
            yield value, tensor


def _unbound(
    equal: Iterable[ir.Value], referred: frozenset[str], edit: Editor
) -> Iterator[ir.Value]:
    """Yield the weights that may be given up; refuse the others."""
    for value in equal:
        if value.is_graph_input():
            edit.refuse(value, "overridable")
        elif value.is_graph_output():
            edit.refuse(value, "names-an-output")
        elif is_annotated(value) or value.name in referred:
            edit.refuse(value, "annotated")
        elif is_overwritten(value):
            edit.refuse(value, "overwritten")
        else:
            yield value


def _best_to_keep(
    model: ir.Model, equal: Iterable[ir.Value], free: list[ir.Value]
) -> ir.Value | None:
    """Return the weight of the main graph that the others shall give way to.

    One that must stay anyway is the best, unless a caller may override it.
    """
    in_main = [
        value
        for value in equal
        if value.graph is model.graph and not (value.is_graph_input() or is_overwritten(value))
    ]
    may_go = set(free)
    must_stay = [value for value in in_main if value not in may_go]
    return next(iter(must_stay or in_main), None)


def _by_graph(values: Iterable[ir.Value]) -> dict[ir.Graph | None, list[ir.Value]]:
    found: dict[ir.Graph | None, list[ir.Value]] = {}
    for value in values:
        found.setdefault(value.graph, []).append(value)
    return found


def _merge(value: ir.Value, kept: ir.Value, edit: Editor) -> None:
    with edit.rewrite(value, because=f"equal to `{kept.name}`") as change:
        change.replace(value, kept)
        change.remove_initializer(value)


def _hoist(model: ir.Model, equal: list[ir.Value], edit: Editor) -> None:
    """Move equal weights of several subgraphs to the main graph, as one."""
    if len(equal) < 2 or equal[0].const_value is None:  # noqa: PLR2004 - a pair
        return
    with edit.rewrite(model.graph, because="equal weights of several subgraphs") as change:
        shared = change.initializer(
            equal[0].const_value, name=equal[0].name or "weight", graph=model.graph
        )
        for value in equal:
            change.replace(value, shared)
            change.remove_initializer(value)
