"""Who alone reads a value: nobody, where it has to stay for another reason."""

import pytest

from graphopt.analysis.readers import only_reader
from graphopt.ir import from_text


def value_of(text, name="y"):
    model = from_text(text)
    return next(v for node in model.graph for v in node.outputs if v.name == name)


def test_the_reader_is_found():
    value = value_of("(float[N] x) => (float[N] z) { y = Exp(x)  z = Abs(y) }")
    assert only_reader(value).op_type == "Abs"


@pytest.mark.parametrize(
    "text",
    [
        "(float[N] x) => (float[N] z, float[N] y) { y = Exp(x)  z = Abs(y) }",
        "(float[N] x) => (float[N] z) { y = Exp(x)  z = Add(y, y) }",
        "(float[N] x) => (float[N] z, float[N] u) { y = Exp(x)  z = Abs(y)  u = Neg(y) }",
        """<ir_version: 10, opset_import: ["" : 20, "toy" : 1]>
            g (float[N] x) => (float[N] z) { y = Exp(x)  z = toy.Abs(y) }""",
        """(float[N] x, bool c) => (float[N] z) { y = Exp(x)  z = If (c) <
            then_branch = t () => (float[N] u) { u = Abs(y) },
            else_branch = e () => (float[N] v) { v = Identity(x) }> }""",
    ],
    ids=["returned", "read twice", "two readers", "another domain", "in a branch"],
)
def test_there_is_none(text):
    assert only_reader(value_of(text)) is None


def test_an_annotated_value_stays():
    value = value_of("(float[N] x) => (float[N] z) { y = Exp(x)  z = Abs(y) }")
    value.meta["quant_parameter_tensor_names"] = {"SCALE_TENSOR": "s"}
    assert only_reader(value) is None


def test_an_input_is_computed_by_nobody():
    model = from_text("(float[N] x) => (float[N] z) { z = Abs(x) }")
    assert only_reader(model.graph.inputs[0]) is None
