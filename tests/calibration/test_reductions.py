"""Reductions of values: what a copy of a model returns beside its outputs."""

import numpy as np
import pytest

from graphopt.calibration import Calibrator, load_samples
from graphopt.calibration.reductions import Reduced, with_reductions
from graphopt.ir import from_text


def test_values_are_reduced_where_they_are_computed() -> None:
    """At the end of the graph, they would keep every value alive until then."""
    model = from_text("(float[N] x) => (float[N] z) { a = Neg(x)  b = Floor(a)  z = Tanh(b) }")
    copy, reduced = with_reductions(model, ["a", "b"])
    operators = [node.op_type for node in copy.graph]
    reductions = {"ReduceMax", "ReduceMin", "ReduceSum"}
    assert [operators[0], operators[4], operators[8]] == ["Neg", "Floor", "Tanh"]
    assert set(operators[1:4]) == set(operators[5:8]) == reductions
    assert all(node.inputs[0].name == "a" for node in list(copy.graph)[1:4])
    assert len(copy.graph.outputs) == 7
    assert [node.op_type for node in model.graph] == ["Neg", "Floor", "Tanh"]
    assert reduced["a"] == Reduced("a//ReduceMin", "a//ReduceMax", "a//ReduceSum", "a//ReduceMax")


def test_moved_values_share_reductions_and_rising_functions_take_those_of_their_argument() -> None:
    model = from_text(
        "(float[N,2] x) => (float[2,N] z)"
        " { a = Neg(x)  b = Sigmoid(a)  z = Transpose<perm=[1,0]>(a) }"
    )
    copy, reduced = with_reductions(model, ["a", "b", "z"])
    assert reduced["z"] == reduced["a"]
    assert reduced["b"].total == reduced["a"].total
    over_all = [node for node in copy.graph if node.op_type.startswith("Reduce")]
    assert {node.inputs[0].name for node in over_all} == {"a"}
    assert [node.op_type for node in copy.graph].count("Sigmoid") == 2  # b itself, and its maximum


def _ranges(text: str, names: list[str], x: list[float]) -> dict[str, tuple[float, float]]:
    model = from_text(text)
    feeds = [{"x": np.array(x, np.float32)}, {"x": np.array(x[:1], np.float32)}]
    found = Calibrator(samples=load_samples(feeds))(model, names)
    return {name: (item.minimum, item.maximum) for name, item in found.items()}


CASES = {
    "relu": ("b = Relu(a)", (0.0, 2.0)),
    "sigmoid": ("b = Sigmoid(a)", (0.0, 0.880797)),
    "tanh": ("b = Tanh(a)", (-0.995055, 0.964028)),
    "falls": ("b = Neg(a)", (-2.0, 3.0)),
    "exp": ("b = Exp(a)", (0.0, 7.389056)),
}


@pytest.mark.parametrize("case", CASES)
def test_ranges_are_those_of_all_elements_with_zero(case: str) -> None:
    body, expected = CASES[case]
    text = f"(float[N] x) => (float[N] b) {{ a = Identity(x)  {body} }}"
    found = _ranges(text, ["a", "b"], [1.0, -3.0, 2.0])
    assert found["a"] == (-3.0, 2.0)
    assert found["b"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ("low = {-1.0}, float high = {1.5}", (-1.0, 1.5)),
        ("low = {0.0}, float high = {6.0}", (0.0, 2.0)),
        ("low = {-9.0}, float high = {-4.0}", (-4.0, -4.0)),
    ],
)
def test_clipped_values_have_the_clipped_range(limits: str, expected: tuple[float, float]) -> None:
    text = f"(float[N] x) => (float[N] b) <float {limits}> {{ a = Neg(x)  b = Clip(a, low, high) }}"
    assert _ranges(text, ["a", "b"], [1.0, 3.0, -2.0])["b"] == expected


def test_a_limit_below_values_that_are_never_negative() -> None:
    """No minimum is taken of `a`: what follows from 0 need not hold of `b`."""
    text = (
        "(float[N] x) => (float[N] b) <float low = {-9.0}, float high = {-4.0}>"
        " { a = Relu(x)  b = Clip(a, low, high) }"
    )
    assert _ranges(text, ["a", "b"], [1.0, 3.0])["b"] == (-4.0, -4.0)


def test_nan_that_a_function_hides_is_known_of_both() -> None:
    text = "(float[N] x) => (float[N] b) { a = Sqrt(x)  b = Sigmoid(a) }"
    found = _ranges(text, ["a", "b"], [4.0, 1.0, -1.0])
    assert np.isnan(found["a"]).all()
    assert np.isnan(found["b"]).all()


def test_an_empty_value_has_no_range() -> None:
    text = "(float[N] x) => (float[N] b) { a = Neg(x)  b = Sigmoid(a) }"
    model = from_text(text)
    feeds = [{"x": np.zeros(0, np.float32)}]
    assert Calibrator(samples=load_samples(feeds))(model, ["a", "b"]) == {}
