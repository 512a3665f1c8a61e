"""Walking a model: layouts of its values, and what is tied to what."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from graphopt.analysis.annotations import annotation_parameters, is_annotated
from graphopt.analysis.coupling.attention_rules import ATTENTION_RULES
from graphopt.analysis.coupling.elementwise_rules import ELEMENTWISE_RULES
from graphopt.analysis.coupling.layouts import Layout, opaque
from graphopt.analysis.coupling.linear_rules import LINEAR_RULES
from graphopt.analysis.coupling.moving_rules import MOVING_RULES
from graphopt.analysis.coupling.quantizer_rules import QUANTIZER_RULES
from graphopt.analysis.coupling.units import Units
from graphopt.analysis.coupling.walk import Use, Walk, name_of
from graphopt.analysis.reads import values_read
from graphopt.analysis.symbolic_expressions import Integer
from graphopt.analysis.symbolic_shapes import SymbolicShapes
from graphopt.ir import constant_tensor, subgraphs_of
from graphopt.rewrite import ShapeTable

__all__ = ["Coupling", "couple", "reason"]

_RULES = {
    **ELEMENTWISE_RULES,
    **LINEAR_RULES,
    **MOVING_RULES,
    **ATTENTION_RULES,
    **QUANTIZER_RULES,
}
_DOMAINS = ("", "com.microsoft")
_CACHE_RANK, _HEADS_AXIS = 4, 1
_RECURRENT = ("GRU", "LSTM", "RNN", "DynamicQuantizeLSTM")
_INTEGER = ("Integer", "QLinear", "QGemm", "QAttention", "NBits", "Bnb4")


@dataclass(frozen=True)
class Coupling:
    """What a model ties together.

    Attributes:
        layouts: The axes of every value of the main graph, weights included.
        units: The units of all their indices.
        uses: What operators do with dimensions that can lose indices.
    """

    layouts: dict[ir.Value, Layout]
    units: Units
    uses: tuple[Use, ...]


def couple(model: ir.Model, shapes: ShapeTable, *, caches: bool = False) -> Coupling:
    """Return what the operators of the main graph tie together.

    Every axis of a constant is a dimension that may lose indices, and what is computed inherits
    its axes from there. What operators do that have no rule here, what subgraphs read, and what
    the model takes and returns, cannot change. Time O(nodes + elements of their axes).

    Args:
        model: The model.
        shapes: Shapes of its values.
        caches: Heads may go from caches of keys and values, (B, H, P, d), that the model takes and
            hands on: its interface changes.
    """
    walk = Walk(SymbolicShapes.kept(model, shapes))
    functions = model.functions
    for node in model.graph:
        is_known = node.domain in _DOMAINS and node.op_identifier() not in functions
        rule = _RULES.get(node.op_type) if is_known and not subgraphs_of(node) else None
        _visit(node, walk, rule)
    _pin_borders(model, walk, _caches(model, walk) if caches else frozenset())
    heads = [use.factor for use in walk.uses if use.role == "batches"]
    return Coupling(walk.layouts(), walk.ties.solve(heads), tuple(walk.uses))


def _caches(model: ir.Model, walk: Walk) -> frozenset[ir.Value]:
    """Return inputs and outputs that hold the same heads, of the same length."""
    solved = walk.ties.solve()
    heads: dict[ir.Value, frozenset[int]] = {}
    for value in (*model.graph.inputs, *model.graph.outputs):
        layout, dims = walk.layout(value), walk.dims(value)
        if layout is None or dims is None or len(dims) != _CACHE_RANK:
            continue
        factors = [factor for factor in layout[_HEADS_AXIS] if factor.atoms is not None]
        if factors and isinstance(dims[-1], int):  # the last one of a mask is a time
            heads[value] = frozenset(u for one in factors for u in solved.of(one).tolist())
    taken, returned = (
        frozenset(unit for value in ports for unit in heads.get(value, ()))
        for ports in (model.graph.inputs, model.graph.outputs)
    )
    return frozenset(value for value, units in heads.items() if units & taken & returned)


def _pin_port(value: ir.Value, slug: str, why: str, walk: Walk, *, is_cache: bool) -> None:
    for place, axis in enumerate(walk.layout(value) or ()):
        if not is_cache or place != _HEADS_AXIS:
            walk.pin_axis(axis, slug, why, value.name or "")


def _pin_borders(model: ir.Model, walk: Walk, caches: frozenset[ir.Value]) -> None:
    """Keep what others than the operators of the model see, or refer to by name."""
    referred = annotation_parameters(model)
    for value in model.graph.initializers.values():
        if constant_tensor(value) is None:
            walk.pin(walk.layout(value), "overridable", "callers may replace it", value.name or "")
        if value.name in referred or is_annotated(value):
            why = "a quantization annotation describes it"
            walk.pin(walk.layout(value), "annotated", why, value.name or "")
    for value in model.graph.inputs:
        _pin_port(value, "model-input", "callers give it", walk, is_cache=value in caches)
    for value in model.graph.outputs:
        _pin_port(value, "model-output", "the model returns it", walk, is_cache=value in caches)


def _visit(node: ir.Node, walk: Walk, rule: object) -> None:
    found = rule(node, walk) if callable(rule) else None
    where = name_of(node)
    if found is None and node.op_type != "Constant":
        slug, why = reason(node)
        for value in values_read(node):
            walk.pin(walk.layout(value), slug, why, where)
    for number, output in enumerate(node.outputs):
        layout = found[number] if found is not None and number < len(found) else None
        if node.op_type == "Constant" and not node.domain:
            continue  # a dimension of its own, at first sight
        dims = walk.dims(output)
        if layout is not None and dims is not None and len(layout) != len(dims):
            walk.pin(layout, "unclear-shape", "its rank is not what was inferred", where)
            layout = None
        if layout is None and found is not None and (output.uses() or output.is_graph_output()):
            why = "the shape of what is made of it is not known"
            for value in values_read(node):
                walk.pin(walk.layout(value), "unclear-shape", why, where)
        walk.set(output, walk.opaque(output) if layout is None else _told(layout, dims))


def reason(node: ir.Node) -> tuple[str, str]:
    """Return why nothing that a node without a rule reads can change."""
    if subgraphs_of(node):
        return "read-by-subgraph", f"the body of `{node.op_type}` reads it"
    if node.op_type in _RECURRENT:
        return "recurrent", f"`{node.op_type}` carries it from step to step"
    if any(word in node.op_type for word in _INTEGER):
        return "integer-layer", f"`{node.op_type}` computes in integers: prune before you quantize"
    return "unknown-operator", f"nothing is known of what `{node.op_type}` does with it"


def _told(layout: Layout, dims: tuple[Integer, ...] | None) -> Layout:
    """Return a layout in which axes that never change have the length that shapes tell.

    Broadcasting and slicing know some lengths by another name than shape inference does.
    """
    if dims is None:
        return layout
    return tuple(
        axis if any(factor.atoms is not None for factor in axis) else opaque(dim)
        for axis, dim in zip(layout, dims, strict=True)
    )
