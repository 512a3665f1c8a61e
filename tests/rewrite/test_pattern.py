"""Patterns: what they find, and what they must not."""

import pytest

from graphopt import ir as gir
from graphopt.rewrite import Absent, Const, Either, Op, Var, match

X = Var("x")
SILU = Op("Mul", X, Op("Sigmoid", X))
GELU = Op(
    "Mul",
    Const("half", equals=0.5),
    Op(
        "Mul",
        X,
        Op(
            "Add",
            Op("Erf", Op("Div", X, Const("root", equals=1.4142135623730951))),
            Const("one", equals=1.0),
        ),
    ),
)


def last_value(text):
    return gir.from_text(text).graph.outputs[0]


def test_a_name_that_occurs_twice_is_one_value():
    assert match(SILU, last_value("(float x) => (float z) { s = Sigmoid(x)  z = Mul(x, s) }"))
    assert not match(
        SILU, last_value("(float x, float y) => (float z) { s = Sigmoid(y)  z = Mul(x, s) }")
    )


def test_operators_that_commute_match_in_either_order_and_others_do_not():
    assert match(SILU, last_value("(float x) => (float z) { s = Sigmoid(x)  z = Mul(s, x) }"))
    minus = Op("Sub", X, Op("Sigmoid", X))
    assert not match(minus, last_value("(float x) => (float z) { s = Sigmoid(x)  z = Sub(s, x) }"))


@pytest.mark.parametrize("order", ["half, m", "m, half"])
@pytest.mark.parametrize("inner", ["x, a", "a, x"])
@pytest.mark.parametrize("sum_", ["e, one", "one, e"])
def test_every_order_within_a_tree_is_found(order, inner, sum_):
    text = f"""(float[N] x) => (float[N] z)
    <float half = {{0.5}}, float root = {{1.41421356}}, float one = {{1.0}}>
    {{ d = Div(x, root)  e = Erf(d)  a = Add({sum_})  m = Mul({inner})  z = Mul({order}) }}"""
    found = match(GELU, last_value(text))
    assert found is not None
    assert found["x"].name == "x"
    assert found.array("half").tolist() == 0.5
    assert found.is_private()


@pytest.mark.parametrize("value", ["1.41421366", "1.0", "0.0"])
def test_a_constant_matches_exactly_or_not_at_all(value):
    text = f"(float x) => (float z) <float root = {{{value}}}> {{ z = Div(x, root) }}"
    assert not match(Op("Div", X, Const("root", equals=1.4142135623730951)), last_value(text))


def test_a_constant_that_a_caller_may_override_is_none():
    text = "(float x, float c) => (float z) <float c = {1.0}> { z = Add(x, c) }"
    assert not match(Op("Add", X, Const("c")), last_value(text))
    assert match(Op("Add", X, Var("c")), last_value(text))


def test_inputs_beyond_the_pattern_must_be_absent():
    text = "(float[1,1,4] x, float[1,1,1] w, float[1] b) => (float[1,1,4] z) { z = Conv(x, w%s) }"
    conv = Op("Conv", X, Var("w"))
    assert match(conv, last_value(text % ""))
    assert not match(conv, last_value(text % ", b"))
    assert match(Op("Conv", X, Var("w"), Either(Absent(), Var("b"))), last_value(text % ""))


def test_what_is_read_elsewhere_is_not_private():
    text = "(float x) => (float z, float s) { s = Sigmoid(x)  z = Mul(x, s) }"
    found = match(SILU, last_value(text))
    assert not found.is_private()


def test_conditions_on_nodes_outputs_and_domains():
    text = "(float[N,4] x) => (float[N,4] z) { z = Softmax<axis=1>(x) }"
    assert match(
        Op("Softmax", X, where=lambda node: node.attributes["axis"].value == 1), last_value(text)
    )
    assert not match(
        Op("Softmax", X, where=lambda node: node.attributes["axis"].value == 0), last_value(text)
    )
    assert not match(Op("Softmax", X, domain="com.microsoft"), last_value(text))
    assert not match(Op("Softmax", X, output=1), last_value(text))
