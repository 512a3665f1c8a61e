"""What the provider for Hexagon processors takes: types of operands beside 16-bit values."""

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.calibration import Calibrator, load_samples
from graphopt.ir import constant_array, constant_tensor, from_text
from graphopt.pipeline import Pipeline
from graphopt.runtime import shared_worker
from graphopt.targets import load_target

TEXT = """
(int64[1,4] ids, float[1,4] mask) => (float[1,4,2] y)
<float[5,2] table = {0.5, -1.0, 2.0, 0.25, -3.0, 1.0, 0.125, 40.0, 1.5, 0.75},
 float[2] g = {1.0, 2.0}, float[2] b = {0.5, -0.25}, float[2,2] w = {1.0, 0.01, 0.5, -0.02},
 float[2] c = {0.5, 0.0}, int64[1] last = {2}>
{
  rows = Gather(table, ids)
  keep = Cast<to = 9>(mask)
  column = Unsqueeze(mask, last)
  kept = Mul(rows, column)
  normal = LayerNormalization(kept, g, b)
  product = MatMul(normal, w)
  sum = Add(product, c)
  three = Unsqueeze(keep, last)
  y = Where(three, sum, normal)
}
"""


@pytest.fixture(scope="module", params=[(), ((1.0, 1.0, 0.0, 0.0),)], ids=["whole", "padded"])
def quantized(request):
    masks = [(1.0, 1.0, 1.0, 1.0), *request.param]
    feeds = [
        {"ids": np.array([[0, 1, 2, 4]]), "mask": np.array([mask], np.float32)} for mask in masks
    ]
    model = from_text(TEXT)
    text = "quantize-static{placement=qnn-htp activation_type=u16 padding=true}"
    provider = Calibrator(samples=load_samples(feeds), worker=shared_worker())
    target = load_target("edge-qnn-htp").to_facts()
    Pipeline.parse(text).run(model, statistics_provider=provider, target=target)
    return model


def restored(model, operator, index):
    """Return the node that restores an operand, its integers and its scale."""
    (node,) = [node for node in model.graph if node.op_type == operator]
    maker = node.inputs[index].producer()
    assert maker.op_type == "DequantizeLinear"
    return constant_tensor(maker.inputs[0]).dtype, constant_array(maker.inputs[1])


def test_a_table_is_stored_as_its_rows_travel(quantized):
    kind, scale = restored(quantized, "Gather", 0)
    assert kind == ir.DataType.UINT16
    (gather,) = [node for node in quantized.graph if node.op_type == "Gather"]
    (reader,) = [user for user, _ in gather.outputs[0].uses()]
    assert reader.op_type == "QuantizeLinear"
    assert constant_array(reader.inputs[1]) == scale
    assert scale == pytest.approx(43.0 / 65535)  # the row that no sample asked for included


def test_the_summand_of_a_normalization_has_32_bits(quantized):
    assert restored(quantized, "LayerNormalization", 1)[0] == ir.DataType.UINT16
    assert restored(quantized, "LayerNormalization", 2)[0] == ir.DataType.INT32


def test_both_operands_of_a_sum_have_one_type(quantized):
    assert restored(quantized, "Add", 1)[0] == ir.DataType.UINT16


def test_it_computes_what_it_did(quantized):
    feed = {"ids": np.array([[4, 2, 1, 0]]), "mask": np.ones((1, 4), np.float32)}
    worker = shared_worker()
    found = worker.evaluate(quantized_bytes(quantized), feed)["y"]
    expected = worker.evaluate(quantized_bytes(from_text(TEXT)), feed)["y"]
    np.testing.assert_allclose(found, expected, atol=0.01)


def quantized_bytes(model):
    return ir.serde.serialize_model(model).SerializeToString()
