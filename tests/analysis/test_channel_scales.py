"""Factors of channels that go upwards through attention, to the weight that makes the values."""

import numpy as np
import pytest

from graphopt.analysis import infer_shapes
from graphopt.analysis.channel_scales import channels_scaled_above
from graphopt.ir import from_text

FACTORS = np.array([2.0, 3.0, 4.0, 5.0])
HEADS = {
    "Attention": "Attention<q_num_heads = 2, kv_num_heads = 2>",
    "MultiHeadAttention": "com.microsoft.MultiHeadAttention<num_heads = 2>",
}


def scaled(attention, operands):
    model = from_text(
        f"""<ir_version: 10, opset_import: ["" : 23, "com.microsoft" : 1]>
        g (float[1,2,4] q, float[1,2,4] k, float[1,2,4] x, float[1,2,3,2] p, float[1,2,3,2] r)
        => (float[1,2,4] y)
        <float[4,4] w = {{1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1}}>
        {{ v = MatMul(x, w)  y = {HEADS[attention]}(q, k, v{operands}) }}"""
    )
    return channels_scaled_above(model.graph.outputs[0], FACTORS, infer_shapes(model))


@pytest.mark.parametrize("attention", HEADS)
def test_factors_go_through_attention_to_the_weight_of_the_values(attention):
    (found,) = scaled(attention, "")
    np.testing.assert_array_equal(found.tensor.numpy(), np.diag(FACTORS).astype(np.float32))


@pytest.mark.parametrize(
    ("attention", "operands"),
    [("Attention", ", , p, r"), ("MultiHeadAttention", ", , , , p, r")],
)
def test_values_of_earlier_runs_are_in_the_way(attention, operands):
    assert scaled(attention, operands) is None
