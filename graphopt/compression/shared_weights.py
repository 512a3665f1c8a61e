"""Weights that tie what would otherwise be apart, only because they are stored once.

Exporters store equal weights once: the zeros that biases start from, scales of one. Layers that
read one of them would have to lose the same units.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from graphopt.analysis import infer_shapes
from graphopt.analysis.coupling import Coupling, couple, find_groups
from graphopt.ir import clone, constant_tensor
from graphopt.rewrite import Editor, Journal

__all__ = ["SharedWeight", "needlessly_shared", "shared_weights"]


@dataclass(frozen=True)
class SharedWeight:
    """A constant that several operators read.

    Attributes:
        value: The constant.
        readers: The operators, each once, in the order of the graph.
    """

    value: ir.Value
    readers: tuple[ir.Node, ...]


def shared_weights(model: ir.Model) -> Iterator[SharedWeight]:
    """Yield the constants of the main graph that several of its own operators read."""
    places = {node: number for number, node in enumerate(model.graph)}
    for value in model.graph.initializers.values():
        readers = {use.node for use in value.uses()}
        if len(readers) > 1 and constant_tensor(value) is not None and readers <= places.keys():
            yield SharedWeight(value, tuple(sorted(readers, key=places.__getitem__)))


def needlessly_shared(
    model: ir.Model, weights: Sequence[SharedWeight]
) -> dict[SharedWeight, list[list[ir.Node]]]:
    """Return for each weight that ties free units which of its readers should have their own.

    A copy in which no weight is shared tells what would be apart. Readers whose indices are the
    same units there can go on sharing. Embeddings tied to a classifier stay: their indices cannot
    go either way.

    Args:
        model: The model.
        weights: Those that may be stored several times.

    Returns:
        Readers by what they are tied to, the first list with the first reader.
    """
    copy = clone(model)
    twins = dict(zip(model.graph, copy.graph, strict=True))
    operands = {one: _set_apart(copy, one, twins) for one in weights}
    coupling = couple(copy, infer_shapes(copy))
    groups = [group for group in find_groups(coupling) if group.pin is None]
    free = frozenset(unit for group in groups for unit in group.units)
    found = {}
    for one, values in operands.items():
        signatures = {node: _units(coupling, value) for node, value in values.items()}
        if not free.isdisjoint(_where_they_differ(signatures.values())):
            found[one] = _classes(signatures)
    return found


def _set_apart(
    copy: ir.Model, one: SharedWeight, twins: Mapping[ir.Node, ir.Node]
) -> dict[ir.Node, ir.Value]:
    """Give every reader but the first a weight of its own in ``copy``; return what each reads."""
    value = copy.graph.initializers[one.value.name or ""]
    editor = Editor(copy, pass_name="trial", journal=Journal())  # noqa: S106 - no secret
    for node in one.readers[1:]:
        with editor.rewrite(twins[node], because="trial") as change:
            tensor = constant_tensor(value)
            assert tensor is not None
            own = change.initializer(tensor, name=value.name or "weight")
            for index, operand in enumerate(twins[node].inputs):
                if operand is value:
                    change.set_input(twins[node], index, own)
    places = {node: list(node.inputs).index(one.value) for node in one.readers}
    found = {node: twins[node].inputs[place] for node, place in places.items()}
    return {node: operand for node, operand in found.items() if operand is not None}


def _units(coupling: Coupling, value: ir.Value) -> tuple[tuple[int, ...], ...]:
    """Return the units of the indices along every axis of a constant."""
    layout = coupling.layouts.get(value, ())
    return tuple(
        tuple(
            unit
            for factor in axis
            if factor.atoms is not None
            for unit in coupling.units.of(factor).tolist()
        )
        for axis in layout
    )


def _where_they_differ(signatures: Iterable[tuple[tuple[int, ...], ...]]) -> frozenset[int]:
    """Return the units along axes that are not the same for all readers."""
    found: set[int] = set()
    for axes in zip(*signatures, strict=False):
        if len(set(axes)) > 1:
            found.update(unit for axis in axes for unit in axis)
    return frozenset(found)


def _classes(
    signatures: Mapping[ir.Node, tuple[tuple[int, ...], ...]],
) -> list[list[ir.Node]]:
    found: dict[tuple[tuple[int, ...], ...], list[ir.Node]] = {}
    for node, signature in signatures.items():
        found.setdefault(signature, []).append(node)
    return list(found.values())
