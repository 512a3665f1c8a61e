"""What the runtime made of a model, and how far it is from the floor."""

import numpy as np
import pytest

from graphopt.analysis.loaded_findings import find_slow_parts
from graphopt.ir import from_text, save
from graphopt.runtime import SessionOptions, inspect_loaded, shared_worker
from graphopt.runtime.integer_rate import integer_rate


def slugs(text, *, is_x86=True):
    found = find_slow_parts(from_text(text).graph, is_x86=is_x86)
    return {finding.slug: finding.nodes for finding in found}


@pytest.mark.parametrize(
    ("slug", "text"),
    [
        (
            "slow-convolution",
            """(uint8[1,1,4,4] x) => (int32[1,1,2,2] y) <uint8[1,1,3,3] w = {1,2,3,4,5,6,7,8,9}>
            { [n] y = ConvInteger(x, w) }""",
        ),
        (
            "unfused-product",
            """(uint8[N,2] x) => (int32[N,1] y) <int8[2,1] w = {1, 2}>
            { [n] y = MatMulInteger(x, w) }""",
        ),
        (
            "signed-activations",
            """(int8[N,2] x) => (int8[N,1] y)
            <int8[2,1] w = {1, 2}, float s = {1.0}, int8 z = {0}>
            { [n] y = QLinearMatMul(x, s, z, w, s, z, s, z) }""",
        ),
        (
            "unsigned-weights",
            """(uint8[N,2] x) => (uint8[N,1] y)
            <uint8[2,1] w = {1, 2}, float s = {1.0}, uint8 z = {0}>
            { [n] y = QLinearMatMul(x, s, z, w, s, z, s, z) }""",
        ),
        (
            "unfused-pair",
            """(float[N] x) => (float[N] y) <float s = {1.0}, uint8 z = {0}>
            { [n] q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)  y = Exp(d) }""",
        ),
        (
            "float-island",
            """(uint8[N] x) => (uint8[N] y) <float s = {1.0}, uint8 z = {0}>
            { d = DequantizeLinear(x, s, z)  [n] e = Exp(d)  y = QuantizeLinear(e, s, z) }""",
        ),
        (
            "weights-dequantized",
            """(float[N,2] x) => (float[N,1] y) <int8[2,1] w = {1, 2}, float s = {1.0}>
            { [n] d = DequantizeLinear(w, s)  y = MatMul(x, d) }""",
        ),
    ],
)
def test_each_kind_is_found_by_name_and_has_a_remedy(slug, text):
    assert slugs(text)[slug] == ("n",)
    found = find_slow_parts(from_text(text).graph, is_x86=True)
    assert all(finding.message and finding.remedy for finding in found)


def test_signed_activations_are_what_arm_likes():
    text = """(int8[N,2] x) => (int8[N,1] y) <int8[2,1] w = {1, 2}, float s = {1.0}, int8 z = {0}>
    { y = QLinearMatMul(x, s, z, w, s, z, s, z) }"""
    assert not slugs(text, is_x86=False)


def test_nothing_is_found_in_a_float_model():
    assert not slugs("(float[N] x) => (float[N] y) { a = Exp(x)  y = Transpose(a) }")


WEIGHTS = ", ".join(["0.5", "-0.25"] * 2048)
DYNAMIC = f"""(float[N,64] x) => (float[N,64] z) <float[64,64] w = {{{WEIGHTS}}}>
{{ y = MatMul(x, w)  r = Relu(y)  z = MatMul(r, w) }}"""


def test_a_quantized_model_is_measured_against_the_floor(tmp_path):
    from graphopt.pipeline import Pipeline

    model = from_text(DYNAMIC)
    Pipeline.parse("quantize-dynamic").run(model, verify="off", reproducer_dir=None)
    path = save(model, tmp_path / "model.onnx")[0]
    feed = {"x": np.ones((8, 64), np.float32)}
    found = inspect_loaded(path, SessionOptions(), feed, worker=shared_worker())
    assert found.operators["DynamicQuantizeMatMul"] == 2
    assert found.macs == 2 * 8 * 64 * 64
    assert found.floor_ratio == pytest.approx(found.run_ms / found.floor_ms)
    assert sum(found.shares.values()) == pytest.approx(1.0)
    assert "integer layers" in found.shares
    assert "x the int8 floor" in found.summary()


def test_a_float_model_has_no_floor_but_shares(tmp_path):
    path = save(from_text(DYNAMIC), tmp_path / "model.onnx")[0]
    feed = {"x": np.ones((8, 64), np.float32)}
    found = inspect_loaded(path, SessionOptions(), feed, worker=shared_worker())
    assert found.floor_ratio is None
    assert "float layers" in found.shares  # not attention: the weights are constants
    assert "float layers" in found.summary()


def test_weights_beside_the_model_are_found(tmp_path):
    path = save(from_text(DYNAMIC), tmp_path / "model.onnx", external_data=True)[0]
    feed = {"x": np.ones((8, 64), np.float32)}
    assert inspect_loaded(path, SessionOptions(), feed, worker=shared_worker()).run_ms > 0
    assert len(list(tmp_path.iterdir())) == 2  # nothing is written beside it


def test_the_rate_is_measured_once():
    first = integer_rate(shared_worker(), 1, 7)
    assert first > 1e6
    assert integer_rate(shared_worker(), 1, 4) == first  # rounded down to a power of two


def test_runs_of_branches_are_not_added_up(tmp_path):
    """A model whose nodes cannot be matched run by run is timed by the mean."""
    weights = ", ".join(["0.5"] * 64 * 64)
    model = from_text(
        f"""(float[N,64] x, bool k) => (float[N,64] y) <float[64,64] w = {{{weights}}}>
        {{ y = If(k) <then_branch = t () => (float[N,64] a) {{ a = MatMul(x, w) }},
                     else_branch = e () => (float[N,64] b) {{ b = Exp(x) }}> }}"""
    )
    path = save(model, tmp_path / "model.onnx")[0]
    feed = {"x": np.ones((8, 64), np.float32), "k": np.array(True)}
    found = inspect_loaded(path, SessionOptions(), feed, worker=shared_worker())
    assert found.run_ms > 0
    assert sum(found.shares.values()) == pytest.approx(1.0)
    assert found.shares.get("other", 0.0) < 0.5  # what runs the branch is not counted beside it


def test_a_model_that_runs_no_node_takes_no_time(tmp_path):
    """All of it is constant: the runtime has the answer when it has loaded the model."""
    model = from_text(
        "() => (float[2] y) { c = Constant<value = float[2] {1.0, 2.0}>() y = Add(c, c) }"
    )
    path = save(model, tmp_path / "model.onnx")[0]
    found = inspect_loaded(path, SessionOptions(), {}, worker=shared_worker())
    assert (found.run_ms, found.shares) == (0.0, {})
