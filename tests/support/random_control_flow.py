"""Subgraphs of every kind: outcomes and trip counts that are known, what never varies, what nobody reads."""

import numpy as np
from hypothesis import strategies as st
from onnx import helper
from random_models import BOOL, FLOAT, INT, Known, Scope, branch, constant, loop


def _coin(scope):
    return scope.draw(st.booleans())


def _inner(scope):
    return Scope(scope.draw, scope.names, list(scope.values), depth=scope.depth + 1)


def _step(inner, x):
    """Add one node that keeps type and dimensions, random ones and outer values among them."""
    op = inner.draw(st.sampled_from(["Relu", "Neg", "Exp", "Identity", "Add", "Outer", "Mul"]))
    if op in ("Add", "Mul"):
        return inner.node(op, [x, constant(inner, FLOAT, ())], FLOAT, x.dims)
    if op == "Outer":
        other = inner.pick(FLOAT, where=lambda value: value.dims == x.dims)
        return inner.node("Mul", [other, x], FLOAT, x.dims)
    return inner.node(op, [x], FLOAT, x.dims)


def _graph(inner, outputs, inputs=()):
    infos = [
        [helper.make_tensor_value_info(v.name, v.kind, list(v.dims)) for v in values]
        for values in (inputs, outputs)
    ]
    return helper.make_graph(inner.nodes, inner.fresh(), *infos, initializer=inner.initializers)


def _returned(inner, value):
    """Return ``value``, or a copy where the subgraph does not compute it."""
    made = {name for node in inner.nodes for name in node.output}
    if value.name in made or value.name in {tensor.name for tensor in inner.initializers}:
        return value
    return inner.node("Identity", [value], value.kind, value.dims)


def _apply(scope, op, inputs, outputs, **attributes):
    """Add a node with several outputs, of which only some are known to what comes after."""
    values = [Known(scope.fresh(), kind, dims) for kind, dims in outputs]
    names = [value.name if value else "" for value in inputs]
    scope.nodes.append(helper.make_node(op, names, [v.name for v in values], **attributes))
    read = [value for value in values if scope.draw(st.integers(0, 2))]
    scope.values += read or values[:1]
    return values


def decided(scope):
    """If whose condition is a constant, or has decided about an If around it."""
    if scope.depth > 1 or (x := scope.pick(FLOAT)) is None:
        return None
    condition = scope.pick(BOOL, where=lambda value: value.dims == ())
    if condition is None or _coin(scope):
        condition = constant(scope, BOOL, ())
    bodies = []
    for _ in range(2):
        inner = _inner(scope)
        first, second = _step(inner, x), x
        if _coin(scope) and scope.depth == 0:
            inner.values.append(condition)
            first = decided(inner) or first
        if _coin(scope) and _is_static(x.dims):
            second = inner.weight(np.zeros(x.dims, np.float32))
        outputs = [_returned(inner, _fitting(inner, first, x)), _returned(inner, second)]
        bodies.append(_graph(inner, outputs))
    branches = {"then_branch": bodies[0], "else_branch": bodies[1]}
    return _apply(scope, "If", [condition], [(FLOAT, x.dims)] * 2, **branches)[0]


def _is_static(dims):
    """Tell whether every dimension is a number."""
    return all(isinstance(dim, int) for dim in dims)


def _fitting(inner, value, x):
    return value if value.dims == x.dims else _step(inner, x)


def common(scope):
    """If whose branches begin alike, and may be alike altogether."""
    if scope.depth or (x := scope.pick(FLOAT)) is None:
        return None
    condition = scope.pick(BOOL, where=lambda value: value.dims == ())
    if condition is None:
        size = scope.node("Size", [x], INT, ())
        condition = scope.node("Less", [size, scope.weight(np.array(3))], BOOL, ())
    ops = scope.draw(st.lists(st.sampled_from(["Exp", "Relu", "Neg"]), min_size=1, max_size=3))
    bodies = []
    for _ in range(2):
        inner, value = _inner(scope), x
        for op in ops:
            value = inner.node(op, [value], FLOAT, x.dims)
        if _coin(scope):
            value = _step(inner, value)
        bodies.append(_graph(inner, [_returned(inner, value)]))
    return scope.node(
        "If", [condition], FLOAT, x.dims, then_branch=bodies[0], else_branch=bodies[1]
    )


def repeated(scope):
    """Loop that computes something of outer values alone in each trip, maybe zero times."""
    if scope.depth > 1 or (x := scope.pick(FLOAT)) is None:
        return None
    trips = scope.pick(INT, where=lambda value: value.dims == ())
    if trips is None or _coin(scope):
        trips = scope.weight(np.array(scope.draw(st.integers(0, 3)), np.int64))
    else:  # a number that is not known, and is not large
        trips = scope.node("Min", [trips, scope.weight(np.array(3))], INT, ())
    inner = _inner(scope)
    inputs = [Known(inner.fresh(), *kind) for kind in ((INT, ()), (BOOL, ()), (FLOAT, x.dims))]
    inner.values.append(inputs[2])
    for _ in range(scope.draw(st.integers(1, 3))):
        _step(inner, inner.pick(FLOAT, where=lambda value: value.dims == x.dims))
    if scope.depth == 0 and scope.draw(st.integers(0, 2)) == 0:
        repeated(inner)
    last = inner.pick(FLOAT, where=lambda value: value.dims == x.dims)
    state = inner.node("Add", [last, inputs[2]], FLOAT, x.dims)
    go_on = inner.node("Identity", [inputs[1]], BOOL, ())
    body = _graph(inner, [go_on, state], inputs)
    return scope.node("Loop", [trips, None, x], FLOAT, x.dims, body=body)


CONTROL_FLOW = {
    "hoist-common-nodes": (common, common, decided),
    "hoist-loop-invariants": (repeated, repeated, loop),
    "inline-constant-branches": (decided, decided, common, branch),
}
"""By pass: the operators to draw often, so that there are places for it."""
