"""Sizes as expressions: their algebra, what is known of values, and that it is so when they run."""

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st
from shape_programs import SIZES, feeds, shape_programs

from graphopt.analysis import infer_shapes
from graphopt.analysis.symbolic_expressions import (
    Symbols,
    assume_positive,
    divide,
    equality,
    is_nonnegative,
    is_positive,
    product,
    single_symbol,
    vanishes_with,
)
from graphopt.analysis.symbolic_shapes import SymbolicShapes
from graphopt.errors import RunError
from graphopt.ir import from_text, model_bytes, to_text
from graphopt.runtime import SessionOptions, shared_worker

SETTINGS = settings(
    max_examples=100,
    phases=[Phase.generate, Phase.shrink],
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


# -- algebra ----------------------------------------------------------------------------------------


def value_of(expression, numbers):
    """Compute an expression; ``numbers`` maps symbols to integers."""
    if isinstance(expression, int):
        return expression
    total = sum(
        coefficient * int(np.prod([numbers[symbol] for symbol in factors], dtype=object))
        for factors, coefficient in expression.terms.items()
    )
    return (total + 2**63) % 2**64 - 2**63


@st.composite
def pairs(draw):
    """Draw an expression, a function that computes the same, and the symbols."""
    symbols = Symbols()
    names = {name: symbols.named(name) for name in "abc"}
    leaves = st.sampled_from("abc") | st.integers(-3, 3)
    tree = draw(
        st.recursive(leaves, lambda t: st.tuples(st.sampled_from("+-*"), t, t), max_leaves=6)
    )

    def build(node):
        if isinstance(node, str):
            return names[node]
        if isinstance(node, int):
            return node
        operator, first, second = node[0], build(node[1]), build(node[2])
        return {"+": lambda: first + second, "-": lambda: first - second}.get(
            operator, lambda: first * second
        )()

    def compute(node, numbers):
        if not isinstance(node, tuple):
            return numbers[node] if isinstance(node, str) else node
        first, second = compute(node[1], numbers), compute(node[2], numbers)
        return {"+": first + second, "-": first - second, "*": first * second}[node[0]]

    return build(tree), lambda numbers: compute(tree, numbers), names


def symbol_of(expression):
    ((factors, _),) = expression.terms.items()
    return factors[0]


NUMBERS = st.fixed_dictionaries(dict.fromkeys("abc", st.integers(0, 5)))


@settings(SETTINGS, max_examples=300)
@given(pairs(), NUMBERS)
def test_expressions_compute_what_they_were_made_of(pair, numbers):
    expression, compute, names = pair
    bound = {symbol_of(names[name]): number for name, number in numbers.items()}
    assert value_of(expression, bound) == compute(numbers)
    if is_nonnegative(expression):
        assert compute(numbers) >= 0
    if is_positive(expression):
        assert compute(numbers) > 0


@settings(SETTINGS, max_examples=300)
@given(pairs(), NUMBERS)
def test_proofs_about_products_hold(pair, numbers):
    expression, _, names = pair
    bound = {symbol_of(names[name]): number for name, number in numbers.items()}
    shared = names["a"] * names["b"]
    total = expression * shared
    other = value_of(shared, bound)
    quotient = divide(total, shared)
    assert quotient == expression
    if is_nonnegative(expression) and vanishes_with(expression, shared) and other == 0:
        assert value_of(expression, bound) == 0
    decided = equality(expression, shared)
    if decided is not None:
        assert (value_of(expression, bound) == other) is decided


def test_equal_computations_are_equal_and_wrap_around():
    symbols = Symbols()
    a, b = symbols.named("a"), symbols.named("b")
    assert (a + b) * (a - b) == a * a - b * b
    assert hash(a * b) == hash(b * a)
    assert a - a == 0
    assert a * 2**63 * 2 == 0
    assert a != symbols.of("a")
    assert symbols.of(("quotient", a, 2)) == symbols.of(("quotient", a, 2))
    assert repr(2 * a * b - 1) == "-1+2*a*b"


def test_quotients_that_are_none():
    a, b = (Symbols().named("a") for _ in range(2))
    assert divide(a, 0) is None
    assert divide(2 * a + 1, 2) is None
    assert divide(a, b) is None
    assert divide(6, a) is None
    assert divide(-7, 2) == -3
    assert divide(4 * a + 2, 2) == 2 * a + 1
    assert divide(a + 1, a + 1) == 1


def test_what_is_assumed_positive():
    symbols = Symbols()
    a, b = symbols.named("a"), symbols.named("b")
    assert not is_positive(a * b)
    assert assume_positive(3 * a * b)
    assert not assume_positive(a)
    assert not assume_positive(a + b)
    assert not assume_positive(3)
    assert is_positive(a * b)
    assert is_positive(product([a, b, 2]))
    assert not is_positive(a - 1)


def test_long_sums_become_symbols():
    symbols = Symbols()
    total = sum(symbols.named(f"d{index}") for index in range(40))
    short = symbols.bounded(total)
    assert len(short.terms) == 1
    assert is_nonnegative(short)
    assert symbols.bounded(total) == short


# -- what is known of values ------------------------------------------------------------------------


def known(text):
    model = from_text(text)
    values = {value.name: value for value in model.graph.inputs}
    values |= {output.name: output for node in model.graph for output in node.outputs}
    analysis = SymbolicShapes(model, infer_shapes(model))
    return lambda name: (analysis.dims(values[name]), analysis.elements(values[name]))


def shown(text, name):
    dims, elements = known(text)(name)
    return str(dims), None if elements is None else str(elements.tolist())


X = "(float[B,S,6] x) => (float[P] z)"


@pytest.mark.parametrize(
    ("body", "dims"),
    [
        ("y = Transpose(x)", "(6, S, B)"),
        ("y = Flatten<axis = -1>(x)", "(B*S, 6)"),
        ("y = Concat<axis = -2>(x, x)", "(B, 2*S, 6)"),
        ("y = ReduceSum<keepdims = 0>(x)", "()"),
        ("y = ReduceMean<axes = [-1], keepdims = 1>(x)", "(B, S, 1)"),
        ("y = ArgMax<axis = 1, keepdims = 0>(x)", "(B, 6)"),
        ("t = Transpose<perm = [0, 2, 1]>(x)  y = MatMul(x, t)", "(B, S, S)"),
        ("s = Shape(x)  y = ConstantOfShape(s)", "(B, S, 6)"),
        ("s = Shape(x)  y = Expand(x, s)", "(B, S, 6)"),
        ("a, y = Split<axis = 2>(x)", "(B, S, 3)"),
        ("s = Shape(x)  n = Size(x)  y = Shape(s)", "(1,)"),
    ],
)
def test_dims(body, dims):
    header = '<ir_version: 7, opset_import: ["" : 17]>\ng '
    if "ReduceSum" in body:
        header = '<ir_version: 7, opset_import: ["" : 12]>\ng '
    assert shown(f"{header}{X} {{ {body}  z = Identity(y) }}", "y")[0] == dims


@pytest.mark.parametrize(
    ("body", "elements"),
    [
        ("y = Shape(x)", "[B, S, 6]"),
        ("y = Shape<start = -2, end = -1>(x)", "[S]"),
        ("y = Size(x)", "6*B*S"),
        ("s = Shape(x)  y = ReduceProd<keepdims = 0>(s)", "6*B*S"),
        ("s = Shape(x)  y = Mul(s, s)", "[B*B, S*S, 36]"),
        ("s = Shape(x)  y = Max(s, s)", "[B, S, 6]"),
        ("s = Shape(x)  n = Neg(s)  y = Min(s, n)", "[-1*B, -1*S, -6]"),
        ("s = Shape(x)  n = Neg(s)  y = Abs(n)", "[?2, ?3, 6]"),
        ("s = Shape(x)  n = Neg(s)  y = Equal(s, n)", "[?2, ?3, 0]"),
        ("s = Shape(x)  t = Add(s, s)  y = Div(t, s)", "[2, 2, 2]"),
        ("s = Shape(x)  y = Mod(s, s)", "[0, 0, 0]"),
    ],
)
def test_elements(body, elements):
    text = f'<ir_version: 7, opset_import: ["" : 17]>\ng {X} {{ {body}  z = Identity(y) }}'
    assert shown(text, "y")[1] == elements


def test_images_and_rows_stay_as_many_as_they_are():
    text = """(float[B,3,H,W] x, float[8,3,3,3] w, int64[B,S,1] i, float[9,4] t) => (float[P] z) {
        r = Relu(x)  c = Conv(r, w)  p = MaxPool<kernel_shape = [2, 2]>(c)
        g = GlobalAveragePool(p)  n = GatherND(t, i)  z = Identity(g) }"""
    assert shown(text, "c")[0].startswith("(B, 8, ")
    assert shown(text, "p")[0].startswith("(B, 8, ")
    assert shown(text, "g")[0] == "(B, 8, 1, 1)"
    assert shown(text, "n")[0] == "(B, S, 4)"


def test_numbers_of_32_bits_wrap_around():
    text = """(float[B,65536] x) => (int64[2] y) { s = Shape(x)  i = Cast<to = 6>(s)  m = Mul(i, i)  y = Cast<to = 7>(m) }"""
    dims, elements = known(text)("y")
    assert dims == (2,)
    assert elements[1] == 0
    assert str(elements[0]).startswith("?")


def test_a_size_that_one_node_needs_is_known_to_all():
    text = """(float[B,S,6] x) => (float[P,Q,R] z, float[B,6] y) <int64[2] flat = {-1, 6}, int64 zero = {0}>
    { s = Shape(x)  a = Reshape(x, flat)  z = Reshape(a, s)  y = Gather<axis = 1>(x, zero) }"""
    assert shown(text, "z")[0] == "(B, S, 6)"
    unread = text.replace("y = Gather", "y = Identity(x)  unread = Gather")
    assert shown(unread, "z")[0] != "(B, S, 6)"


def test_a_branch_that_may_not_run_proves_nothing():
    text = """(bool c, float[B,S,6] x) => (float[P,Q,R] z, float[S,6] y) <int64[2] flat = {-1, 6}, int64 zero = {0}>
    {
      s = Shape(x)  a = Reshape(x, flat)  z = Reshape(a, s)
      y = If(c) < then_branch = t () => (float[S,6] p) { p = Gather<axis = 1>(x, zero) }, else_branch = e () => (float[S,6] q) { q = ReduceSum<keepdims = 0>(x, zero) } >
    }"""
    assert shown(text, "z")[0] != "(B, S, 6)"


def test_parts_of_a_concat_may_be_empty():
    text = "(float[B,S] x, float[C,T] y) => (float[P,Q] z) { z = Concat<axis = 1>(x, y) }"
    first, second = known(text)("z")[0]
    assert str(second) == "S+T"
    assert str(first) not in ("B", "C")


def test_loop_bodies_are_followed_in_each_iteration():
    text = """(int64 n, float[B] x) => (float[P] z)
    {
      z = Loop(n, , x) < body = b (int64 i, bool go, float[K] a) => (bool on, float[L] c)
        { on = Identity(go)  s = Shape(a)  u = Concat<axis = 0>(a, a)  t = Shape(u)  c = Identity(u) } >
    }"""
    model = from_text(text)
    analysis = SymbolicShapes(model, infer_shapes(model))
    assert analysis.dims(model.graph.outputs[0]) != analysis.dims(model.graph.inputs[1])


# -- held against the runtime -----------------------------------------------------------------------


def with_all_values_as_outputs(model):
    for node in model.graph:
        for output in node.outputs:
            if not output.is_graph_output():
                model.graph.outputs.append(output)


class Run:
    """One run: equal expressions must be equal numbers."""

    def __init__(self):
        self.seen = {}

    def check(self, expressions, numbers):
        for expression, number in zip(expressions, numbers, strict=True):
            if isinstance(expression, int):
                assert expression == number
                continue
            assert self.seen.setdefault(expression, number) == number, expression
            assert not is_nonnegative(expression) or number >= 0
            assert not is_positive(expression) or number > 0

    def check_arithmetic(self):
        bound = {
            symbol: number
            for expression, number in self.seen.items()
            if (symbol := single_symbol(expression)) is not None
        }
        for expression, number in self.seen.items():
            if {symbol for factors in expression.terms for symbol in factors} <= bound.keys():
                assert value_of(expression, bound) == number


def check_run(analysis, model, results):
    """Hold what is known against one run."""
    run = Run()
    for value in [
        *model.graph.inputs,
        *(output for node in model.graph for output in node.outputs),
    ]:
        array = results[value.name]
        dims, elements = analysis.dims(value), analysis.elements(value)
        if dims is not None:
            run.check(dims, array.shape)
        if elements is not None:
            run.check(elements.reshape(-1).tolist(), array.reshape(-1).astype(np.int64).tolist())
    run.check_arithmetic()


def test_what_is_known_of_random_programs_is_so_when_they_run():
    runs = []

    @settings(SETTINGS, max_examples=150)
    @given(shape_programs())
    def hold(model):
        note(to_text(model))
        analysis = SymbolicShapes(model, infer_shapes(model))
        with_all_values_as_outputs(model)
        options = SessionOptions(optimization="disabled")
        with shared_worker().load(model_bytes(model), options) as session:
            for sizes in SIZES:
                feed = feeds(*sizes)
                try:
                    results = session.run(feed)
                except RunError:
                    continue
                check_run(analysis, model, {**results, **feed})
                runs.append(sizes)

    hold()
    assert set(runs) == set(SIZES)


def test_types_are_those_of_constants_too():
    model = from_text("(float[2] x) => (float[2] z) <float[2] w = {1, 2}> { z = Add(x, w) }")
    analysis = SymbolicShapes(model, infer_shapes(model))
    assert analysis.dtype(model.graph.initializers["w"]) == ir.DataType.FLOAT
    assert analysis.elements(model.graph.initializers["w"]) is None
