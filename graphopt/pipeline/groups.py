"""Cutting a pipeline into the groups that are verified together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from graphopt.pipeline.pipeline import Element, Fixpoint, Pipeline
from graphopt.rewrite import Approximate, Exact, Numerics, Pass, Rounding

__all__ = ["Group", "Kind", "allowed_difference", "groups_of", "kind_of"]

Kind = Literal["exact", "rounding", "approximate"]
_SEVERITY: tuple[Kind, ...] = ("exact", "rounding", "approximate")


@dataclass(frozen=True)
class Group:
    """Elements that are checkpointed, run and verified together.

    Attributes:
        number: Position in the pipeline, from 1.
        kind: The weakest promise among its passes.
        elements: In order. A fixpoint group is never divided; approximate ones stand alone, and so
            do those that may change the interface: what they make cannot always be compared, and
            nobody else shall go unchecked for that.
    """

    number: int
    kind: Kind
    elements: tuple[Element, ...]


def groups_of(pipeline: Pipeline) -> tuple[Group, ...]:
    """Return the groups of a pipeline, in order."""
    runs: list[tuple[Kind, tuple[Element, ...]]] = []
    # Only neighbours: the order of passes is the user's, and a group keeps it.
    for (kind, is_apart), members in groupby(
        pipeline.elements, key=lambda element: (kind_of(element), _changes_interface(element))
    ):
        if kind == "approximate" or is_apart:  # the drift of each is measured
            runs += [(kind, (member,)) for member in members]
        else:
            runs.append((kind, tuple(members)))
    return tuple(Group(number, *run) for number, run in enumerate(runs, start=1))


def kind_of(element: Element) -> Kind:
    """Return the weakest promise among the passes of an element."""
    if isinstance(element, Fixpoint):
        return max((kind_of(inner) for inner in element.elements), key=_SEVERITY.index)
    return _kind(element.contract.numerics)


def _changes_interface(element: Element) -> bool:
    if isinstance(element, Fixpoint):
        return any(_changes_interface(inner) for inner in element.elements)
    return element.contract.changes_interface


def _kind(numerics: Numerics) -> Kind:
    if isinstance(numerics, Exact):
        return "exact"
    return "rounding" if isinstance(numerics, Rounding) else "approximate"


def allowed_difference(passes: Iterable[Pass]) -> Numerics:
    """Return what the passes that edited the model allow together: bounds add up."""
    promises = [pass_.contract.numerics for pass_ in passes]
    for promise in promises:
        if isinstance(promise, Approximate):
            return promise
    bounds = [promise for promise in promises if isinstance(promise, Rounding)]
    if not bounds:
        return Exact()
    sources = dict.fromkeys(promise.source for promise in bounds)
    return Rounding(sum(promise.bound for promise in bounds), "; ".join(sources))
