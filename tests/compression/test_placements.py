"""Placements for other runtimes, as ONNX Runtime on a CPU computes what they quantize."""

import numpy as np
import pytest
from quantized_runs import outputs_of, quantize, sqnr_db

from graphopt.ir import from_text

# The channels in the middle hold nothing but their biases, as channels of trained networks do.
DEAD_CHANNELS = """(float[1,2,3,3] x) => (float[1,2,3,3] y)
<float[4,2,1,1] w = {1.0, -2.0, 0.0, 0.0, 1e-12, 0.0, 3.0, 1.0}, float[4] b = {0.1, 0.9, 0.9, 0.1},
 float[2,4,1,1] v = {1.0, 2.0, -3.0, 0.5, -1.0, 2.0, 1.5, 1.0}>
{ a = Conv(x, w, b)  r = Relu(a)  y = Conv(r, v) }"""


@pytest.fixture
def run(tmp_path):
    """Quantize a model; return the operators of the main graph, and SQNRs of its outputs."""

    def run(text, passes, feeds):
        model = from_text(text)
        (wanted,) = outputs_of(tmp_path, model, [feeds])
        quantize(model, passes, [feeds])
        (found,) = outputs_of(tmp_path, model, [feeds])
        noise = {name: sqnr_db(want, found[name]) for name, want in wanted.items()}
        return [node.op_type for node in model.graph], noise

    return run


@pytest.mark.parametrize("placement", ["tensorrt", "openvino", "qnn-htp", "nnapi", "arm-cpu"])
def test_biases_of_channels_without_weights_are_kept(run, placement):
    x = np.random.default_rng(0).standard_normal((1, 2, 3, 3)).astype(np.float32)
    _, noise = run(DEAD_CHANNELS, f"quantize-static{{placement={placement}}}", {"x": x})
    assert noise["y"] > 30


@pytest.mark.parametrize("kind", [np.float64, np.float16, np.int32])
@pytest.mark.parametrize("placement", ["tensorrt", "openvino"])
def test_products_of_other_types_stay(run, placement, kind):
    name = {np.float64: "double", np.float16: "float16", np.int32: "int32"}[kind]
    text = f"""({name}[2,2] a, {name}[2,2] b, float[2,2] x) => ({name}[2,2] y, float[2,2] z)
    <float[2,2] w = {{1.0, 2.0, 3.0, -4.0}}> {{ y = MatMul(a, b)  z = MatMul(x, w) }}"""
    numbers = np.array([[1, 2], [3, -4]])
    feeds = {"a": numbers.astype(kind), "b": numbers.T.astype(kind), "x": np.eye(2, dtype="f4")}
    operators, noise = run(text, f"quantize-static{{placement={placement}}}", feeds)
    assert operators.count("QuantizeLinear") == 1
    assert noise["y"] == np.inf
    assert noise["z"] > 30


def test_a_limit_in_a_branch_leaves_its_operand_quantized(run):
    text = """(bool c, float[1,2,2,2] x) => (float[1,2,2,2] y)
    <float[2,2,1,1] w = {1.0, 2.0, -3.0, -1.0}>
    { m = Conv(x, w)
      y = If(c) <then_branch = one () => (float[1,2,2,2] t) { t = Relu(m) },
                 else_branch = two () => (float[1,2,2,2] e) { e = Neg(x) }> }"""
    x = np.random.default_rng(0).standard_normal((1, 2, 2, 2)).astype(np.float32)
    feeds = {"x": x, "c": np.array(True)}
    operators, noise = run(text, "quantize-static{placement=qnn-htp}", feeds)
    assert operators.count("QuantizeLinear") == 3
    assert noise["y"] > 30


@pytest.mark.parametrize("opset", [17, 21])
@pytest.mark.parametrize(
    "move",
    [
        "y = Transpose<perm = [0, 2, 3, 1]>(m)",
        "r = Reshape(m, shape)  y = Tanh(r)",
        "s = MaxPool<kernel_shape = [1, 1]>(m)  r = Slice(s, one, two, one)  y = Tanh(r)",
    ],
)
def test_signed_integers_that_are_moved_at_the_end_load(run, opset, move):
    text = f"""<ir_version: 10, opset_import: ["" : {opset}]> g (float[1,2,2,2] x) => (float[A,B,C,D] y)
    <float[2,2,1,1] w = {{1.0, 2.0, -3.0, -1.0}}, int64[4] shape = {{1, 1, 4, 2}},
     int64[1] one = {{1}}, int64[1] two = {{2}}>
    {{ m = Conv(x, w)  {move} }}"""
    x = np.random.default_rng(0).standard_normal((1, 2, 2, 2)).astype(np.float32)
    _, noise = run(text, "quantize-static{placement=arm-cpu}", {"x": x})
    assert noise["y"] > 30


@pytest.mark.parametrize("opset", [17, 21])
@pytest.mark.parametrize("placement", ["arm-cpu", "tensorrt"])
def test_signed_integers_of_a_layer_over_rows_of_rows_load(run, opset, placement):
    text = f"""<ir_version: 10, opset_import: ["" : {opset}]> g (float[2,2,2] x) => (float[2,2,2] y)
    <float[2,2] w = {{1.0, 2.0, -3.0, -1.0}}, float[2] b = {{0.5, -0.5}}>
    {{ m = MatMul(x, w)  y = Add(b, m) }}"""
    x = np.random.default_rng(0).standard_normal((2, 2, 2)).astype(np.float32)
    _, noise = run(text, f"quantize-static{{placement={placement}}}", {"x": x})
    assert noise["y"] > 30


@pytest.mark.parametrize("opset", [17, 21])
@pytest.mark.parametrize("placement", ["arm-cpu", "tensorrt"])
@pytest.mark.parametrize("shape", [(2,), (2, 2, 2)])
def test_sums_that_the_runtime_refuses_stay(run, shape, placement, opset):
    dims = ",".join(map(str, shape))
    bias = "Identity(b)" if len(shape) == 1 else "Tanh(c)"
    text = f"""<ir_version: 10, opset_import: ["" : {opset}]>
    g (float[{dims}] x, float[2] c) => (float[{dims}] y)
    <float[2,2] w = {{1.0, 2.0, -3.0, -1.0}}, float[2] b = {{0.5, -0.5}}>
    {{ m = MatMul(x, w)  d = {bias}  y = Add(m, d) }}"""
    random = np.random.default_rng(0)
    feeds = {"x": random.standard_normal(shape), "c": random.standard_normal(2)}
    feeds = {name: array.astype(np.float32) for name, array in feeds.items()}
    operators, noise = run(text, f"quantize-static{{placement={placement}}}", feeds)
    assert operators.count("QuantizeLinear") == (1 if opset == 17 else 0)
    assert noise["y"] > 30
