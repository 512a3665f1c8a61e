"""Quantized layers in the other form: the same integers, and what the runtime makes of them."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.analysis.quantized_forms import quantized_forms
from graphopt.demo import demo_files
from graphopt.ir import from_text, model_bytes
from graphopt.ir import load as load_model
from graphopt.pipeline import PassManager, Pipeline


def convert(model, text):
    """Return a model file after a pipeline, and the ledger."""
    loaded = from_proto(model)
    result = PassManager(verify="off").run(loaded, Pipeline.parse(text))
    return onnx.load_from_string(model_bytes(result.model)), result.ledger


def from_proto(model):
    return from_text(onnx.printer.to_text(model))


def run(model, feeds, level="ORT_ENABLE_ALL"):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, feeds)


def constants(**arrays):
    return [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]


def model_of(nodes, inputs, outputs, weights, opset=17):
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def convolution(kind, *, channels, with_bias, seed):
    """Return QLinearConv with scales that are no powers of two, and its input."""
    random = np.random.default_rng(seed)
    kinds = {"u8": (np.uint8, TensorProto.UINT8, 117), "s8": (np.int8, TensorProto.INT8, -9)}
    dtype, elem, zero = kinds[kind]
    outputs = 5
    scales = random.uniform(0.003, 0.02, outputs if channels else ()).astype(np.float32)
    weights = constants(
        xs=np.float32(0.0371), xz=dtype(zero),
        w=random.integers(-127, 128, (outputs, 3, 3, 3), dtype=np.int8),
        ws=scales, wz=np.zeros_like(scales, np.int8), ys=np.float32(0.173), yz=dtype(zero),
        b=random.integers(-4000, 4000, outputs, dtype=np.int32),
    )  # fmt: skip
    names = ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz", *(["b"] if with_bias else [])]
    node = helper.make_node("QLinearConv", names, ["y"], pads=[1, 1, 1, 1], strides=[1, 2])
    x = helper.make_tensor_value_info("x", elem, [2, 3, 9, 8])
    y = helper.make_tensor_value_info("y", elem, [2, outputs, 9, 4])
    limits = np.iinfo(dtype)
    feed = random.integers(limits.min, limits.max, (2, 3, 9, 8), dtype=dtype, endpoint=True)
    return model_of([node], [x], [y], weights), {"x": feed}


def product(*, channels, seed):
    random = np.random.default_rng(seed)
    scales = random.uniform(0.003, 0.02, 7 if channels else ()).astype(np.float32)
    weights = constants(
        xs=np.float32(0.0371), xz=np.uint8(117),
        w=random.integers(-127, 128, (33, 7), dtype=np.int8),
        ws=scales, wz=np.zeros_like(scales, np.int8), ys=np.float32(0.31), yz=np.uint8(99),
    )  # fmt: skip
    names = ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz"]
    node = helper.make_node("QLinearMatMul", names, ["y"])
    x = helper.make_tensor_value_info("x", TensorProto.UINT8, ["N", 4, 33])
    y = helper.make_tensor_value_info("y", TensorProto.UINT8, ["N", 4, 7])
    feed = random.integers(0, 255, (6, 4, 33), dtype=np.uint8, endpoint=True)
    return model_of([node], [x], [y], weights), {"x": feed}


CASES = {
    "unsigned, one scale, bias": lambda seed: convolution("u8", channels=0, with_bias=1, seed=seed),
    "unsigned, channels, bias": lambda seed: convolution("u8", channels=1, with_bias=1, seed=seed),
    "signed, channels": lambda seed: convolution("s8", channels=1, with_bias=0, seed=seed),
    "product, one scale": lambda seed: product(channels=0, seed=seed),
    "product, channels": lambda seed: product(channels=1, seed=seed),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", CASES)
def test_the_deployed_runtime_gives_the_same_bits(name, seed):
    model, feeds = CASES[name](seed)
    written, ledger = convert(model, "convert-quantized-layers{to=qdq}")
    assert len(ledger.journal.edits) == 1
    assert {node.op_type for node in written.graph.node} & {"Conv", "MatMul"}
    (expected,), (found,) = run(model, feeds), run(written, feeds)
    assert expected.dtype == found.dtype
    assert np.array_equal(expected, found)
    # Without fusion a value on the border between two integers may go to the other one.
    (plain,) = run(written, feeds, "ORT_DISABLE_ALL")
    apart = np.abs(expected.astype(int) - plain.astype(int))
    assert apart.max() <= 1
    assert (apart > 0).mean() < 0.01


@pytest.mark.parametrize("name", CASES)
def test_there_and_back_is_the_same_operator(name):
    model, feeds = CASES[name](7)
    there, _ = convert(model, "convert-quantized-layers{to=qdq}")
    back, ledger = convert(there, "convert-quantized-layers{to=qoperator}")
    assert not ledger.journal.refusals
    assert [node.op_type for node in back.graph.node] == [model.graph.node[0].op_type]
    assert list(back.graph.node[0].input) == list(model.graph.node[0].input)
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in back.graph.initializer}
    for tensor in model.graph.initializer:
        if tensor.name in model.graph.node[0].input:
            assert np.array_equal(held[tensor.name], numpy_helper.to_array(tensor))
    assert np.array_equal(*(run(one, feeds)[0] for one in (model, back)))


def test_a_whole_model_of_another_quantizer(tmp_path):
    """ONNX Runtime's operators of integers, written out, give the same bits where it fuses them."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    demo = demo_files()
    with np.load(demo.calibration) as held:
        images = held["image"][:8]

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.left = iter(images)

        def get_next(self):
            image = next(self.left, None)
            return None if image is None else {"image": image[None]}

    path = tmp_path / "integers.onnx"
    quantize_static(
        str(demo.model), str(path), Reader(), quant_format=QuantFormat.QOperator, per_channel=True
    )
    before = onnx.load(path)
    loaded = load_model(path)
    assert quantized_forms(loaded).get("qoperator")
    result = PassManager(verify="numerics").run(loaded, Pipeline.parse("convert-quantized-layers"))
    forms = quantized_forms(result.model)
    assert forms.get("qdq")
    assert "qoperator" not in forms
    assert [entry.status for entry in result.ledger.entries] == ["applied"]
    after = onnx.load_from_string(model_bytes(result.model))
    feeds = {"image": images[:1]}
    for expected, found in zip(run(before, feeds), run(after, feeds), strict=True):
        assert np.abs(expected - found).max() <= 0.02 * np.abs(expected).max()
    # What came quantized is not quantized again.
    again = PassManager(verify="off").run(result.model, Pipeline.parse("quantize-dynamic"))
    assert quantized_forms(again.model) == forms


@pytest.mark.parametrize(("opset", "slug"), [(10, "old-opset"), (17, None)])
def test_scales_for_each_channel_need_opset_13(opset, slug):
    model, _ = product(channels=1, seed=0)
    model.opset_import[0].version = opset
    _, ledger = convert(model, "convert-quantized-layers")
    assert [refusal.slug for refusal in ledger.journal.refusals] == ([slug] if slug else [])


def test_scales_that_callers_may_replace_stay():
    model, _ = product(channels=0, seed=0)
    model.graph.input.append(helper.make_tensor_value_info("ws", TensorProto.FLOAT, []))
    written, ledger = convert(model, "convert-quantized-layers")
    assert [refusal.slug for refusal in ledger.journal.refusals] == ["computed-scale"]
    assert [node.op_type for node in written.graph.node] == ["QLinearMatMul"]
