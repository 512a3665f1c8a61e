"""Quantized models as ONNX Runtime runs them: which kernels it finds, and how near the numbers are."""

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest

from graphopt.ir import from_text, model_bytes
from graphopt.passes.quantize_dynamic import QuantizeDynamic
from graphopt.passes.quantize_static import QuantizeStatic
from graphopt.rewrite import Editor, Facts, Journal, ValueRange

RNG = np.random.default_rng(0)


def session(model, path=None):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    if path is not None:
        options.optimized_model_filepath = str(path)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def kernels(model, folder):
    """Return what the runtime makes of a model, layout changes left out."""
    session(model_bytes(model), folder / "optimized.onnx")
    found = Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)
    del found["Transpose"]
    return dict(found)


def with_weights(text, **shapes):
    """Parse a model and give it random initializers."""
    names = ", ".join(
        f"float[{','.join(map(str, shape))}] {name} = {{{', '.join(str(v) for v in weights)}}}"
        for name, shape in shapes.items()
        for weights in [RNG.normal(0, 0.2, int(np.prod(shape))).astype(np.float32)]
    )
    return from_text(text.replace("WEIGHTS", names))


def quantized(pass_, model, ranges=None):
    journal = Journal()
    pass_.run(
        model, Editor(model, pass_name=pass_.name, journal=journal), Facts(ranges=ranges or {})
    )
    assert journal.edits
    return model


def measured(pass_, model, feed):
    """Return ranges of what a pass needs, from one run of the float model."""
    names = pass_.needs(model).ranges
    proto = onnx.load_from_string(model_bytes(model))
    inputs = {value.name for value in proto.graph.input}
    outputs = {value.name for value in proto.graph.output}
    for name in names:
        if name not in inputs | outputs:
            proto.graph.output.append(onnx.ValueInfoProto(name=name))
    computed = [name for name in names if name not in inputs]
    found = session(proto.SerializeToString()).run(computed, feed) if computed else []
    values = {**feed, **dict(zip(computed, found, strict=True))}
    return {
        name: ValueRange(float(values[name].min()), float(values[name].max())) for name in names
    }


def sqnr_db(reference, found):
    return 10 * np.log10(np.square(reference).sum() / np.square(reference - found).sum())


def check_static(model, feed, tmp_path, expected, **options):
    reference = session(model_bytes(model)).run(None, feed)
    pass_ = QuantizeStatic(**options)
    quantized(pass_, model, measured(pass_, model, feed))
    found = session(model_bytes(model)).run(None, feed)
    for want, got in zip(reference, found, strict=True):
        assert sqnr_db(want, got) > 25
    assert kernels(model, tmp_path) == expected


IMAGE = {"x": RNG.normal(size=(1, 4, 8, 8)).astype(np.float32)}


def test_residual_network_runs_in_integers_from_end_to_end(tmp_path):
    model = with_weights(
        """(float[1,4,8,8] x) => (float[1,3] y) <WEIGHTS>
        { a = Conv<pads = [1,1,1,1]>(x, w1, b1)  r = Relu(a)
          d = Conv<group = 4, pads = [1,1,1,1]>(r, w2)
          s = Add(d, r)  t = Relu(s)
          m = MaxPool<kernel_shape = [2,2], strides = [2,2]>(t)
          k = Concat<axis = 1>(m, m)  v = AveragePool<kernel_shape = [2,2]>(k)
          g = GlobalAveragePool(v)  f = Flatten(g)  y = Gemm<transB = 1>(f, w3, b3) }""",
        w1=(4, 4, 3, 3), b1=(4,), w2=(4, 1, 3, 3), w3=(3, 8), b3=(3,),
    )  # fmt: skip
    expected = {
        "QuantizeLinear": 1, "QLinearConv": 2, "QLinearAdd": 1, "NhwcMaxPool": 1, "QLinearConcat": 1,
        "QLinearAveragePool": 1, "QLinearGlobalAveragePool": 1, "Flatten": 1, "QGemm": 1,
    }  # fmt: skip
    check_static(model, IMAGE, tmp_path, expected)


def test_average_whose_window_reaches_beyond_the_image_is_right(tmp_path):
    model = with_weights(
        """(float[1,4,8,8] x) => (float[1,4,1,1] y) <WEIGHTS>
        { a = Conv(x, w1)
          p = AveragePool<kernel_shape = [9,9], strides = [9,9], ceil_mode = 1, count_include_pad = 1>(a)
          y = Conv(p, w2) }""",
        w1=(4, 4, 1, 1), w2=(4, 4, 1, 1),
    )  # fmt: skip
    expected = {
        "QuantizeLinear": 1, "QLinearConv": 2, "QLinearAveragePool": 1, "DequantizeLinear": 1,
    }  # fmt: skip
    check_static(model, IMAGE, tmp_path, expected)


def test_sigmoid_gate_runs_in_integers(tmp_path):
    model = with_weights(
        """(float[1,4,8,8] x) => (float[1,4,8,8] y) <WEIGHTS>
        { a = Conv(x, w1)  s = Sigmoid(a)  m = Mul(a, s)  y = Conv(m, w2) }""",
        w1=(4, 4, 1, 1), w2=(4, 4, 1, 1),
    )  # fmt: skip
    expected = {
        "QuantizeLinear": 1, "QLinearConv": 2, "QLinearSigmoid": 1, "QLinearMul": 1,
        "DequantizeLinear": 1,
    }  # fmt: skip
    check_static(model, IMAGE, tmp_path, expected)


def test_last_sum_is_formed_in_integers(tmp_path):
    model = with_weights(
        """(float[1,4,8,8] x) => (float[1,4,1,1] y) <WEIGHTS>
        { a = Conv(x, w1)  b = Conv(a, w2)  s = Add(a, b)  r = Relu(s)
          y = ReduceMean<keepdims = 1>(r, axes) }""".replace(
            "<WEIGHTS>", "<WEIGHTS, int64[2] axes = {2, 3}>"
        ),
        w1=(4, 4, 1, 1), w2=(4, 4, 1, 1),
    )  # fmt: skip
    expected = {
        "QuantizeLinear": 1, "QLinearConv": 2, "QLinearAdd": 1, "DequantizeLinear": 1,
        "ReduceMean": 1,
    }  # fmt: skip
    check_static(model, IMAGE, tmp_path, expected)


@pytest.mark.parametrize("shape", ["16,32", "2,8,32", "N,S,32"])
def test_linear_layer_with_bias_never_falls_back_to_float(shape, tmp_path):
    output = shape.rsplit(",", 1)[0]
    model = with_weights(
        f"(float[{shape}] x) => (float[{output},16] y) <WEIGHTS> "
        "{ m = MatMul(x, w)  y = Add(m, b) }",
        w=(32, 16), b=(16,),
    )  # fmt: skip
    sizes = [{"N": 2, "S": 8}.get(dim) or int(dim) for dim in shape.split(",")]
    feed = {"x": RNG.normal(size=sizes).astype(np.float32)}
    reference = session(model_bytes(model)).run(None, feed)[0]
    pass_ = QuantizeStatic()
    quantized(pass_, model, measured(pass_, model, feed))
    assert sqnr_db(reference, session(model_bytes(model)).run(None, feed)[0]) > 30
    found = kernels(model, tmp_path)
    assert not {"MatMul", "Gemm", "FusedGemm"} & set(found)
    assert {"QGemm", "MatMulIntegerToFloat"} & set(found)


def test_dynamic_layer_and_its_bias_become_one_kernel(tmp_path):
    model = with_weights(
        "(float[N,S,32] x) => (float[N,S,16] y) <WEIGHTS> { m = MatMul(x, w)  y = Add(m, b) }",
        w=(32, 16), b=(16,),
    )  # fmt: skip
    feed = {"x": RNG.normal(size=(2, 8, 32)).astype(np.float32)}
    reference = session(model_bytes(model)).run(None, feed)[0]
    quantized(QuantizeDynamic(minimum_elements=1), model)
    assert sqnr_db(reference, session(model_bytes(model)).run(None, feed)[0]) > 30
    assert kernels(model, tmp_path) == {"DynamicQuantizeMatMul": 1}


def test_layers_of_one_value_share_its_quantization(tmp_path):
    model = with_weights(
        "(float[N,32] x) => (float[N,16] y, float[N,16] z) <WEIGHTS> "
        "{ y = MatMul(x, v)  z = Gemm(x, w, b) }",
        v=(32, 16), w=(32, 16), b=(16,),
    )  # fmt: skip
    quantized(QuantizeDynamic(minimum_elements=1), model)
    expected = {"DynamicQuantizeLinear": 1, "MatMulIntegerToFloat": 2}
    assert kernels(model, tmp_path) == expected


def test_table_tied_to_the_output_layer_never_becomes_float(tmp_path):
    model = with_weights(
        """(int64[N] i) => (float[N,40] z) <WEIGHTS>
        { y = Gather(w, i)  r = Relu(y)  t = Transpose<perm = [1, 0]>(w)  z = MatMul(r, t) }""",
        w=(40, 16),
    )
    feed = {"i": np.array([0, 39, -1])}
    reference = session(model_bytes(model)).run(None, feed)[0]
    quantized(QuantizeDynamic(minimum_elements=1), model)
    assert sqnr_db(reference, session(model_bytes(model)).run(None, feed)[0]) > 25
    assert "DynamicQuantizeMatMul" in kernels(model, tmp_path)
    proto = onnx.load(tmp_path / "optimized.onnx")
    floats = [w for w in proto.graph.initializer if w.data_type == onnx.TensorProto.FLOAT]
    assert max(np.prod(weight.dims) for weight in floats) <= 40


@pytest.mark.parametrize("size", [0.0, 1e-18, 1e-40])
def test_what_was_as_good_as_zero_in_every_sample_stays_in_float(size):
    model = with_weights(
        "(float[2,4] x) => (float[2,4] y) <WEIGHTS> { y = MatMul(x, w) }", w=(4, 4)
    )
    before, pass_, journal = model_bytes(model), QuantizeStatic(), Journal()
    zeros = measured(pass_, model, {"x": np.full((2, 4), size, np.float32)})
    assert zeros
    pass_.run(model, Editor(model, pass_name=pass_.name, journal=journal), Facts(ranges=zeros))
    assert [refusal.slug for refusal in journal.refusals] == ["range-unknown"]
    assert model_bytes(model) == before
