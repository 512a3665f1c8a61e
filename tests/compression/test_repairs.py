"""Mathematics of repairs: smoothing, equalization, rounding, anchored least squares, levels."""

import numpy as np
import pytest

from graphopt.calibration import Calibrator, SampleMeasure, load_samples
from graphopt.compression.equalization import Side, equalized_scales
from graphopt.compression.integer_layers import integer_layers
from graphopt.compression.integer_matrices import integer_matrix
from graphopt.compression.levels import divided, last_of_parts, levels_of
from graphopt.compression.rounding import (
    Grid,
    anchored_solution,
    damped,
    product_error,
    rounded_on,
)
from graphopt.compression.smoothing import choose_smoothing, quantization_error
from graphopt.ir import from_text
from graphopt.passes.reconstruct_weights import ReconstructWeights
from graphopt.passes.round_adaptively import RoundAdaptively
from graphopt.pipeline import PassManager, Pipeline
from graphopt.rewrite import ChannelMoments, Editor, Facts, Journal


def moments_of(rows):
    return ChannelMoments(
        count=len(rows),
        mean=rows.mean(0),
        second=(rows**2).mean(0),
        largest=np.abs(rows).max(0),
        gram=rows.T @ rows / len(rows),
        minimum=rows.min(0),
        maximum=rows.max(0),
    )


def with_outliers(rng, rows=2000, channels=24):
    found = rng.standard_normal((rows, channels))
    found[:, :2] *= 60.0
    return found


def simulated_error(scales, rows, weight):
    """Quantize both sides as a dynamic quantizer does, and compare products."""
    smooth = rows / scales
    low, high = min(smooth.min(), 0.0), max(smooth.max(), 0.0)
    step = (high - low) / 255
    activation = (np.rint((smooth - low) / step)) * step + low
    scaled = weight * scales[:, None]
    steps = np.abs(scaled).max(0) / 127
    return ((activation @ (np.rint(scaled / steps) * steps) - rows @ weight) ** 2).mean(0).sum()


@pytest.mark.parametrize("seed", range(4))
def test_expected_error_is_the_simulated_one(seed):
    rng = np.random.default_rng(seed)
    rows, weight = with_outliers(rng), rng.standard_normal((24, 40))
    chosen = choose_smoothing(moments_of(rows), weight)
    for scales in (np.ones(24), chosen.scales):
        expected = quantization_error(scales, moments_of(rows), weight)
        assert 0.7 < simulated_error(scales, rows, weight) / expected < 1.4
    assert chosen.gain_db > 6.0
    real = simulated_error(np.ones(24), rows, weight) / simulated_error(chosen.scales, rows, weight)
    assert abs(10 * np.log10(real) - chosen.gain_db) < 2.0


def test_dead_channels_are_left_alone():
    rows = np.zeros((4, 3))
    rows[:, 0] = 5.0
    weight = np.array([[1.0], [0.0], [2.0]])
    scales = choose_smoothing(moments_of(rows), weight, 0.5).scales
    assert np.isfinite(scales).all()
    assert scales[1] == scales[2] == 1.0


def test_a_layer_without_channels_has_no_error_to_gain_from():
    chosen = choose_smoothing(moments_of(np.zeros((4, 0))), np.zeros((0, 2)))
    assert (chosen.before, chosen.after, chosen.gain_db) == (0.0, 0.0, 0.0)


def test_equalized_ranges_are_equal():
    rng = np.random.default_rng(0)
    first = np.exp(rng.standard_normal((6, 4)))
    second = np.exp(rng.standard_normal((5, 6)))
    pair = Side(first, (6, 1)), Side(second, (1, 6))
    (scales,) = equalized_scales([pair], [None], 20)
    np.testing.assert_allclose(pair[0].ranges(), pair[1].ranges())
    assert scales.shape == (6,)


def test_bounds_of_scales_hold():
    pair = Side(np.array([[16.0], [16.0]]), (2, 1)), Side(np.array([[1.0, 1.0]]), (1, 2))
    bounds = (np.array([1.0, 0.0]), np.array([1.0, 2.0]))
    (scales,) = equalized_scales([pair], [bounds], 20)
    assert scales.tolist() == [1.0, 2.0]


def correlated(rng, channels=48, rows=400):
    mixing = rng.standard_normal((8, channels))
    return rng.standard_normal((rows, 8)) @ mixing + 0.2 * rng.standard_normal((rows, channels))


@pytest.mark.parametrize("limits", [(-7, 7), (-127, 127)])
def test_rounding_again_helps_where_channels_go_together(limits):
    rng = np.random.default_rng(1)
    rows, weight = correlated(rng), rng.standard_normal((48, 20))
    scale = np.broadcast_to(np.abs(weight).max(0) / limits[1], weight.shape)
    grid = Grid(scale, np.zeros_like(scale), *limits)
    gram = damped(rows.T @ rows / len(rows), 0.01)
    start = grid.nearest(weight)
    found = rounded_on(grid, weight, gram, start, 8)
    before, after = (product_error(gram, grid.values(one) - weight) for one in (start, found))
    assert after < 0.3 * before
    assert found.min() >= limits[0]
    assert found.max() <= limits[1]
    assert np.array_equal(found, np.rint(found))


def test_rounding_again_never_makes_it_worse():
    rng = np.random.default_rng(2)
    weight = rng.standard_normal((5, 3))
    grid = Grid(np.full((5, 3), 0.1), np.zeros((5, 3)), -8, 7)
    start = grid.nearest(weight)
    assert np.array_equal(rounded_on(grid, weight, np.eye(5), start, 8), start)


def test_anchored_solution_recovers_and_stays():
    rng = np.random.default_rng(3)
    rows, wanted = rng.standard_normal((300, 6)), rng.standard_normal((6, 2))
    gram, product = rows.T @ rows / 300, rows.T @ (rows @ wanted) / 300
    anchor = np.zeros((6, 2))
    np.testing.assert_allclose(anchored_solution(gram, product, anchor, 1e-9), wanted, atol=1e-6)
    np.testing.assert_allclose(anchored_solution(gram, product, anchor, 1e9), anchor, atol=1e-6)
    still = anchored_solution(gram, product, wanted, 0.5)
    np.testing.assert_allclose(still, wanted, atol=1e-12)


def test_levels_follow_what_depends_on_what():
    model = from_text(
        "(float[N,2] x) => (float[N,2] z) { a = Neg(x) b = Abs(x) c = Add(a, b) d = Exp(c) z = Mul(d, a) }"
    )
    nodes = {node.outputs[0].name: node for node in model.graph}
    levels = levels_of(model.graph, [nodes[name] for name in "abcz"])
    assert [[node.outputs[0].name for node in level] for level in levels] == [
        ["a", "b"],
        ["c"],
        ["z"],
    ]
    assert [len(step) for step in divided(levels, 2)] == [2, 2]
    assert [len(step) for step in divided(levels, 9)] == [2, 1, 1]
    assert divided([], 3) == []
    assert last_of_parts(3, 2) == {0, 2}
    assert last_of_parts(3, 9) == {0, 1, 2}
    assert last_of_parts(0, 2) == frozenset()


@pytest.mark.parametrize(
    "text",
    [
        "(float[N,3] x) => (float[N,2] y) <int8[3,2] w = {1,2,3,4,5,6}, float[2] s = {1.0,2.0}, int8[2] z = {1,0}>{ d = DequantizeLinear(w, s, z) y = MatMul(x, d) }",
        "(float[N,3] x) => (float[N,2] y) <int8[2,3] w = {1,2,3,4,5,6}, float[2] s = {1.0,2.0}>{ d = DequantizeLinear<axis = 0>(w, s) y = Gemm<transB = 1>(x, d) }",
        "(float[1,2,4] x) => (float[1,4,3] y) <int8[4,1,2] w = {1,2,3,4,5,6,7,8}, float s = {0.5}>{ d = DequantizeLinear(w, s) y = Conv<group = 2>(x, d) }",
    ],
)
def test_integers_come_back_as_they_were_stored(text):
    (layer,) = integer_layers(from_text(text).graph)
    matrix = integer_matrix(layer)
    stored = layer.integers.const_value.numpy()
    np.testing.assert_array_equal(matrix.stored(matrix.integers), stored)
    point = 0 if layer.zero_point is None else layer.zero_point.astype(np.float64)
    scale = layer.scale.astype(np.float64)
    if text.count("axis"):
        scale = scale[:, None]
    expected = (stored.astype(np.float64) - point) * scale
    if text.count("Gemm"):
        expected = expected.T[None]
    elif text.count("Conv"):
        expected = expected.reshape(2, 2, 2).transpose(0, 2, 1)
    else:
        expected = expected[None]
    np.testing.assert_array_equal(matrix.values, expected)


@pytest.mark.parametrize(
    "rest",
    [
        "y = MatMul(x, d) z = MatMul(x, d) }",
        "y = MatMul(x, d) z = Identity(d) }",
    ],
)
def test_weights_that_others_read_too_stay(rest):
    model = from_text(
        "(float[N,2] x) => (float[N,2] y, float[N,2] z) <int8[2,2] w = {1,2,3,4}, float s = {1.0}>"
        "{ d = DequantizeLinear(w, s) " + rest
    )
    for layer in integer_layers(model.graph):
        assert integer_matrix(layer) == "others read the weight too"


def test_what_is_added_along_the_width_is_no_bias_of_a_convolution():
    model = from_text(
        "(float[1,1,2] x) => (float[1,2,2] z) <int8[2,1,1] w = {1,2}, float s = {1.0}, float[2] b = {1.0,2.0}>"
        "{ d = DequantizeLinear(w, s) y = Conv(x, d) z = Add(y, b) }"
    )
    assert [layer.bias for layer in integer_layers(model.graph)] == [None]


def test_bias_that_others_read_too_is_none():
    model = from_text(
        "(float[N,2] x) => (float[N,2] y, float[N,2] z) <int8[2,2] w = {1,2,3,4}, float s = {1.0}, int32[2] b = {1,2}>"
        "{ d = DequantizeLinear(w, s) c = DequantizeLinear(b, s) y = Gemm(x, d, c) z = Gemm(x, d, c) }"
    )
    assert [layer.bias for layer in integer_layers(model.graph)] == [None, None]


# -- passes on models larger than a golden ---------------------------------------------------------


def layer_text(kind, weight, extra=""):
    numbers = ", ".join(f"{item:.4f}" for item in weight.reshape(-1))
    shape = ",".join(map(str, weight.shape))
    return f"{kind} <float[{shape}] w = {{{numbers}}}{extra}>"


def sqnr(measure, model, original):
    (found,) = measure.cross(model, original, [("y", "y")], products=False)
    return found.sqnr_db


@pytest.mark.parametrize("name", ["round-adaptively", "reconstruct-weights"])
@pytest.mark.parametrize(
    "quantizer",
    ["quantize-weights{bits=4 minimum_elements=1}", "quantize-dynamic{minimum_elements=1}"],
)
def test_linear_layers_come_nearer_to_the_original(name, quantizer):
    rng = np.random.default_rng(5)
    weight = rng.standard_normal((48, 16)).astype(np.float32)
    text = layer_text("(float[N,48] x) => (float[N,16] y)", weight) + " { y = MatMul(x, w) }"
    feeds = [{"x": correlated(rng).astype(np.float32)} for _ in range(2)]
    provider = Calibrator(samples=load_samples(feeds))
    manager = PassManager(statistics_provider=provider, verify="structure", reproducer_dir=None)
    original, plain, repaired = from_text(text), from_text(text), from_text(text)
    manager.run(plain, Pipeline.parse(quantizer))
    manager.run(repaired, Pipeline.parse(f"{quantizer},{name}"))
    gain = sqnr(provider.measure, repaired, original) - sqnr(provider.measure, plain, original)
    assert gain > (4.0 if "4" in quantizer else 0.3)


@pytest.mark.parametrize("cls", [RoundAdaptively, ReconstructWeights])
def test_convolutions_in_groups_come_nearer_to_the_original(cls):
    rng = np.random.default_rng(6)
    weight = rng.standard_normal((6, 2, 3, 3)).astype(np.float32)
    attributes = "<group = 2, pads = [1, 1, 1, 1]>"
    head = "(float[N,4,9,9] x) => (float[N,6,9,9] y)"
    original = from_text(layer_text(head, weight) + " { [c] y = Conv" + attributes + "(x, w) }")
    scale = float(np.abs(weight).max() / 7)
    integers = ", ".join(str(int(item)) for item in np.rint(weight / scale).reshape(-1))
    model = from_text(
        f"{head} <int8[6,2,3,3] w = {{{integers}}}, float s = {{{scale}}}>"
        "{ d = DequantizeLinear(w, s) [c] y = Conv" + attributes + "(x, d) }"
    )
    smooth = np.cumsum(np.cumsum(rng.standard_normal((8, 4, 9, 9)), axis=2), axis=3)
    measure = SampleMeasure(samples=load_samples([{"x": smooth.astype(np.float32)}]))
    before = sqnr(measure, model, original)
    edit = Editor(model, pass_name=cls.name, journal=Journal())
    cls().run(model, edit, Facts(measure=measure, original=original))
    assert len(edit.journal.edits) == 2  # the integers, and the old ones that nobody reads
    assert sqnr(measure, model, original) > before + 4.0
