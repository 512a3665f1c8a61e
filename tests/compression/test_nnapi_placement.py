"""Quantizers for a runtime whose integer products have integer results alone."""

import numpy as np
import pytest

from graphopt.calibration import Calibrator, load_samples
from graphopt.ir import from_text
from graphopt.pipeline import Pipeline
from graphopt.runtime import shared_worker
from graphopt.targets import load_target

TEXT = """
<ir_version: 9, opset_import: ["" : 17]>
g (float[1,3,4] x) => (float[1,3,2] y)
<float[4,4] w = {1, -2, 3, 4, 5, -6, 7, 8, 1, 2, 3, 4, -5, 6, 7, 8}, float[4] b = {1, 2, 3, 4},
 float[4,2] v = {1, 2, 3, 4, -5, 6, 7, 8}>
{ m = MatMul(x, w) a = Add(m, b) t = Tanh(a) y = MatMul(t, v) }
"""


@pytest.fixture
def built():
    def run(passes):
        model = from_text(TEXT)
        feeds = [
            {"x": np.random.default_rng(seed).random((1, 3, 4), np.float32)} for seed in (0, 1)
        ]
        calibrator = Calibrator(samples=load_samples(feeds), worker=shared_worker())
        target = load_target("edge-nnapi").to_facts()
        ledger = Pipeline.parse(passes).run(model, target=target, statistics_provider=calibrator)
        return model, ledger.ledger

    return run


def test_a_gemm_has_one_scale_and_an_integer_result_whoever_reads_it(built):
    model, _ = built("flatten-products,quantize-static")
    gemms = [node for node in model.graph if node.op_type == "Gemm"]
    assert len(gemms) == 2
    for node in gemms:
        weight = node.inputs[1].producer()
        assert weight.op_type == "DequantizeLinear"
        assert weight.inputs[1].const_value.shape.numpy() == ()
        (reader,) = node.outputs[0].uses()
        assert reader.node.op_type == "QuantizeLinear"


def test_a_product_without_an_integer_result_stays_in_float(built):
    model, ledger = built("quantize-static")
    assert {node.op_type for node in model.graph} == {"MatMul", "Add", "Tanh"}
    assert [refusal.slug for refusal in ledger.journal.refusals] == ["no-integer-kernel"] * 2
