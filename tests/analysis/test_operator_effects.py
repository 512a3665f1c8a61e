"""What is pure, what draws random numbers, and what nobody knows."""

import pytest

from graphopt.analysis import Effect, Operators, is_deterministic, is_pure, operator_counts
from graphopt.ir import from_text

HEADER = '<ir_version: 10, opset_import: ["" : {opset}, "com.microsoft" : 1, "my.domain" : 1, "local" : 1]>\n'


def effect(call, *, opset=20, functions=""):
    """Return the effect of the node that makes `z`."""
    model = from_text(
        HEADER.format(opset=opset)
        + "g (float[N,2] x, bool flag, bool given = {0}) => (float[A,B] z) "
        + "<float r = {0.5}, bool yes = {1}, bool no = {0}, float[2] s = {1.0, 2.0}> "
        + f"{{ {call} }}\n{functions}"
    )
    node = list(model.graph)[-1]
    found = Operators(model).effect(node)
    assert is_pure(node, model) == is_deterministic(node, model) == (found is Effect.PURE)
    return found


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("z = Relu(x)", Effect.PURE),
        ("z = DepthToSpace<blocksize = 1>(x)", Effect.PURE),
        ("z = RandomNormalLike(x)", Effect.RANDOM),
        ("z = RandomUniformLike<seed = 1.0>(x)", Effect.RANDOM),
        ("z = Bernoulli(x)", Effect.RANDOM),
        ("z = Multinomial(x)", Effect.RANDOM),
        ("z = Dropout(x)", Effect.PURE),
        ("z = Dropout(x, r, no)", Effect.PURE),
        ("z = Dropout(x, r, yes)", Effect.RANDOM),
        ("z = Dropout(x, r, flag)", Effect.RANDOM),
        ("z = Dropout(x, r, given)", Effect.RANDOM),
        ("z = BatchNormalization(x, s, s, s, s)", Effect.PURE),
        ("z, m, v = BatchNormalization<training_mode = 1>(x, s, s, s, s)", Effect.RANDOM),
        ("z = com.microsoft.FusedMatMul(x, x)", Effect.PURE),
        ("z = com.microsoft.NoSuchOperator(x)", Effect.UNKNOWN),
        ("z = my.domain.Relu(x)", Effect.UNKNOWN),
        ("z = not.imported.Relu(x)", Effect.UNKNOWN),
        ("z = NoSuchOperator(x)", Effect.UNKNOWN),
    ],
)
def test_operators(call, expected):
    assert effect(call) is expected


@pytest.mark.parametrize(
    ("call", "opset", "expected"),
    [
        ("z = Dropout(x)", 6, Effect.RANDOM),
        ("z = Dropout<is_test = 1>(x)", 6, Effect.PURE),
        ("z = Dropout(x)", 10, Effect.PURE),
        ("z, m, v = BatchNormalization(x, s, s, s, s)", 9, Effect.RANDOM),
        ("z = BatchNormalization(x, s, s, s, s)", 9, Effect.PURE),
        ("z = BatchNormalization(x, s, s, s, s)", 6, Effect.RANDOM),
    ],
)
def test_old_opsets(call, opset, expected):
    assert effect(call, opset=opset) is expected


@pytest.mark.parametrize(
    ("inner", "expected"),
    [("Exp", Effect.PURE), ("RandomNormalLike", Effect.RANDOM), ("my.domain.Log", Effect.UNKNOWN)],
)
def test_subgraphs_and_functions_are_followed(inner, expected):
    branch = "{kind} = graph_{kind} () => (float[A,B] {name}) {{ {name} = {op}(x) }}"
    branches = ", ".join(
        branch.format(kind=kind, name=kind[0], op=op)
        for kind, op in (("then_branch", inner), ("else_branch", "Neg"))
    )
    assert effect(f"z = If(flag) <{branches}>") is expected
    functions = f"""<domain: "local", opset_import: ["" : 20, "my.domain" : 1, "local" : 1]>
    f (a) => (b) {{ b = local.h(a) }}
    <domain: "local", opset_import: ["" : 20, "my.domain" : 1]>
    h (a) => (b) {{ b = {inner}(a) }}"""
    assert effect("z = local.f(x)", functions=functions) is expected


def test_a_function_has_the_opset_that_it_imports():
    functions = """<domain: "local", opset_import: ["" : 6]>
    f (a) => (b) { b = Dropout(a) }"""
    assert effect("z = local.f(x)", functions=functions) is Effect.RANDOM
    assert effect("z = local.f(x)", functions=functions.replace("6]", "9]")) is Effect.PURE


def test_a_function_that_calls_itself_is_unknown():
    functions = """<domain: "local", opset_import: ["" : 20, "local" : 1]>
    f (a) => (b) { b = local.f(a) }"""
    assert effect("z = local.f(x)", functions=functions) is Effect.UNKNOWN


def test_a_function_in_the_name_of_an_operator_counts_by_its_body():
    functions = """<domain: "my.domain", opset_import: ["" : 20]>
    Relu (a) => (b) { b = Exp(a) }"""
    assert effect("z = my.domain.Relu(x)", functions=functions) is Effect.PURE


def test_operators_are_counted_in_every_graph():
    model = from_text(
        HEADER.format(opset=20)
        + """g (bool c, float[N] x) => (float[N] z)
    {
      y = Exp(x)
      z = If(c) <
        then_branch = g1 () => (float[N] t) { u = Exp(y)  t = my.domain.Foo(u) },
        else_branch = g2 () => (float[N] e) { e = Neg(y) }
      >
    }"""
    )
    assert operator_counts(model) == {"Exp": 2, "If": 1, "Neg": 1, "my.domain::Foo": 1}
