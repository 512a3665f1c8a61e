"""What every model goes through once, when it is loaded."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.ir.walk import graphs

__all__ = ["normalise"]


def normalise(model: ir.Model) -> ir.Model:
    """Bring ``model`` into the form that everything after may rely on; in place.

    The default domain is called ``""``, every node has a name of its own within the model, and
    every graph has a name.
    """
    _merge_default_domain(model)
    _name_graphs_and_nodes(model)
    return model


def _merge_default_domain(model: ir.Model) -> None:
    for imports in (model.opset_imports, *(f.opset_imports for f in model.functions.values())):
        alias = imports.pop("ai.onnx", None)
        if alias is not None:
            imports.setdefault("", alias)


def _name_graphs_and_nodes(model: ir.Model) -> None:
    taken = {node.name for graph in graphs(model) for node in graph if node.name}
    seen: set[str] = set()
    for graph in graphs(model):
        if not graph.name:
            graph.name = "graph"
        for node in graph:
            if not node.name or node.name in seen:
                node.name = _free_name(node, taken)
            seen.add(node.name)


def _free_name(node: ir.Node, taken: set[str]) -> str:
    base = node.name or next((f"{v.name}_{node.op_type}" for v in node.outputs if v.name), "node")
    name, number = base, 0
    while name in taken:
        number += 1
        name = f"{base}_{number}"
    taken.add(name)
    return name
