"""Subgraphs of every kind: outcomes and trip counts that are known, what never varies, what nobody reads."""

import numpy as np
from hypothesis import strategies as st
from onnx import helper
from random_models import BOOL, FLOAT, INT, Known, Scope, branch, call, constant, loop, random_pair


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


def counted(scope):
    """Loop with a known number of trips, state of which some never changes, and what it collects."""
    if scope.depth > 1 or (x := scope.pick(FLOAT)) is None:
        return None
    trips = scope.draw(st.integers(0, 3))
    y = scope.pick(FLOAT)
    inner = _inner(scope)
    kinds = [(INT, ()), (BOOL, ()), (FLOAT, x.dims), (FLOAT, y.dims)]
    inputs = [Known(inner.fresh(), *kind) for kind in kinds]
    inner.values += inputs[2:]
    for _ in range(scope.draw(st.integers(0, 2))):
        _step(inner, inner.pick(FLOAT))
    if scope.depth == 0 and scope.draw(st.integers(0, 2)) == 0:
        counted(inner)
    state = [_step(inner, value) if _coin(scope) else value for value in inputs[2:]]
    going = _coin(scope)
    go_on = inputs[1] if going else inner.weight(np.array(scope.draw(st.booleans())))
    collected = [_step(inner, inner.pick(FLOAT)) for _ in range(scope.draw(st.integers(0, 2)))]
    outputs = [_copied(inner, value) for value in (go_on, *state, *collected)]
    body = _graph(inner, outputs, inputs)
    outer = [(FLOAT, value.dims) for value in inputs[2:]]
    # Nobody else may count on the number of trips, which the condition may cut short.
    outer += [(FLOAT, (None, *value.dims)) for value in collected]
    limit = scope.weight(np.array(trips))
    start = constant(scope, BOOL, ()) if scope.draw(st.integers(0, 3)) == 0 else None
    values = _apply(scope, "Loop", [limit, start, x, y], outer, body=body)
    for value in values[2:]:
        if value in scope.values:
            scope.values.remove(value)
            scope.node("Shape", [value], INT, (len(value.dims),))
    return values[0]


def _copied(inner, value):
    """Return a value of its own: a body may return its input, but the runtime takes no value twice."""
    return inner.node("Identity", [value], value.kind, value.dims)


def scanned(scope):
    """Scan with state that may never change, and outputs and scanned inputs that nobody reads."""
    where = lambda value: value.dims and value.dims[0] not in (0, "N")  # noqa: E731
    if scope.depth or (x := scope.pick(FLOAT, where=where)) is None:
        return None
    y = scope.pick(FLOAT)
    inner = _inner(scope)
    inputs = [Known(inner.fresh(), FLOAT, y.dims)]
    inputs += [Known(inner.fresh(), FLOAT, x.dims[1:]) for _ in range(2)]
    inner.values += inputs
    for _ in range(scope.draw(st.integers(0, 2))):
        _step(inner, inner.pick(FLOAT))
    state = _step(inner, inputs[0]) if _coin(scope) else inputs[0]
    collected = [_step(inner, inner.pick(FLOAT)) for _ in range(2)]
    outputs = [_copied(inner, value) for value in (state, *collected)]
    body = _graph(inner, outputs, inputs)
    outer = [(FLOAT, y.dims), *((FLOAT, (x.dims[0], *value.dims)) for value in collected)]
    return _apply(scope, "Scan", [y, x, x], outer, body=body, num_scan_inputs=2)[0]


def statistics(scope):
    """LayerNormalization and Dropout with outputs that nobody reads."""
    where = lambda value: value.dims and value.dims[-1] not in (0, "N")  # noqa: E731
    if (x := scope.pick(FLOAT, where=where)) is None:
        return None
    if _coin(scope):
        return _apply(scope, "Dropout", [x], [(FLOAT, x.dims), (BOOL, x.dims)])[0]
    scale = scope.weight(np.ones(x.dims[-1], np.float32))
    reduced = (FLOAT, (*x.dims[:-1], 1))
    outputs = [(FLOAT, x.dims), reduced, reduced]
    return _apply(scope, "LayerNormalization", [x, scale], outputs, axis=-1)[0]


CONTROL_FLOW = {
    "eliminate-constant-state": (counted, counted, scanned),
    "eliminate-unused-outputs": (counted, scanned, decided, statistics),
    "hoist-common-nodes": (common, common, decided),
    "hoist-loop-invariants": (repeated, repeated, loop),
    "inline-functions": (call, call, random_pair),
    "inline-constant-branches": (decided, decided, common, branch),
    "unroll-loops": (counted, counted, repeated),
}
"""By pass: the operators to draw often, so that there are places for it."""
