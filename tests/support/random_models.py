"""Hypothesis strategies for ONNX models that are valid, run anywhere, and are full of traps.

Every value is known by name, element type and dimensions while a graph is drawn, so that each operator
is only applied to what it takes. The traps: constants such as NaN, -0.0 and infinities, dimensions of
size zero, duplicated nodes and weights, weights that a caller may override, values captured by
subgraphs, optional inputs left out, and random nodes.
"""

import math
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from graphopt.analysis import infer_shapes
from graphopt.ir import normalise

FLOAT, INT, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
DTYPES = {FLOAT: np.float32, INT: np.int64, BOOL: np.bool_}
SPECIAL = {
    FLOAT: [0.0, -0.0, 1.0, -1.0, 2.0, 0.5, math.nan, math.inf, -math.inf, 1e-8, 1.00001],
    INT: [0, 1, -1, 2, 3, 7, 2**62, -(2**63)],
    BOOL: [False, True],
}
SIZES = [0, 1, 2, 3, 4]
WIDTHS = st.sampled_from([1, 2, 3, 600, 600])  # the last makes weights that are worth quantizing
BATCH = "N"
OPSET = 20
TOY_DOMAIN = "toy"


@dataclass(frozen=True)
class Known:
    """A value of the graph that is being drawn."""

    name: str
    kind: int
    dims: tuple


@dataclass
class Scope:
    """A graph that is being drawn, and what its nodes may read."""

    draw: object
    names: list
    values: list = field(default_factory=list)
    nodes: list = field(default_factory=list)
    initializers: list = field(default_factory=list)
    depth: int = 0

    def fresh(self):
        self.names.append(None)
        return f"t{len(self.names)}"

    def pick(self, *kinds, where=lambda value: True):
        """Return a value of one of these types, or None."""
        found = [value for value in self.values if value.kind in kinds and where(value)]
        # The newest twice: chains are more interesting than fans.
        return self.draw(st.sampled_from([*found, *found[-2:]])) if found else None

    def node(self, op, inputs, kind, dims, **attributes):
        name = self.fresh()
        names = [value.name if value else "" for value in inputs]
        self.nodes.append(helper.make_node(op, names, [name], **attributes))
        value = Known(name, kind, tuple(dims))
        self.values.append(value)
        return value

    def weight(self, array, *, as_node=False):
        """Store a constant as an initializer or as a node."""
        array = np.asarray(array)
        kind = {np.dtype(dtype): key for key, dtype in DTYPES.items()}[array.dtype]
        name = self.fresh()
        tensor = numpy_helper.from_array(array, name)
        if as_node:
            self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        else:
            self.initializers.append(tensor)
        value = Known(name, kind, array.shape)
        self.values.append(value)
        return value


# -- constants ------------------------------------------------------------------------------------


def constant(scope, kind=None, dims=None):
    """Draw a constant with special values; sometimes a copy of one that is there."""
    draw = scope.draw
    if scope.initializers and dims is None and draw(st.integers(0, 3)) == 0:
        copied = numpy_helper.to_array(draw(st.sampled_from(scope.initializers)))
        if kind is None or copied.dtype == DTYPES[kind]:
            return scope.weight(copied)
    kind = kind or draw(st.sampled_from([FLOAT, FLOAT, INT, BOOL]))
    dims = draw(st.sampled_from([(), (1,), (2,), (2, 3), (0,)])) if dims is None else dims
    count = math.prod(dims)
    values = draw(st.lists(st.sampled_from(SPECIAL[kind]), min_size=count, max_size=count))
    array = np.array(values, DTYPES[kind]).reshape(dims)
    return scope.weight(array, as_node=draw(st.booleans()))


def shape_constant(scope, numbers):
    return scope.weight(np.array(numbers, np.int64), as_node=scope.draw(st.booleans()))


# -- operators: each returns a value, or None where it does not fit -----------------------------------


def unary(scope):
    if (x := scope.pick(FLOAT)) is None:
        return None
    ops = ["Identity", "Relu", "Neg", "Abs", "Sigmoid", "Sqrt", "Exp", "Tanh", "Dropout"]
    return scope.node(scope.draw(st.sampled_from(ops)), [x], x.kind, x.dims)


def unary_other(scope):
    if (x := scope.pick(INT, BOOL)) is None:
        return None
    ops = ["Identity", "Neg", "Abs"] if x.kind == INT else ["Identity", "Not"]
    return scope.node(scope.draw(st.sampled_from(ops)), [x], x.kind, x.dims)


def binary(scope):
    if (x := scope.pick(FLOAT, INT)) is None:
        return None
    if scope.draw(st.booleans()):
        y = constant(scope, x.kind, scope.draw(st.sampled_from([(), (1,)])))
    else:
        y = scope.pick(x.kind, where=lambda value: value.dims == x.dims)
    # Integer division by zero is undefined, and so is the smallest integer by -1.
    ops = ["Add", "Sub", "Mul", "Max", "Min"] + (["Div", "Pow"] if x.kind == FLOAT else [])
    pair = [x, y] if scope.draw(st.booleans()) else [y, x]
    dims = y.dims if len(y.dims) > len(x.dims) else x.dims
    return scope.node(scope.draw(st.sampled_from(ops)), pair, x.kind, dims)


def compare(scope):
    if (x := scope.pick(FLOAT, INT)) is None:
        return None
    y = constant(scope, x.kind, ())
    return scope.node(scope.draw(st.sampled_from(["Less", "Equal"])), [x, y], BOOL, x.dims)


def select(scope):
    if (x := scope.pick(FLOAT)) is None:
        return None
    y = scope.pick(FLOAT, where=lambda value: value.dims == x.dims)
    condition = constant(scope, BOOL, ())
    return scope.node("Where", [condition, x, y], FLOAT, x.dims)


def clip(scope):
    """Clip with one or both limits left out."""
    if (x := scope.pick(FLOAT)) is None:
        return None
    low = constant(scope, FLOAT, ()) if scope.draw(st.booleans()) else None
    high = constant(scope, FLOAT, ()) if scope.draw(st.booleans()) else None
    return scope.node("Clip", [x, low, high], FLOAT, x.dims)


def cast(scope):
    if (x := scope.pick(FLOAT, INT, BOOL)) is None:
        return None
    # Floats to integers is left out: out of range it is undefined.
    to = {FLOAT: [FLOAT, BOOL], INT: [INT, FLOAT, BOOL], BOOL: [INT, FLOAT, BOOL]}[x.kind]
    kind = scope.draw(st.sampled_from(to))
    return scope.node("Cast", [x], kind, x.dims, to=kind)


def transpose(scope):
    if (x := scope.pick(FLOAT, INT, BOOL, where=lambda v: 2 <= len(v.dims) <= 4)) is None:
        return None
    order = scope.draw(st.permutations(range(len(x.dims))))
    return scope.node("Transpose", [x], x.kind, [x.dims[axis] for axis in order], perm=order)


def reshape(scope):
    """Flatten to two dimensions, or keep the shape."""
    if (x := scope.pick(FLOAT, INT, where=lambda v: v.dims and 0 not in v.dims)) is None:
        return None
    if scope.draw(st.booleans()):
        return scope.node("Reshape", [x, shape_constant(scope, [0] * len(x.dims))], x.kind, x.dims)
    rest = x.dims[1:]
    if BATCH in rest:
        return None
    target = shape_constant(scope, [0, -1])
    return scope.node("Reshape", [x, target], x.kind, (x.dims[0], math.prod(rest)))


def unsqueeze(scope):
    if (x := scope.pick(FLOAT, INT, where=lambda v: len(v.dims) <= 3)) is None:
        return None
    axis = scope.draw(st.integers(0, len(x.dims)))
    dims = (*x.dims[:axis], 1, *x.dims[axis:])
    return scope.node("Unsqueeze", [x, shape_constant(scope, [axis])], x.kind, dims)


def squeeze(scope):
    if (x := scope.pick(FLOAT, INT, where=lambda v: 1 in v.dims)) is None:
        return None
    axis = x.dims.index(1)
    dims = x.dims[:axis] + x.dims[axis + 1 :]
    return scope.node("Squeeze", [x, shape_constant(scope, [axis])], x.kind, dims)


def concat(scope):
    where = lambda v: v.dims and v.dims[-1] != BATCH  # noqa: E731
    if (x := scope.pick(FLOAT, INT, where=where)) is None:
        return None
    count = scope.draw(st.integers(1, 2))
    dims = (*x.dims[:-1], x.dims[-1] * count)
    return scope.node("Concat", [x] * count, x.kind, dims, axis=-1)


def cut(scope):
    """Slice of everything, of a part, or of nothing."""
    where = lambda v: v.dims and v.dims[-1] != BATCH  # noqa: E731
    if (x := scope.pick(FLOAT, INT, where=where)) is None:
        return None
    end = scope.draw(st.sampled_from([x.dims[-1], max(0, x.dims[-1] - 1), 0, 2**31]))
    limits = [shape_constant(scope, [number]) for number in (0, end, -1)]
    return scope.node("Slice", [x, *limits], x.kind, (*x.dims[:-1], min(end, x.dims[-1])))


def pad(scope):
    if (x := scope.pick(FLOAT, where=lambda v: v.dims)) is None:
        return None
    amounts = [0] * (2 * len(x.dims))
    amounts[-1] = scope.draw(st.integers(0, 1)) if x.dims[-1] != BATCH else 0
    dims = (*x.dims[:-1], x.dims[-1] + amounts[-1]) if amounts[-1] else x.dims
    return scope.node("Pad", [x, shape_constant(scope, amounts)], FLOAT, dims)


def matmul(scope):
    where = lambda v: len(v.dims) >= 2 and v.dims[-1] != BATCH  # noqa: E731
    if (x := scope.pick(FLOAT, where=where)) is None:
        return None
    shape = (x.dims[-1], scope.draw(WIDTHS))
    values = np.random.default_rng(scope.draw(st.integers(0, 2))).normal(size=shape)
    weight = scope.weight(values.astype(np.float32))
    return scope.node("MatMul", [x, weight], FLOAT, (*x.dims[:-1], shape[1]))


def gemm(scope):
    where = lambda v: len(v.dims) == 2 and v.dims[-1] not in (BATCH, 0)  # noqa: E731
    if (x := scope.pick(FLOAT, where=where)) is None:
        return None
    shape = (scope.draw(WIDTHS), x.dims[-1])
    values = np.random.default_rng(scope.draw(st.integers(0, 2))).normal(size=shape)
    weight = scope.weight(values.astype(np.float32))
    bias = scope.weight(values[:, 0].astype(np.float32)) if scope.draw(st.booleans()) else None
    return scope.node("Gemm", [x, weight, bias], FLOAT, (x.dims[0], shape[0]), transB=1)


def shape_of(scope):
    x = scope.pick(FLOAT, INT)
    return None if x is None else scope.node("Shape", [x], INT, (len(x.dims),))


def gather(scope):
    where = lambda v: len(v.dims) >= 1 and v.dims[0] not in (BATCH, 0)  # noqa: E731
    if (x := scope.pick(FLOAT, INT, where=where)) is None:
        return None
    indices = shape_constant(scope, [x.dims[0] - 1, 0])
    return scope.node("Gather", [x, indices], x.kind, (2, *x.dims[1:]))


def weighted(scope):
    """Add or multiply by a weight of which there are few different ones."""
    where = lambda v: v.dims and v.dims[-1] not in (BATCH, 0)  # noqa: E731
    if (x := scope.pick(FLOAT, where=where)) is None:
        return None
    values = np.random.default_rng(scope.draw(st.integers(0, 1))).normal(size=x.dims[-1])
    weight = scope.weight(values.astype(np.float32), as_node=scope.draw(st.booleans()))
    return scope.node(scope.draw(st.sampled_from(["Add", "Mul"])), [x, weight], FLOAT, x.dims)


def chain(scope):
    """The same kind of node two or three times in a row."""
    kind = scope.draw(st.sampled_from(["Transpose", "Reshape", "Cast", "Unsqueeze", "Squeeze"]))
    if (x := scope.pick(FLOAT, INT, where=lambda v: 2 <= len(v.dims) <= 3)) is None:
        return None
    for _ in range(scope.draw(st.integers(2, 3))):
        x = _link(scope, kind, x)
    return x


def _link(scope, kind, x):
    rank = len(x.dims)
    if kind == "Transpose":
        order = scope.draw(st.permutations(range(rank)))
        return scope.node(kind, [x], x.kind, [x.dims[axis] for axis in order], perm=order)
    if kind == "Reshape":
        return scope.node(kind, [x, shape_constant(scope, [0] * rank)], x.kind, x.dims)
    if kind == "Cast":
        to = scope.draw(st.sampled_from([FLOAT, BOOL] if x.kind == FLOAT else [FLOAT, INT, BOOL]))
        return scope.node(kind, [x], to, x.dims, to=to)
    if kind == "Squeeze" and 1 in x.dims:
        axis = x.dims.index(1)
        axes = shape_constant(scope, [axis])
        return scope.node(kind, [x, axes], x.kind, x.dims[:axis] + x.dims[axis + 1 :])
    axis = scope.draw(st.integers(0, rank))
    dims = (*x.dims[:axis], 1, *x.dims[axis:])
    return scope.node("Unsqueeze", [x, shape_constant(scope, [axis])], x.kind, dims)


def random_shape(scope):
    """A random node of which only the shape is read."""
    if (x := scope.pick(FLOAT)) is None:
        return None
    if scope.draw(st.booleans()):
        drawn = scope.node("RandomUniformLike", [x], FLOAT, x.dims)
    else:
        half = scope.weight(np.array(0.5, np.float32), as_node=True)  # nobody may override it
        train = scope.weight(np.array(True))
        drawn = scope.node("Dropout", [x, half, train], FLOAT, x.dims)
    scope.values.remove(drawn)
    return scope.node("Shape", [drawn], INT, (len(x.dims),))


def random_pair(scope):
    """Two draws of the same random node: merging them would make them equal, which they never are."""
    where = lambda v: v.dims and 0 not in v.dims  # noqa: E731
    if (x := scope.pick(FLOAT, where=where)) is None:
        return None
    domain = scope.draw(st.sampled_from(["", TOY_DOMAIN]))
    op = (
        "Noise"
        if domain
        else scope.draw(st.sampled_from(["RandomNormalLike", "RandomUniformLike"]))
    )
    pair = [scope.node(op, [x], FLOAT, x.dims, domain=domain) for _ in range(2)]
    for drawn in pair:
        scope.values.remove(drawn)
    return scope.node("Equal", pair, BOOL, x.dims)


def call(scope):
    """A function of the model."""
    if (x := scope.pick(FLOAT)) is None:
        return None
    name = scope.draw(st.sampled_from(["Twice", "Scaled", "Nested", "Chosen"]))
    given = {}
    if name in ("Scaled", "Nested") and scope.draw(st.booleans()):
        given["alpha"] = scope.draw(st.sampled_from([0.0, -0.0, 0.25]))
    return scope.node(name, [x], FLOAT, x.dims, domain=TOY_DOMAIN, **given)


def repeat(scope):
    """The same node once more."""
    plain = [node for node in scope.nodes if node.op_type not in ("Constant", "If", "Loop")]
    known = {value.name: value for value in scope.values}
    plain = [node for node in plain if node.output[0] in known and len(node.output) == 1]
    if not plain:
        return None
    again = onnx.NodeProto()
    again.CopyFrom(scope.draw(st.sampled_from(plain)))
    original = known[again.output[0]]
    again.output[0] = scope.fresh()
    scope.nodes.append(again)
    value = Known(again.output[0], original.kind, original.dims)
    scope.values.append(value)
    return value


def branch(scope):
    """If: both branches capture, have constants of their own, and may hold the same nodes."""
    if scope.depth or (x := scope.pick(FLOAT)) is None:
        return None
    condition = scope.pick(BOOL, where=lambda v: v.dims == ()) or constant(scope, BOOL, ())
    bodies = []
    for name in ("then", "else"):
        inner = _inner(scope)
        result = _grown(inner, x, scope.draw(st.integers(0, 3)))
        bodies.append(_graph(inner, f"{name}_{scope.fresh()}", [], [result]))
    return scope.node(
        "If", [condition], FLOAT, x.dims, then_branch=bodies[0], else_branch=bodies[1]
    )


def loop(scope):
    """Loop: one carried value, of constant shape; the body also captures."""
    if scope.depth or (x := scope.pick(FLOAT)) is None:
        return None
    trips = scope.weight(np.array(scope.draw(st.integers(0, 2)), np.int64))
    inner = _inner(scope)
    step, go_on = inner.fresh(), inner.fresh()
    carried = Known(inner.fresh(), FLOAT, x.dims)
    inner.values.append(carried)
    result = _grown(inner, carried, scope.draw(st.integers(1, 3)))
    kept = inner.fresh()
    inner.nodes.append(helper.make_node("Identity", [go_on], [kept]))
    inputs = [Known(step, INT, ()), Known(go_on, BOOL, ()), carried]
    body = _graph(inner, f"body_{scope.fresh()}", inputs, [Known(kept, BOOL, ()), result])
    return scope.node("Loop", [trips, None, x], FLOAT, x.dims, body=body)


def _inner(scope):
    return Scope(scope.draw, scope.names, list(scope.values), depth=scope.depth + 1)


def _grown(inner, start, steps):
    """Add nodes that keep type and dimensions, and return the last value, made by this graph."""
    current = start
    for _ in range(steps):
        op = inner.draw(st.sampled_from(["Relu", "Neg", "Identity", "Add", "Mul", "Outer"]))
        if op in ("Add", "Mul"):
            current = inner.node(op, [current, constant(inner, FLOAT, ())], FLOAT, start.dims)
        elif op == "Outer":
            other = inner.pick(FLOAT, where=lambda value: value.dims == start.dims)
            current = inner.node("Add", [current, other], FLOAT, start.dims)
        else:
            current = inner.node(op, [current], FLOAT, start.dims)
    return inner.node("Identity", [current], FLOAT, start.dims) if not steps else current


OPERATORS = [
    *(unary, unary, binary, binary, compare, select, clip, cast, transpose, transpose, reshape),
    *(reshape, unsqueeze, squeeze, concat, cut, pad, matmul, gemm, shape_of, gather, random_shape),
    *(repeat, repeat, branch, loop, constant, unary_other, weighted, weighted, chain, chain),
    *(random_pair, call, matmul, gemm),
]


def _info(value):
    return helper.make_tensor_value_info(value.name, value.kind, list(value.dims))


def _graph(scope, name, inputs, outputs):
    return helper.make_graph(
        scope.nodes,
        name,
        [_info(value) for value in inputs],
        [_info(value) for value in outputs],
        initializer=scope.initializers,
    )


def _functions():
    imports = [helper.make_opsetid("", OPSET)]
    noise = [helper.make_node("RandomUniformLike", ["a"], ["b"])]
    twice = [
        helper.make_node("Identity", ["a"], ["t"]),
        helper.make_node("Constant", [], ["two"], value_float=2.0),
        helper.make_node("Mul", ["t", "two"], ["m"]),
        helper.make_node("Exp", ["a"], ["unread"]),
        helper.make_node("Identity", ["m"], ["b"]),
    ]
    return [
        *(
            helper.make_function(TOY_DOMAIN, name, ["a"], ["b"], nodes, imports)
            for name, nodes in (("Noise", noise), ("Twice", twice), ("Chosen", _chosen()))
        ),
        _function_with_default("Scaled", [_referring("Elu", "a", "b")], imports),
        _function_with_default(
            "Nested",
            [
                _referring("Scaled", "a", "s", domain=TOY_DOMAIN),
                helper.make_node("Twice", ["s"], ["b"], domain=TOY_DOMAIN),
            ],
            [*imports, helper.make_opsetid(TOY_DOMAIN, 1)],
        ),
    ]


def _chosen():
    """Return the nodes of a function with branches that capture a value of its own."""
    branches = {
        f"{title}_branch": helper.make_graph(
            [helper.make_node(op, ["t"], [title])],
            title,
            [],
            [helper.make_tensor_value_info(title, FLOAT, None)],
        )
        for title, op in (("then", "Exp"), ("else", "Neg"))
    }
    return [
        helper.make_node("Relu", ["a"], ["t"]),
        helper.make_node("Size", ["a"], ["size"]),
        helper.make_node("Constant", [], ["four"], value_int=4),
        helper.make_node("Less", ["size", "four"], ["few"]),
        helper.make_node("If", ["few"], ["b"], **branches),
    ]


def _referring(op, source, result, **settings):
    """Return a node whose `alpha` the caller of the function around it gives."""
    node = helper.make_node(op, [source], [result], **settings)
    node.attribute.add(name="alpha", ref_attr_name="alpha", type=onnx.AttributeProto.FLOAT)
    return node


def _function_with_default(name, nodes, imports):
    default = [helper.make_attribute("alpha", 0.5)]
    return helper.make_function(
        TOY_DOMAIN, name, ["a"], ["b"], nodes, imports, attribute_protos=default
    )


@st.composite
def models(draw, max_nodes=20, favour=(), alone=None):
    """Draw a model with one to three inputs and one to three outputs.

    Args:
        draw: Given by hypothesis.
        max_nodes: Most steps; some add several nodes, and some none.
        favour: Operators, of this module, to draw half of the time.
        alone: Which value the model returns, the last one and no other; where there is one.
    """
    operators = [*OPERATORS, *(list(favour) * (len(OPERATORS) // max(1, len(favour))))]
    scope = Scope(draw, [])
    inputs = [_input(scope, index) for index in range(draw(st.integers(1, 3)))]
    scope.values = list(inputs)
    # Not `integers`, which prefers few: a trap needs company to spring.
    for _ in range(draw(st.sampled_from([*range(1, 4), *range(8, max_nodes + 1)]))):
        draw(st.sampled_from(operators))(scope)
    if draw(st.integers(0, 3)) == 0:
        inputs += _overridable(scope)
    made = {output for node in scope.nodes for output in node.output}
    if draw(st.integers(0, 7)) == 0:  # a graph may return a weight
        made |= {tensor.name for tensor in scope.initializers}
    made -= {value.name for value in inputs}
    candidates = [value for value in scope.values if value.name in made]
    if not candidates:
        candidates = [scope.node("Identity", [inputs[0]], inputs[0].kind, inputs[0].dims)]
    count = draw(st.integers(1, min(3, len(candidates))))
    outputs = draw(st.permutations(candidates[-5:]))[:count]
    if alone is not None:
        outputs = [value for value in candidates if alone(value)][-1:] or outputs
    graph = _graph(scope, "main", inputs, outputs)
    others = {node.domain for node in scope.nodes} - {""}
    is_calling = TOY_DOMAIN in others
    imports = [("", OPSET), *((domain, 1) for domain in sorted(others))]
    proto = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid(*entry) for entry in imports],
        ir_version=10,
        functions=_functions() if is_calling else [],
    )
    model = normalise(ir.from_proto(proto))
    if draw(st.booleans()):
        _declare_types(model)
    return model


def _declare_types(model):
    """Declare what is known of intermediate values, as exporters do."""
    shapes = infer_shapes(model)
    for node in model.graph:
        for value in node.outputs:
            known = shapes.of(value)
            if not value.is_graph_output() and known is not None and known.dtype is not None:
                value.type = ir.TensorType(known.dtype)
                value.shape = None if known.dims is None else ir.Shape(known.dims)


def _input(scope, index):
    kind = FLOAT if index == 0 else scope.draw(st.sampled_from([FLOAT, INT, BOOL]))
    dims = scope.draw(st.lists(st.sampled_from(SIZES), min_size=0, max_size=3))
    if dims and scope.draw(st.booleans()):
        dims[0] = BATCH
    return Known(f"x{index}", kind, tuple(dims))


def _overridable(scope):
    """Make an initializer of floats an input as well; an index would have to stay in its range."""
    floats = [tensor for tensor in scope.initializers if tensor.data_type == FLOAT]
    if not floats:
        return []
    tensor = scope.draw(st.sampled_from(floats))
    return [Known(tensor.name, FLOAT, tuple(tensor.dims))]


def feeds_of(model, batch, seed=0):
    """Return inputs with special values among them; overridable ones keep their default."""
    rng = np.random.default_rng(seed)
    feeds = {}
    for value in model.graph.inputs:
        if value.is_initializer() and batch % 2:
            continue
        dims = [dim if isinstance(dim, int) else batch for dim in value.shape]
        feeds[value.name] = _array(rng, value.dtype, dims)
    return feeds


def _array(rng, dtype, dims):
    if dtype == ir.DataType.BOOL:
        return rng.integers(0, 2, dims).astype(np.bool_)
    if dtype == ir.DataType.INT64:
        return rng.integers(-3, 4, dims)
    values = rng.normal(size=dims).astype(np.float32)
    special = np.array(SPECIAL[FLOAT], np.float32)[rng.integers(0, len(SPECIAL[FLOAT]), dims)]
    return np.where(rng.random(dims) < 0.3, special, values).astype(np.float32)
