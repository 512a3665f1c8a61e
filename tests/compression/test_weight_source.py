"""Tracing weights back to constants."""

import numpy as np

from graphopt.compression import NoWeight, trace_weight
from graphopt.ir import from_text


def operand(text):
    model = from_text(text)
    return next(iter(reversed(list(model.graph)))).inputs[1]


def test_axes_are_composed_in_order():
    source = trace_weight(
        operand(
            """(float[2,3,1] x) => (float[2,3,1] y) <float[1,2,3] w = {1, 2, 3, 4, 5, 6}>
            { a = Transpose<perm = [1, 0, 2]>(w)  b = Identity(a)  c = Transpose<perm = [0, 2, 1]>(b)
              y = Add(x, c) }"""
        )
    )
    stored = np.arange(1, 7, dtype=np.float32).reshape(1, 2, 3)
    expected = stored.transpose(1, 0, 2).transpose(0, 2, 1)
    assert source.shape == expected.shape
    assert np.array_equal(source.array(), expected)
    assert source.is_reordered
    assert np.array_equal(source.transposed().array(), expected.T)


def test_transpose_without_perm_reverses():
    source = trace_weight(
        operand(
            """(float[3,2] x) => (float[3,2] y) <float[2,3] w = {1, 2, 3, 4, 5, 6}>
            { a = Transpose(w)  y = Add(x, a) }"""
        )
    )
    assert source.shape == (3, 2)
    assert source.array()[0].tolist() == [1.0, 4.0]


def test_what_is_no_weight_says_why():
    computed = operand("(float[2] x) => (float[2] y) { a = Neg(x)  y = Add(x, a) }")
    assert trace_weight(computed).slug == "weight-not-constant"
    overridable = operand("(float[1] x, float[1] w = {1}) => (float[1] y) { y = Add(x, w) }")
    assert trace_weight(overridable).slug == "weight-overridable"
    double = operand("(double[1] x) => (double[1] y) <double[1] w = {1}> { y = Add(x, w) }")
    assert trace_weight(double) == NoWeight("not-float32", "the weight is double")
    assert trace_weight(None).slug == "weight-not-constant"


def test_a_computed_weight_says_nothing_of_the_other_operand():
    found = trace_weight(
        operand("(float[2,2] x) => (float[2,2] y) <float[2,2] w = {1,2,3,4}> { y = MatMul(w, x) }")
    )
    assert found == NoWeight("weight-not-constant", "it is computed at run time")
