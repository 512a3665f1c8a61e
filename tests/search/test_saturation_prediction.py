"""Saturation predicted on whole models, in each form that integers have in ONNX."""

import numpy as np
import pytest

from graphopt.analysis.integer_layers import find_integer_layers
from graphopt.ir import from_text
from graphopt.pipeline import Pipeline
from graphopt.rewrite import TargetFacts, ValueRange
from graphopt.runtime import shared_worker
from graphopt.search.saturation import lacks_wide_sums, predict_saturation, windows_of

RANDOM = np.random.default_rng(0)


def linear(rows=16, depth=32, columns=8):
    weights = ", ".join(f"{w:.4f}" for w in RANDOM.choice([-1.0, 1.0], depth * columns))
    return from_text(
        f"(float[N,{depth}] x) => (float[N,{columns}] y) <float[{depth},{columns}] w = {{{weights}}}>"
        "{ [layer] y = MatMul(x, w) }"
    ), {"x": RANDOM.uniform(-0.1, 1, (rows, depth)).astype(np.float32)}


def quantized(model, text):
    ranges = lambda _model, names, _method: dict.fromkeys(names, ValueRange(-0.1, 1.0))  # noqa: E731
    Pipeline.parse(text).run(
        model, verify="off", target=TargetFacts(), statistics_provider=ranges, reproducer_dir=None
    )
    return model


@pytest.mark.parametrize("text", ["quantize-dynamic{minimum_elements=1}", "quantize-static"])
def test_a_layer_of_extreme_weights_is_named_in_both_forms(text):
    model, feed = linear()
    (found,) = predict_saturation(quantized(model, text), [feed], worker=shared_worker())
    assert found.name == "layer"
    assert found.saturation.rate > 0.05
    assert found.saturation.is_worse_than_seven_bits


@pytest.mark.parametrize("text", ["quantize-dynamic{minimum_elements=1 reduce_range=true}"])
def test_with_seven_bits_nothing_saturates(text):
    model, feed = linear()
    (found,) = predict_saturation(quantized(model, text), [feed], worker=shared_worker())
    assert found.saturation.saturated == 0


def test_unsigned_weights_are_said_not_to_saturate():
    model = from_text(
        """(uint8[N,2] x) => (int32[N,1] y) <uint8[2,1] w = {255, 255}>
        { [layer] y = MatMulInteger(x, w) }"""
    )
    feed = {"x": np.full((4, 2), 255, np.uint8)}
    (found,) = predict_saturation(model, [feed], worker=shared_worker())
    assert found.saturation.saturated == 0
    assert "unsigned" in found.reason


def test_signed_activations_are_replayed_as_the_runtime_turns_them():
    model = from_text(
        """(int8[N,2] x) => (float[N,1] y)
        <int8[2,1] w = {127, 127}, float s = {1.0}, int8 z = {0}, int8 o = {0}>
        { d = DequantizeLinear(x, s, z)  e = DequantizeLinear(w, s, o)  [layer] y = MatMul(d, e) }"""
    )
    feed = {"x": np.full((4, 2), 127, np.int8)}
    (found,) = predict_saturation(model, [feed], worker=shared_worker())
    assert found.saturation.rate == 1.0


def test_a_weight_that_is_computed_is_listed_with_why():
    model = from_text(
        "(uint8[N,2] x, int8[2,1] w) => (int32[N,1] y) { [layer] y = MatMulInteger(x, w) }"
    )
    (found,) = predict_saturation(model, [], worker=shared_worker())
    assert found.saturation is None
    assert found.reason == "its weight is not a constant of 8 bits"


def test_what_is_not_replayed_is_listed_with_why():
    model = from_text(
        """(uint8[1,1,4,4] x, bool k, uint8[N,2] u) => (int32[1,1,2,2] y, int32[N,1] z)
        <uint8[1,1,3,3] w = {1,2,3,4,5,6,7,8,9}, int8[2,1] v = {1, 2}>
        { y = ConvInteger(x, w)
          z = If(k) <then_branch = t () => (int32[N,1] a) { a = MatMulInteger(u, v) },
                     else_branch = e () => (int32[N,1] b) { b = MatMulInteger(u, v) }> }"""
    )
    found = predict_saturation(model, [], worker=shared_worker())
    assert [layer.operator for layer in found] == ["ConvInteger", "MatMulInteger", "MatMulInteger"]
    assert all(layer.saturation is None and layer.reason for layer in found)


@pytest.mark.parametrize(
    ("attributes", "group"),
    [
        ("group = 1", 1),
        ("pads = [1,2,0,1], strides = [2,1]", 1),
        ("dilations = [2,1], pads = [1,1,1,1]", 1),
        ('auto_pad = "SAME_UPPER", strides = [2,2]', 1),
        ('auto_pad = "SAME_LOWER", strides = [2,2]', 1),
        ("group = 2, pads = [1,1,1,1]", 2),
    ],
)
def test_windows_are_those_of_the_runtime(attributes, group):
    """A product over the windows is the convolution, with zero points in the padding."""
    import onnx_ir as ir

    weights = RANDOM.integers(-127, 128, (6, 4 // group, 3, 3)).astype(np.int8)
    text = f"""(uint8[1,4,7,7] x) => (uint8[1,6,H,W] y)
    <float one = {{1.0}}, uint8 z = {{5}}, int8 o = {{0}}, float big = {{500.0}}, uint8 h = {{128}}>
    {{ y = QLinearConv<{attributes}>(x, one, z, w, one, o, big, h) }}"""
    model = from_text(text.replace("<float one", "<int8[1] w = {1}, float one"))
    model.graph.initializers["w"].const_value = ir.tensor(weights, name="w")
    model.graph.initializers["w"].shape = ir.Shape(weights.shape)
    (layer,), _ = find_integer_layers(model.graph)
    x = RANDOM.integers(0, 256, (1, 4, 7, 7)).astype(np.uint8)
    rows = windows_of(x, layer.windows, 5, group, at_most=None)
    sums = [
        (rows[part].reshape(len(rows[part]), -1).astype(np.int64) - 5) @ layer.weights[part]
        for part in range(group)
    ]
    wanted = np.clip(np.rint(np.concatenate(sums, axis=1) / 500) + 128, 0, 255)
    from graphopt.ir import model_bytes

    found = shared_worker().evaluate(model_bytes(model), {"x": x})["y"]
    height, width = found.shape[2:]
    wanted = wanted.reshape(height, width, 6).transpose(2, 0, 1)
    assert np.abs(found[0].astype(int) - wanted).max() <= 1  # rounding of ties


def test_which_devices_lack_wide_sums():
    assert lacks_wide_sums({"avx2", "fma"})
    assert not lacks_wide_sums({"avx2", "avx_vnni"})
    assert not lacks_wide_sums({"avx512f", "avx512_vnni"})
    assert not lacks_wide_sums({"neon", "asimddp"})
    assert not lacks_wide_sums(set())


def test_a_target_without_vnni_gets_seven_bits_where_they_are_needed_and_says_so(tmp_path):
    from graphopt import api
    from graphopt.ir import save

    model, feed = linear(rows=8, depth=64, columns=32)
    save(model, tmp_path / "model.onnx")
    np.savez(tmp_path / "feed.npz", **feed)
    (tmp_path / "old.toml").write_text(
        'name = "old"\nsummary = "x86 without VNNI"\nextends = "cpu-int8"\n'
        '[device]\nfeatures = ["avx2"]\n[gates]\nmax_latency_ratio = false\n'
        "[candidates.static]\nenabled = false\n",
        encoding="utf-8",
    )
    report = api.optimize(
        tmp_path / "model.onnx",
        target=tmp_path / "old.toml",
        calibration=tmp_path / "feed.npz",
        latency_budget_s=None,
    ).report
    (dynamic,) = [found for found in report.candidates if found.name == "dynamic"]
    assert "reduce_range_layers=[layer]" in dynamic.pipeline
    assert dynamic.status in ("chosen", "passed")


def test_both_products_of_an_activation_in_two_integers_are_of_one_layer():
    text = """<ir_version: 10, opset_import: ["" : 20, "com.microsoft" : 1]>
    g (uint8[N,2] q, uint8[N,2] r) => (float[N,2] y) <int8[2,2] w = {1, 2, 3, 4}, float s = {1.0}>
    { [fc_quantized] a = com.microsoft.MatMulIntegerToFloat(q, w, s, s)
      [fc_remainder] b = com.microsoft.MatMulIntegerToFloat(r, w, s, s)  y = Add(a, b) }"""
    layers, others = find_integer_layers(from_text(text).graph)
    assert [layer.name for layer in layers] == ["fc", "fc"]
    assert others == []
