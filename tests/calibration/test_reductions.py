"""Reductions of values: what a copy of a model returns beside its outputs."""

from graphopt.calibration.reductions import with_reductions
from graphopt.ir import from_text


def test_values_are_reduced_where_they_are_computed():
    """At the end of the graph, they would keep every value alive until then."""
    model = from_text("(float[N] x) => (float[N] z) { a = Neg(x)  b = Exp(a)  z = Tanh(b) }")
    copy = with_reductions(model, ["a", "b"])
    operators = [node.op_type for node in copy.graph]
    reductions = {"ReduceMax", "ReduceMin", "ReduceSum"}
    assert [operators[0], operators[4], operators[8]] == ["Neg", "Exp", "Tanh"]
    assert set(operators[1:4]) == set(operators[5:8]) == reductions
    assert all(node.inputs[0].name == "a" for node in list(copy.graph)[1:4])
    assert len(copy.graph.outputs) == 7
    assert [node.op_type for node in model.graph] == ["Neg", "Exp", "Tanh"]
