"""ONNX text in which only what matters is left: for comparing models, and for showing them."""

import onnx_ir as ir

from graphopt.ir import clone, graphs, subgraphs_of, to_text

DEFAULT_HEADER = '<\n   ir_version: 10,\n   opset_import: ["" : 20]\n>\ng '
MAX_ELEMENTS = 100_000


def canonical_text(model):
    """Return the text of a model with internal values renamed in order of definition.

    Names of nodes and graphs, types of intermediate values and the order of initializers do not
    count; names of inputs and outputs do.
    """
    copy = clone(model)
    _strip(copy)
    public = {value.name for value in (*copy.graph.inputs, *copy.graph.outputs)}
    for scope in (*(function.graph for function in copy.functions.values()), copy.graph):
        _rename(scope, public if scope is copy.graph else set(), _Counter())
    return to_text(copy, max_elements=MAX_ELEMENTS)


def golden_text(model):
    """Return the text of a model as goldens show it: own names, and no header if it is the default."""
    copy = clone(model)
    _strip(copy)
    text = to_text(copy, max_elements=MAX_ELEMENTS)
    return text.removeprefix(DEFAULT_HEADER).rstrip()


def _strip(model):
    for graph in graphs(model):
        graph.name = "g"
        returned = set(graph.outputs) | set(graph.inputs)
        for value in graph.initializers.values():
            if value not in returned:
                value.type = value.shape = None
        for node in graph:
            node.name = None
            for value in node.outputs:
                if value not in returned:
                    value.type = value.shape = None


class _Counter:
    def __init__(self):
        self.value = 0

    def name(self):
        self.value += 1
        return f"v{self.value}"


def _rename(graph, public, counter):
    """Give every internal value of a scope a number, in order of first sight."""
    # First names that nobody has, so that no step meets a name that is still taken.
    values = [value for value in _defined(graph) if value.name and value.name not in public]
    for index, value in enumerate(values):
        _set_name(value, f"temporary {index}")
    for value in values:
        _set_name(value, counter.name())
    for inner in _all_graphs(graph):
        ordered = sorted(
            inner.initializers.values(), key=lambda value: (_number(value.name), value.name)
        )
        inner.initializers.clear()
        for value in ordered:
            inner.initializers.add(value)


def _set_name(value, name):
    """Rename a value, and a copy of its tensor: the tensor itself is shared with the original."""
    value.name = name
    tensor = value.const_value
    if tensor is None:
        return
    shape = ir.Shape(tensor.shape.numpy())
    if tensor.dtype == ir.DataType.STRING:
        value.const_value = ir.StringTensor(tensor.numpy(), shape=shape, name=name)
    else:
        value.const_value = ir.LazyTensor(
            lambda: tensor, dtype=tensor.dtype, shape=shape, name=name
        )


def _defined(graph):
    """Yield the values of a graph in order: inputs, then by node what it reads, holds and makes."""
    yield from graph.inputs
    seen = set(graph.inputs)
    for node in graph:
        for value in node.inputs:
            if value in seen or value is None or not value.is_initializer():
                continue
            if value.graph is graph:  # not one that is captured from an outer graph
                seen.add(value)
                yield value
        for inner in subgraphs_of(node):
            yield from (value for value in _captured(inner, graph) if value not in seen)
            seen.update(_captured(inner, graph))
            yield from _defined(inner)
        yield from node.outputs
    for value in sorted(graph.initializers.values(), key=lambda value: value.name):
        if value not in seen:
            yield value


def _captured(inner, graph):
    """Return the initializers of ``graph`` that a subgraph reads, in order."""
    found = {}
    for node in inner:
        for value in node.inputs:
            if value is not None and value.is_initializer() and value.graph is graph:
                found[value] = None
        for deeper in subgraphs_of(node):
            found.update(dict.fromkeys(_captured(deeper, graph)))
    return list(found)


def _all_graphs(graph):
    yield graph
    for node in graph:
        for inner in subgraphs_of(node):
            yield from _all_graphs(inner)


def _number(name):
    return int(name[1:]) if name[1:].isdigit() else -1
