"""Weights in blocks in the other form: the same weight, bit by bit, as the runtime computes it."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.compression.packed_bits import pack, unpack
from graphopt.ir import load, model_bytes, save
from graphopt.pipeline import PassManager, Pipeline

INPUTS, OUTPUTS = 72, 5  # no multiple of a block; rows of zero points end in half a byte


def run(model, feeds):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, feeds)[0]


def quantized(folder, bits, size, *, symmetric):
    """Return a model whose weight ONNX Runtime's own tool has put into blocks."""
    from onnxruntime.quantization.matmul_nbits_quantizer import (
        DefaultWeightOnlyQuantConfig,
        MatMulNBitsQuantizer,
    )

    random = np.random.default_rng(bits + size)
    weight = numpy_helper.from_array(random.normal(size=(INPUTS, OUTPUTS)).astype(np.float32), "w")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", INPUTS])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", OUTPUTS])
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [weight]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    config = DefaultWeightOnlyQuantConfig(block_size=size, is_symmetric=symmetric, bits=bits)
    tool = MatMulNBitsQuantizer(model, algo_config=config)
    tool.process()
    path = folder / "blocks.onnx"
    onnx.save(tool.model.model, path)
    return path


def convert(path, text, folder):
    result = PassManager().run(load(path), Pipeline.parse(text))
    assert [entry.status for entry in result.ledger.entries] == ["applied"], result.ledger.entries
    place = folder / f"{len(list(folder.iterdir()))}.onnx"
    save(result.model, place)
    return place, onnx.load_from_string(model_bytes(result.model))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("bits", "size"), [(4, 16), (4, 32), (8, 32)])
def test_the_weight_keeps_its_bits_there_and_back(tmp_path, bits, size, symmetric):
    path = quantized(tmp_path, bits, size, symmetric=symmetric)
    before = onnx.load(path)
    assert [node.op_type for node in before.graph.node] == ["MatMulNBits"]
    there_path, there = convert(path, "convert-blocked-weights", tmp_path)
    assert [node.op_type for node in there.graph.node] == ["DequantizeLinear", "MatMul"]
    _, back = convert(there_path, "convert-blocked-weights{to=nbits}", tmp_path)
    assert [node.op_type for node in back.graph.node] == ["MatMulNBits"]
    # A row of the identity has one product that is not 0: what comes out is the weight.
    rows = {"x": np.eye(INPUTS, dtype=np.float32)}
    weights = [run(model, rows) for model in (before, there, back)]
    assert all(np.array_equal(weights[0], other) for other in weights[1:])
    feeds = {"x": np.random.default_rng(1).normal(size=(3, INPUTS)).astype(np.float32)}
    expected, *others = (run(model, feeds) for model in (before, there, back))
    assert all(np.abs(expected - found).max() < 1e-5 * np.abs(expected).max() for found in others)
    # Nothing of the first form is left behind: scales and bytes are there once.
    assert len(there.graph.initializer) == len(before.graph.initializer)
    assert len(back.graph.initializer) == len(before.graph.initializer)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("count", [1, 6, 7])
def test_packing_is_undone(bits, count):
    integers = np.random.default_rng(count).integers(0, 1 << bits, (2, 3, count), dtype=np.uint8)
    packed = pack(integers, bits)
    assert packed.shape == (2, 3, -(-count * bits // 8))
    assert np.array_equal(unpack(packed, bits, count), integers)


def test_the_first_integer_is_in_the_low_half():
    assert pack(np.array([[1, 2, 15]]), 4).tolist() == [[0x21, 0x0F]]


def test_a_weight_in_a_subgraph_stays_in_place(tmp_path):
    """Both branches multiply by one weight of the graph around them."""
    path = quantized(tmp_path, 4, 32, symmetric=True)
    model = onnx.load(path)
    (product,) = model.graph.node
    branch = helper.make_graph(
        [product], "b", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    )
    other = onnx.GraphProto()
    other.CopyFrom(branch)
    other.node[0].output[0] = other.output[0].name = "z"
    choice = helper.make_node("If", ["c"], ["r"], then_branch=branch, else_branch=other)
    del model.graph.node[:], model.graph.output[:]
    model.graph.node.append(choice)
    model.graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
    model.graph.output.append(helper.make_tensor_value_info("r", TensorProto.FLOAT, ["N", OUTPUTS]))
    onnx.save(model, path)
    there_path, there = convert(path, "convert-blocked-weights", tmp_path)
    _, back = convert(there_path, "convert-blocked-weights{to=nbits}", tmp_path)
    rows = {"x": np.eye(INPUTS, dtype=np.float32), "c": np.array(True)}
    assert np.array_equal(run(model, rows), run(there, rows))
    assert np.array_equal(run(model, rows), run(back, rows))
