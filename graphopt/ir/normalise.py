"""What every model goes through once, when it is loaded."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from graphopt.ir.objects import node_list
from graphopt.ir.walk import graphs, may_hold_graphs, remembered_graphs, subgraphs_of

__all__ = ["normalise"]


def normalise(model: ir.Model) -> ir.Model:
    """Bring ``model`` into the form that everything after may rely on; in place.

    The default domain is called ``""``, every node has a name of its own within the model, every
    graph has a name, and no value of a subgraph has the name of a value of an outer graph.
    """
    _merge_default_domain(model)
    with remembered_graphs(model):
        _name_graphs_and_nodes(model)
        _rename_hiding_values(model)
    return model


def _merge_default_domain(model: ir.Model) -> None:
    for imports in (model.opset_imports, *(f.opset_imports for f in model.functions.values())):
        alias = imports.pop("ai.onnx", None)
        if alias is not None:
            # Two names of one domain; where a file imports both, the usual one counts.
            imports.setdefault("", alias)


def _name_graphs_and_nodes(model: ir.Model) -> None:
    for graph in graphs(model):
        if not graph.name:
            graph.name = "graph"
    names = [node.name for graph in graphs(model) for node in node_list(graph)]
    taken = {name for name in names if name}
    if len(taken) == len(names):
        return  # as exporters write it: each has one of its own
    seen: set[str] = set()
    for graph in graphs(model):
        for node in graph:
            if not node.name or node.name in seen:
                node.name = _free_name(node, taken)
            seen.add(node.name)


def _rename_hiding_values(model: ir.Model) -> None:
    """Rename values of subgraphs that are called like a value of an outer graph.

    The runtime and the checker take a subgraph whose input hides an outer value, and one that uses
    the name of a value computed later outside. A pass may let the subgraph read the former, and
    compute the latter earlier under its public name.
    """
    if len(tuple(graphs(model))) == 1 + len(model.functions):
        return  # there are no subgraphs
    hiding: list[ir.Value] = []
    for graph in (*(function.graph for function in model.functions.values()), model.graph):
        hiding += _hiding_values(graph, ())
    taken = {value.name for graph in graphs(model) for value in _values(graph)} if hiding else set()
    for value in hiding:
        number = 1
        while f"{value.name}_{number}" in taken:
            number += 1
        value.name = f"{value.name}_{number}"
        taken.add(value.name)


def _hiding_values(graph: ir.Graph, outer: tuple[frozenset[str | None], ...]) -> Iterator[ir.Value]:
    """Yield the values that are called like one of an outer graph."""
    if outer:
        yield from (
            value for value in _values(graph) if any(value.name in names for names in outer)
        )
    holders = [node for node in graph if may_hold_graphs(node)]
    inner_graphs = [inner for node in holders for inner in subgraphs_of(node)]
    if inner_graphs:
        names = frozenset(value.name for value in _values(graph))
        for inner in inner_graphs:
            yield from _hiding_values(inner, (*outer, names))


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    """Yield the values that a graph defines, each once, unnamed ones excepted."""
    yield from dict.fromkeys((*graph.inputs, *graph.initializers.data.values()))
    for node in graph:
        yield from (value for value in node.outputs if value.name)


def _free_name(node: ir.Node, taken: set[str]) -> str:
    base = node.name or next((f"{v.name}_{node.op_type}" for v in node.outputs if v.name), "node")
    name, number = base, 0
    while name in taken:
        number += 1
        name = f"{base}_{number}"
    taken.add(name)
    return name
