"""16-bit floats in the runtime: what goldens cannot show."""

import numpy as np
import pytest

from graphopt.calibration import Calibrator, load_samples
from graphopt.ir import clone, from_text, model_bytes
from graphopt.pipeline import Pipeline
from graphopt.rewrite import TargetFacts
from graphopt.runtime import shared_worker

MASKED = """(float[N,4] x, bool[N,4] m) => (float[N,4] y)
<float[4,4] w = {1.0,0.0,0.0,0.0, 0.0,1.0,0.0,0.0, 0.0,0.0,1.0,0.0, 0.0,0.0,0.0,1.0},
 float low = {-3.4028235e38}, float zero = {0.0}>
{ a = MatMul(x, w)  n = Where(m, zero, low)  s = Add(a, n)  y = Softmax(s) }"""


def converted(model, text, feeds=None):
    changed = clone(model)
    calibrator = None if feeds is None else Calibrator(samples=load_samples(feeds))
    result = Pipeline.parse(text).run(
        changed,
        verify="structure",
        target=TargetFacts(),
        statistics_provider=calibrator,
        reproducer_dir=None,
    )
    return changed, result.ledger


def run(model, feed):
    return shared_worker().evaluate(model_bytes(model), feed)["y"]


def test_a_row_that_is_masked_whole_is_no_nan():
    """With the largest number, -65504 + -20 would be -inf, and the row NaN."""
    model = from_text(MASKED)
    feed = {
        "x": np.full((2, 4), -20, np.float32),
        "m": np.array([[True, True, False, False], [False] * 4]),
    }
    changed, ledger = converted(model, "convert-float16", [feed])
    assert ledger.edits
    assert not ledger.journal.refusals
    found = run(changed, feed)
    np.testing.assert_allclose(found, [[0.5, 0.5, 0, 0], [0.25] * 4], atol=1e-3)


def test_what_overflows_on_a_sample_stays_in_32_bits():
    text = """(float[N,2] x) => (float[N,2] y, float[N,2] z)
    <float[2,2] w = {300.0, 0.0, 0.0, 300.0}, float[2,2] v = {1.0, 0.0, 0.0, 1.0}>
    { a = MatMul(x, w)  [far] y = MatMul(a, w)  [back] d = Sqrt(y)  z = MatMul(d, v) }"""
    model, feed = from_text(text), {"x": np.ones((3, 2), np.float32)}
    changed, ledger = converted(model, "convert-float16", [feed])
    refused = {refusal.where.split("`")[1]: refusal.slug for refusal in ledger.journal.refusals}
    assert refused == {"far": "range-exceeds", "back": "range-exceeds"}
    np.testing.assert_allclose(run(changed, feed), run(model, feed), rtol=2e-3)
    _, ledger = converted(model, "convert-float16{limit=100000.0}", [feed])
    assert {refusal.slug for refusal in ledger.journal.refusals} == {"range-exceeds"}, (
        "no limit may be beyond the largest number of the type"
    )


def test_angles_beyond_position_2048_are_right():
    text = """(float[N,2] x, int64[N,1] p) => (float[N,2] y)
    <float[2,2] w = {1.0, 0.0, 0.0, 1.0}, float[1,2] f = {1.0, 0.5}>
    { a = MatMul(x, w)  q = Cast<to = 1>(p)  g = Mul(q, f)  c = Cos(g)  y = Mul(a, c) }"""
    model = from_text(text)
    feed = {"x": np.ones((4, 2), np.float32), "p": np.array([[1], [2049], [4097], [30001]])}
    changed, _ = converted(model, "convert-float16", [feed])
    np.testing.assert_allclose(run(changed, feed), run(model, feed), atol=2e-3)


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_weights_alone_are_computed_with_as_before(kind):
    import ml_dtypes

    random = np.random.default_rng(0)
    weights = random.normal(size=(8, 8)).astype(np.float32)
    text = "(float[N,8] x) => (float[N,8] y) <float[8,8] w = {%s}> { y = MatMul(x, w) }"
    model = from_text(text % ", ".join(f"{w:.8g}" for w in weights.reshape(-1)))
    form = f"convert-float16{{weights_only=true minimum_elements=1 format={kind}}}"
    changed, _ = converted(model, form)
    stored = np.float16 if kind == "float16" else ml_dtypes.bfloat16
    feed = {"x": random.normal(size=(3, 8)).astype(np.float32)}
    rounded = weights.astype(stored).astype(np.float32)
    np.testing.assert_allclose(run(changed, feed), feed["x"] @ rounded, rtol=1e-5, atol=1e-6)
    assert sum(v.const_value.nbytes for v in changed.graph.initializers.values()) == 8 * 8 * 2


def test_nothing_folds_the_conversion_of_weights_back():
    weights = ", ".join(["0.5", "0.25"] * 512)
    model = from_text(
        f"(float[N,32] x) => (float[N,32] y) <float[32,32] w = {{{weights}}}> {{ y = MatMul(x, w) }}"
    )
    changed, _ = converted(model, "convert-float16{weights_only=true},@lossless")
    assert [node.op_type for node in changed.graph] == ["Cast", "MatMul"]


def test_a_second_run_changes_nothing():
    model = from_text(MASKED)
    feed = {"x": np.ones((2, 4), np.float32), "m": np.ones((2, 4), bool)}
    changed, _ = converted(model, "convert-float16", [feed])
    _, again = converted(changed, "convert-float16", [feed])
    assert not again.edits


def test_inputs_and_outputs_change_type_only_when_asked():
    model = from_text(MASKED)
    feed = {"x": np.ones((2, 4), np.float32), "m": np.ones((2, 4), bool)}
    kept, _ = converted(model, "convert-float16", [feed])
    assert [value.dtype.name for value in kept.graph.inputs] == ["FLOAT", "BOOL"]
    assert kept.graph.outputs[0].dtype.name == "FLOAT"
    free, _ = converted(model, "convert-float16{keep_io_types=false}", [feed])
    assert [value.dtype.name for value in free.graph.inputs] == ["FLOAT16", "BOOL"]
    assert free.graph.outputs[0].dtype.name == "FLOAT16"
    found = run(free, {"x": feed["x"].astype(np.float16), "m": feed["m"]})
    assert found.dtype == np.float16
