"""Layers whose results are read in branches: what is quantized of them, and that it loads."""

import numpy as np
import pytest
from quantized_runs import outputs_of, quantize, sqnr_db

from graphopt.compression.integer_layers import integer_layers
from graphopt.ir import from_text

SUM_IN_A_BRANCH = """(bool c, float[N,2] x) => (float[N,2] y)
<float[2,2] w = {127.0, 64.0, -3.0, -254.0}, float[2] b = {1.0, 2.0}>
{ m = MatMul(x, w)
  y = If(c) <then_branch = one () => (float[N,2] t) { t = Add(m, b) },
             else_branch = two () => (float[N,2] e) { e = Neg(x) }> }"""
MOVED_INTO_BRANCHES = """(bool c, float[1,2,2,2] x) => (float[1,2,2,2] y)
<float[2,2,1,1] w = {1.0, 2.0, -3.0, -1.0}, int64[4] shape = {1, 2, 2, 2}>
{ m = Conv(x, w)
  MOVE
  y = If(c) <then_branch = one () => (float[1,2,2,2] t) { t = Abs(r) },
             else_branch = two () => (float[1,2,2,2] e) { e = Neg(r) }> }"""


@pytest.fixture
def run(tmp_path):
    """Quantize a model, and return it, what the ledger refuses, and SQNRs in both branches."""

    def run(text, passes, shape):
        values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        feeds = [{"x": values, "c": np.array(which)} for which in (True, False)]
        model = from_text(text)
        wanted = outputs_of(tmp_path, model, feeds)
        ledger = quantize(model, passes, feeds)
        pairs = zip(wanted, outputs_of(tmp_path, model, feeds), strict=True)
        noise = [sqnr_db(want["y"], found["y"]) for want, found in pairs]
        return model, {refusal.slug for refusal in ledger.journal.refusals}, noise

    return run


def test_a_sum_in_a_branch_is_no_bias_of_a_product_outside(run):
    model, refused, noise = run(
        SUM_IN_A_BRANCH, "quantize-linear-layers{minimum_elements=1}", (3, 2)
    )
    assert "MatMulIntegerToFloat" in {node.op_type for node in model.graph}
    assert not refused
    assert min(noise) > 35


@pytest.mark.parametrize("quantizer", ["quantize-static", "quantize-dynamic{minimum_elements=1}"])
def test_a_sum_in_a_branch_is_not_corrected(run, quantizer):
    model, refused, _ = run(SUM_IN_A_BRANCH, f"{quantizer},correct-bias", (3, 2))
    assert [layer.bias for layer in integer_layers(model.graph)] == [None]
    assert refused == {"no-bias"}


@pytest.mark.parametrize(
    "move",
    [
        "r = Transpose<perm = [0, 2, 3, 1]>(m)",
        "r = MaxPool<kernel_shape = [1, 1]>(m)",
        "s = Transpose<perm = [0, 3, 1, 2]>(m)  r = Reshape(s, shape)",
    ],
)
def test_what_branches_read_of_moved_integers_loads(run, move):
    text = MOVED_INTO_BRANCHES.replace("MOVE", move)
    _, _, noise = run(text, "quantize-static{placement=arm-cpu}", (1, 2, 2, 2))
    assert min(noise) > 30
