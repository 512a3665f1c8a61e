from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest

from graphopt.errors import RunError, UnsupportedModelError
from graphopt.ir import from_text, save
from graphopt.rewrite import Approximate, Exact, Rounding
from graphopt.runtime import Worker
from graphopt.verification import compare_models, random_outputs
from graphopt.verification.differences import has_elements

HEADER = '<ir_version: 8, opset_import: ["" : 17]>\n'


@pytest.fixture(scope="module")
def worker():
    with Worker(timeout_s=60) as running:
        yield running


@pytest.fixture
def write(tmp_path):
    def write_model(name, text, header=HEADER):
        path = tmp_path / f"{name}.onnx"
        save(from_text(header + text), path)
        return path

    return write_model


def x(*shape):
    return {"x": np.arange(1, 1 + np.prod(shape), dtype=np.float32).reshape(shape)}


def test_same_model_is_equal(write, worker):
    path = write("a", "g (float[N] x) => (float[N] y) { y = Exp(x) }")
    found = compare_models(path, path, [x(2), x(3)], worker=worker)
    assert found.samples == 2
    assert found.verdict(Exact()) == "equal"
    assert found.notes() == ()
    assert found.noise == {}


def test_difference_is_measured_and_judged(write, worker):
    a = write("a", "g (float[N] x) => (float[N] y) { y = Mul(x, x) }")
    b = write(
        "b", "g (float[N] x) => (float[N] y) <float c = {1.01}> { s = Mul(x, x) y = Mul(s, c) }"
    )
    found = compare_models(a, b, [x(2), x(4)], worker=worker)
    assert found.outputs["y"].max_rel == pytest.approx(0.01, rel=1e-4)
    assert found.outputs["y"].max_abs == pytest.approx(0.16, rel=1e-4)
    assert found.verdict(Exact()) == "broken"
    assert found.verdict(Rounding(0.005, "test")) == "broken"
    assert found.verdict(Rounding(0.02, "test")) == "within-budget"
    assert found.verdict(Approximate("min_cosine")) == "within-budget"
    json.dumps(found.to_dict(), allow_nan=False)


def test_inputs_that_the_reference_cannot_run_are_skipped_and_said(write, worker):
    path = write("a", "g (float[N] x) => (float[M] y) <int64[2] s = {2, 3}> { y = Reshape(x, s) }")
    found = compare_models(path, path, [x(6), x(7)], worker=worker)
    assert found.samples == 1
    (note,) = found.notes()
    assert note.startswith("not compared: `x` [7]: the reference fails")


@pytest.mark.parametrize("feed_sets", [[], [x(7), x(5)]])
def test_at_least_one_input_must_run(write, worker, feed_sets):
    path = write("a", "g (float[N] x) => (float[M] y) <int64[2] s = {2, 3}> { y = Reshape(x, s) }")
    with pytest.raises(UnsupportedModelError, match="runs with none of the inputs"):
        compare_models(path, path, feed_sets, worker=worker)


def test_candidate_that_fails_where_the_reference_runs(write, worker):
    a = write("a", "g (float[N] x) => (float[M] y) { y = Relu(x) }")
    b = write(
        "b", "g (float[N] x) => (float[M] y) <int64[1] s = {6}> { r = Reshape(x, s) y = Relu(r) }"
    )
    with pytest.raises(RunError):
        compare_models(a, b, [x(6), x(5)], worker=worker)


def test_random_outputs_are_compared_by_form_only(write, worker):
    text = """g (float[N] x) => (float[N] y, float[N] z, float[N] w)
        { r = RandomNormalLike(x) y = Add(x, r) z = Relu(x) w = Neg(y) }"""
    path = write("a", text)
    found = compare_models(path, path, [x(64)], worker=worker)
    assert found.random_outputs == ("w", "y")
    assert list(found.outputs) == ["z"]
    assert "`w`, `y` depend on random numbers" in found.notes()[0]
    wrong = text.replace("w = Neg(y)", "i = Shape(y) w = Cast <to = 1> (i)")
    other = write("b", wrong)
    assert compare_models(path, other, [x(64)], worker=worker).verdict(Exact()) == "equal"
    typed = write(
        "c",
        text.replace("float[N] w)", "double[N] w)").replace("w = Neg(y)", "w = Cast <to = 11> (y)"),
    )
    found = compare_models(path, typed, [x(64)], worker=worker)
    assert found.outputs["w"].mismatch == "type float64, expected float32"
    assert found.verdict(Approximate("min_cosine")) == "broken"


def test_missing_output_is_broken(write, worker):
    a = write("a", "g (float[N] x) => (float[N] y, float[N] z) { y = Relu(x) z = Neg(x) }")
    b = write("b", "g (float[N] x) => (float[N] y) { y = Relu(x) }")
    found = compare_models(a, b, [x(2)], worker=worker)
    assert found.outputs["z"].mismatch == "the candidate has no such output"
    assert found.verdict(Approximate("min_cosine")) == "broken"


RANDOM = {
    "RandomNormalLike through a chain": (
        "{ r = RandomNormalLike(x) a = Add(x, r) y = Neg(a) z = Relu(x) }",
        {"y"},
    ),
    "inside a branch": (
        """{ c = Constant <value = bool {1}> ()
        y = If <then_branch = t () => (float[N] u) { u = RandomUniformLike(x) },
                else_branch = e () => (float[N] u) { u = Neg(x) }> (c) z = Relu(x) }""",
        {"y"},
    ),
    "captured by a branch": (
        """{ c = Constant <value = bool {1}> () r = RandomUniformLike(x)
        y = If <then_branch = t () => (float[N] u) { u = Neg(r) },
                else_branch = e () => (float[N] v) { v = Neg(x) }> (c) z = Relu(x) }""",
        {"y"},
    ),
    "deterministic branch": (
        """{ c = Constant <value = bool {1}> ()
        y = If <then_branch = t () => (float[N] u) { u = Abs(x) },
                else_branch = e () => (float[N] v) { v = Neg(x) }> (c) z = Relu(x) }""",
        set(),
    ),
    "inference dropout": ("{ y = Dropout(x) z = Relu(x) }", set()),
    "training dropout": (
        """{ r = Constant <value = float {0.5}> () t = Constant <value = bool {1}> ()
        y = Dropout(x, r, t) z = Relu(x) }""",
        {"y"},
    ),
}


@pytest.mark.parametrize("name", RANDOM)
def test_randomness_is_followed(name):
    body, expected = RANDOM[name]
    model = from_text(f"{HEADER} g (float[N] x) => (float[N] y, float[N] z) {body}")
    assert random_outputs(model).certain == expected
    assert random_outputs(model).possible == frozenset()


def test_unknown_operators_are_only_possibly_random():
    model = from_text(
        '<ir_version: 8, opset_import: ["" : 17, "acme" : 1]>'
        "g (float[N] x) => (float[N] y, float[N] z) { y = acme.Op(x) r = RandomUniformLike(y) z = Add(r, y) }"
    )
    found = random_outputs(model)
    assert (found.certain, found.possible) == ({"z"}, {"y"})


DETECTIONS = "g (float[N] x) => (int64[1,K] found, float[N] z) {{ m = {}(x)  found = NonZero(m)  z = Abs(x) }}"


def test_outputs_that_hold_nothing_are_not_called_compared(write, worker):
    """Nothing is detected in noise, and a model that never detects anything gives the same."""
    a = write("a", DETECTIONS.format("IsNaN"))
    b = write("b", DETECTIONS.format("IsInf"))
    found = compare_models(a, b, [x(2), x(3)], worker=worker)
    assert found.empty_outputs == ("found",)
    assert found.notes() == (
        "`found` held no element, or no finite one, in any sample: no number was compared",
    )
    assert found.to_dict()["empty_outputs"] == ["found"]
    other = {"x": np.float32([1.0, np.nan])}
    found = compare_models(a, b, [x(2), other], worker=worker)
    assert found.empty_outputs == ()
    assert found.verdict(Exact()) == "broken"


def test_random_outputs_without_elements_are_told_once(write, worker):
    text = """g (float[N] x) => (float[0] y) <int64[1] none = {0}>
    { r = RandomNormalLike(x)  y = Slice(r, none, none, none) }"""
    path = write("a", text)
    found = compare_models(path, path, [x(2)], worker=worker)
    assert (found.random_outputs, found.empty_outputs) == (("y",), ())


@pytest.mark.parametrize(
    ("value", "held"),
    [
        (np.zeros((0, 3)), False),
        (np.zeros(()), True),
        (np.full(3, np.nan), False),
        (np.array([np.inf, 1.0], np.float16), True),
        (np.full(3, np.nan, ml_dtypes.bfloat16), False),
        (np.zeros(2, ml_dtypes.bfloat16), True),
        (np.zeros(2, ml_dtypes.int4), True),
        (np.array(["a"], dtype=object), True),
        (None, False),
        ([], False),
        ([np.zeros(0), np.zeros(1)], True),
        ({"a": 1.0}, True),
        ({}, False),
    ],
)
def test_what_holds_elements(value, held):
    assert has_elements(value) is held


@pytest.mark.parametrize(("factor", "notes"), [(0.5, 1), (0.9999, 0)])
def test_a_cosine_of_one_number_is_told_to_say_nothing(write, worker, factor, notes):
    """Half the probability of a detector has the cosine 1."""
    text = """g (float[N] x) => (float y, float z) <float f = {FACTOR}>
    { m = ReduceMean<keepdims=0>(x)  y = Mul(m, f)  z = Identity(m) }"""
    whole = write("whole", text.replace("FACTOR", "1.0"))
    other = write("other", text.replace("FACTOR", str(factor)))
    found = compare_models(whole, other, [x(3)], worker=worker)
    assert found.outputs["y"].cosine == 1.0
    assert len(found.notes()) == notes
    assert all(note.startswith("`y`: one number") for note in found.notes())
