"""`summarise`: parameters, bytes and multiply-accumulate operations."""

import pytest

from graphopt.analysis import summarise
from graphopt.ir import from_text


def macs(text, **bindings):
    return summarise(from_text(text), bindings).macs


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(float[2,3,4] x, float[4,5] w) => (float[A,B,C] z) { z = MatMul(x, w) }", 2 * 3 * 4 * 5),
        ("(float[4] x, float[4] w) => (float z) { z = MatMul(x, w) }", 4),
        (
            "(float[7,1,3,4] x, float[2,4,5] w) => (float[A,B,C,D] z) { z = MatMul(x, w) }",
            7 * 2 * 60,
        ),
        (
            "(float[4,3] x, float[5,4] w) => (float[3,5] z) { z = Gemm<transA = 1, transB = 1>(x, w) }",
            60,
        ),
        (
            "(float[1,4,8,8] x, float[6,2,3,3] w) => (float[A,B,C,D] z) { z = Conv<group = 2>(x, w) }",
            6 * 6 * 6 * 18,
        ),
        (
            "(float[1,4,8,8] x, float[4,2,3,3] w) => (float[A,B,C,D] z) { z = ConvTranspose(x, w) }",
            256 * 18,
        ),
        ("(float[2,3] x) => (float[2,3] z) { z = Relu(x) }", 0),
    ],
)
def test_macs(text, expected):
    assert macs(text) == expected


def test_symbols_count_as_bound_and_else_as_one():
    text = "(float[N,S,4] x, float[4,5] w) => (float[A,B,C] z) { z = MatMul(x, w) }"
    assert macs(text) == 20
    assert macs(text, N=2, S=3) == 120


def test_sizes_are_followed_through_the_arithmetic_of_shapes():
    text = """<ir_version: 10, opset_import: ["" : 20]>
    g (float[N,6,4] x, float[4,5] w) => (float[A,B] z) <int64[1] cut = {-1}, int64[1] four = {4}> {
        s = Shape<end = 1>(x)  t = Mul(s, cut)  u = Mul(t, cut)  v = Concat<axis = 0>(u, cut, four)
        y = Reshape(x, v)  z = MatMul(y, w) }"""
    assert macs(text) == 6 * 4 * 5
    assert macs(text, N=128) == 128 * 6 * 4 * 5


def test_a_size_that_depends_on_values_is_unknown_rather_than_one():
    text = """<ir_version: 10, opset_import: ["" : 20]>
    g (float[N,4] x, bool[N] mask, float[4,5] w) => (float[A,B] z) {
        y = Compress<axis = 0>(x, mask)  z = MatMul(y, w) }"""
    assert macs(text, N=8) is None


def test_unknown_shapes_are_said_to_be_unknown():
    text = """<ir_version: 10, opset_import: ["" : 20, "my.domain" : 1]>
    g (float[N,4] x, float[4,5] w) => (float[A,B] z) { y = my.domain.Foo(x)  z = MatMul(y, w) }"""
    assert macs(text) is None


def test_attention_counts_both_products():
    text = """<ir_version: 10, opset_import: ["" : 23]>
    g (float[2,4,8,16] q, float[2,4,10,16] k, float[2,4,10,32] v) => (float[A,B,C,D] z) { z = Attention(q, k, v) }"""
    assert macs(text) == 2 * 4 * 8 * 10 * (16 + 32)


def test_figures():
    model = from_text("""(float[N,2] x, float[2] o = {1.0, 2.0}) => (float[N,3] z, seq(float[N]) s)
    <float[2,3] w = {1,2,3,4,5,6}, int8[4] u = {1,2,3,4}>
    { y = MatMul(x, w)  z = Relu(y)  s = SplitToSequence(x, u) }""")
    summary = summarise(model)
    assert (summary.nodes, summary.parameters, summary.weight_bytes) == (3, 12, 24 + 4 + 8)
    assert summary.opsets == {"": 20}
    assert [port.name for port in summary.inputs] == ["x", "o"]
    assert summary.outputs[0].dims == ("N", 3)
    assert summary.outputs[0].type == "FLOAT"
    assert "Sequence" in summary.outputs[1].type
    assert summary.to_dict()["inputs"][0] == {"name": "x", "type": "FLOAT", "dims": ("N", 2)}


def test_macs_behind_operators_and_sizes_that_inference_does_not_follow():
    contrib = """
        <ir_version: 10, opset_import: ["" : 20, "com.microsoft" : 1]>
        g (float[N,2] x, uint8[N,2] q) => (float[N,3] y)
        <int8[2,3] w = {1, 2, 3, 4, 5, 6}, float s = {1.0}, uint8 z = {0}, float[3,3] v = {1.0, 2.0,
         3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0}> {
            h = com.microsoft.MatMulIntegerToFloat(q, w, s, s, z)
            r, rs, rz = DynamicQuantizeLinear(h)
            d = DequantizeLinear(r, rs, rz)
            y = MatMul(d, v)
        }"""
    assert macs(contrib, N=4) == 4 * 2 * 3 + 4 * 3 * 3
    computed = """
        (float[N,3] x) => (float[n,4] y) <float[3,4] w = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0,
         1.0, 2.0, 3.0}, int64 zero = {0}, int64[1] first = {0}, int64[1] axes = {0}> {
            shape = Shape(x)
            size = Gather(shape, zero)
            end = Unsqueeze(size, axes)
            part = Slice(x, first, end, axes)
            y = MatMul(part, w)
        }"""
    assert macs(computed, N=5) == 5 * 3 * 4
