"""Operators whose attributes, biases, scales or caches go along with what is cut."""

import numpy as np
import pytest

from graphopt.analysis import infer_shapes
from graphopt.analysis.coupling import couple, find_groups
from graphopt.compression.masking import surgery_fault
from graphopt.ir import from_text
from graphopt.runtime import generate_feed_sets

HEADER = '<ir_version: 10, opset_import: ["" : {}, "com.microsoft" : 1]> g '


def numbers(*shape, seed=0):
    values = np.random.default_rng((seed, *shape)).normal(size=shape).round(3).reshape(-1)
    return "{" + ",".join(map(str, values)) + "}"


def weights(**shapes):
    sizes = {name: ",".join(map(str, shape)) for name, shape in shapes.items()}
    return ", ".join(
        f"float[{sizes[name]}] {name} = {numbers(*shape, seed=place)}"
        for place, (name, shape) in enumerate(shapes.items())
    )


THREE = "q = MatMul(x, a) k = MatMul(x, b) v = MatMul(x, c)"
ABC = {"a": (8, 12), "b": (8, 12), "c": (8, 12), "o": (12, 8)}
# By name: what goes, how many of it there are, the opset, and the graph.
MODELS = {
    "MultiHeadAttention": (
        "heads",
        3,
        18,
        f"""(float[B,S,8] x) => (float[B,S,8] y) <{weights(**ABC, bias=(36,))}> {{ {THREE}
        r = com.microsoft.MultiHeadAttention<num_heads = 3>(q, k, v, bias) y = MatMul(r, o) }}""",
    ),
    "a bias of each head, values of another length": (
        "heads",
        2,
        18,
        f"""(float[B,4,8] x) => (float[B,4,8] y)
        <{weights(a=(8, 12), b=(8, 12), c=(8, 4), o=(4, 8), more=(1, 2, 4, 4))}> {{ {THREE}
        r = com.microsoft.MultiHeadAttention<num_heads = 2>(q, k, v, , , more)
        y = MatMul(r, o) }}""",
    ),
    "Attention": (
        "heads",
        3,
        18,
        f"""(float[B,S,8] x) => (float[B,S,8] y)
        <{weights(w=(8, 36), bias=(36,), o=(12, 8))}> {{
        r = com.microsoft.Attention<num_heads = 3>(x, w, bias) y = MatMul(r, o) }}""",
    ),
    "Attention with hidden sizes": (
        "heads",
        3,
        18,
        f"""(float[B,S,8] x) => (float[B,S,8] y)
        <{weights(w=(8, 30), bias=(30,), o=(6, 8))}> {{
        r = com.microsoft.Attention<num_heads = 3, qkv_hidden_sizes = [12, 12, 6]>(x, w, bias)
        y = MatMul(r, o) }}""",
    ),
    "GroupQueryAttention": (
        "heads",
        2,
        18,
        f"""(float[1,4,8] x) => (float[1,4,8] y)
        <{weights(a=(8, 32), b=(8, 16), c=(8, 16), o=(32, 8))}, int32[1] last = {{3}},
         int32 total = {{4}}> {{ {THREE}
        r, pk, pv = com.microsoft.GroupQueryAttention<num_heads = 4, kv_num_heads = 2>
            (q, k, v, , , last, total) y = MatMul(r, o) }}""",
    ),
    "Attention of ONNX, flat and grouped": (
        "heads",
        2,
        23,
        f"""(float[B,S,8] x) => (float[B,S,8] y)
        <{weights(a=(8, 12), b=(8, 6), c=(8, 6), o=(12, 8))}> {{ {THREE}
        r = Attention<q_num_heads = 4, kv_num_heads = 2>(q, k, v) y = MatMul(r, o) }}""",
    ),
    "Attention of ONNX, by heads": (
        "heads",
        3,
        23,
        f"""(float[B,S,8] x) => (float[B,S,8] y) <{weights(**ABC)},
        int64[4] s = {{0, 0, 3, 4}}, int64[3] m = {{0, 0, 12}}> {{ {THREE}
        q1 = Reshape(q, s) q2 = Transpose<perm = [0,2,1,3]>(q1)
        k1 = Reshape(k, s) k2 = Transpose<perm = [0,2,1,3]>(k1)
        v1 = Reshape(v, s) v2 = Transpose<perm = [0,2,1,3]>(v1)
        r = Attention(q2, k2, v2) t = Transpose<perm = [0,2,1,3]>(r) f = Reshape(t, m)
        y = MatMul(f, o) }}""",
    ),
    "RotaryEmbedding": (
        "heads",
        3,
        23,
        f"""(float[1,4,8] x) => (float[1,4,8] y) <{weights(**ABC, co=(4, 2), si=(4, 2))},
        int64[1,4] at = {{0, 1, 2, 3}}> {{ {THREE}
        q1 = RotaryEmbedding<num_heads = 3>(q, co, si, at)
        k1 = com.microsoft.RotaryEmbedding(k, at, co, si)
        r = com.microsoft.MultiHeadAttention<num_heads = 3>(q1, k1, v) y = MatMul(r, o) }}""",
    ),
    "a zero for every head": (
        "heads",
        3,
        18,
        f"""(float[B,4,8] x) => (float[B,4,8] y) <{weights(**ABC)},
        int64[4] s = {{0, 0, 3, 4}}, int64[3] m = {{0, 0, 12}}, int64[4] z = {{1, 3, 4, 4}}> {{
        {THREE} q1 = Reshape(q, s) q2 = Transpose<perm = [0,2,1,3]>(q1)
        k1 = Reshape(k, s) k2 = Transpose<perm = [0,2,3,1]>(k1)
        v1 = Reshape(v, s) v2 = Transpose<perm = [0,2,1,3]>(v1)
        p = MatMul(q2, k2) none = ConstantOfShape(z) n = Add(p, none) sm = Softmax<axis = -1>(n)
        r = MatMul(sm, v2) t = Transpose<perm = [0,2,1,3]>(r) f = Reshape(t, m)
        y = MatMul(f, o) }}""",
    ),
    "heads repeated by their numbers": (
        "heads",
        2,
        18,
        f"""(float[B,4,8] x) => (float[B,4,8] y)
        <{weights(a=(8, 16), b=(8, 8), c=(8, 8), o=(16, 8))}, int64[4] n = {{0, 0, 1, -1}},
        int64[4] s = {{0, 0, 4, 4}}, int64[4] p = {{0, 0, 2, 4}}, int64[3] m = {{0, 0, 16}}> {{
        {THREE} q1 = Reshape(q, s) q2 = Transpose<perm = [0,2,1,3]>(q1)
        k1 = Reshape(k, p) kn = Gather<axis = 2>(k1, n) k2 = Transpose<perm = [0,2,3,1]>(kn)
        v1 = Reshape(v, p) vn = Gather<axis = -2>(v1, n) v2 = Transpose<perm = [0,2,1,3]>(vn)
        d = MatMul(q2, k2) sm = Softmax<axis = -1>(d)
        r = MatMul(sm, v2) t = Transpose<perm = [0,2,1,3]>(r) f = Reshape(t, m)
        y = MatMul(f, o) }}""",
    ),
    "a width read from another tensor": (
        "heads",
        3,
        18,
        f"""(float[B,S,12] x) => (float[B,S,12] y)
        <{weights(a=(12, 12), b=(12, 12), c=(12, 12), o=(12, 12))},
        int64[4] s = {{0, 0, 3, 4}}, int64[1] zero = {{0}}, int64[1] two = {{2}},
        int64[1] three = {{3}}> {{ {THREE}
        q1 = Reshape(q, s) q2 = Transpose<perm = [0,2,1,3]>(q1)
        k1 = Reshape(k, s) k2 = Transpose<perm = [0,2,3,1]>(k1)
        v1 = Reshape(v, s) v2 = Transpose<perm = [0,2,1,3]>(v1)
        d = MatMul(q2, k2) sm = Softmax<axis = -1>(d)
        r = MatMul(sm, v2) t = Transpose<perm = [0,2,1,3]>(r)
        whole = Shape(x) some = Slice(whole, zero, two) width = Slice(whole, two, three)
        m = Concat<axis = 0>(some, width) f = Reshape(t, m) y = MatMul(f, o) }}""",
    ),
    "heads beside the batch": (
        "heads",
        3,
        18,
        f"""(float[B,4,8] x) => (float[B,4,8] y) <{weights(**ABC)},
        int64[4] s = {{0, 0, 3, 4}}, int64[4] back = {{-1, 3, 4, 4}}, int64[3] m = {{0, 4, 12}},
        int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] h = {{3}},
        int64[2] rest = {{4, 4}}> {{ {THREE}
        whole = Shape(x) n = Slice(whole, zero, one) nh = Mul(n, h)
        flat = Concat<axis = 0>(nh, rest)
        q1 = Reshape(q, s) q2 = Transpose<perm = [0,2,1,3]>(q1) q3 = Reshape(q2, flat)
        k1 = Reshape(k, s) k2 = Transpose<perm = [0,2,1,3]>(k1) k3 = Reshape(k2, flat)
        v1 = Reshape(v, s) v2 = Transpose<perm = [0,2,1,3]>(v1) v3 = Reshape(v2, flat)
        kt = Transpose<perm = [0,2,1]>(k3) d = MatMul(q3, kt) sm = Softmax<axis = -1>(d)
        r = MatMul(sm, v3) u = Reshape(r, back) t = Transpose<perm = [0,2,1,3]>(u)
        f = Reshape(t, m) y = MatMul(f, o) }}""",
    ),
    "halves exchanged": (
        "neurons",
        6,
        18,
        f"""(float[B,8] x) => (float[B,8] y)
        <{weights(a=(8, 6), w=(6, 8))}, int64[6] n = {{3, 4, 5, 0, 1, 2}}> {{
        h = MatMul(x, a) i = Gather<axis = 1>(h, n) j = Relu(i) y = MatMul(j, w) }}""",
    ),
    "fused activations": (
        "neurons",
        6,
        18,
        f"""(float[B,8] x) => (float[B,8] y)
        <{weights(a=(8, 6), b=(6,), c=(6,), w=(6, 8))}> {{ h = MatMul(x, a)
        i = com.microsoft.FastGelu(h, b) j = com.microsoft.BiasGelu(i, c)
        k = com.microsoft.QuickGelu(j) y = com.microsoft.FusedMatMul<alpha = 0.5>(k, w) }}""",
    ),
    "FusedMatMul, transposed": (
        "neurons",
        6,
        18,
        f"""(float[B,8] x) => (float[B,8] y) <{weights(a=(6, 8), w=(8, 6))}> {{
        h = com.microsoft.FusedMatMul<transB = 1>(x, a) i = Relu(h)
        y = com.microsoft.FusedMatMul<transB = 1>(i, w) }}""",
    ),
    "scales of each neuron": (
        "neurons",
        6,
        18,
        f"""(float[B,8] x) => (float[B,8] y)
        <int8[8,6] a = {{{",".join(str(n % 17 - 8) for n in range(48))}}},
         float[6] s = {{0.1, 0.2, 0.3, 0.4, 0.5, 0.6}}, int8[6] z = {{0, 1, 0, 2, 0, 3}},
         float t = {{0.05}}, uint8 u = {{100}}, {weights(w=(6, 8))}> {{
        d = DequantizeLinear<axis = 1>(a, s, z) h = MatMul(x, d) i = QuantizeLinear(h, t, u)
        j = DequantizeLinear(i, t, u) y = MatMul(j, w) }}""",
    ),
    "integers on both sides": (
        "neurons",
        6,
        18,
        f"""(float[B,8] x) => (float[B,8] y)
        <{weights(a=(8, 6))}, int8[6,8] w = {{{",".join(str(n % 17 - 8) for n in range(48))}}},
         float s = {{0.1}}> {{
        h = MatMul(x, a) i = Relu(h) d = DequantizeLinear(w, s) y = MatMul(i, d) }}""",
    ),
    "groups of channels": (
        "channels",
        3,
        18,
        f"""(float[B,2,8,8] x) => (float[B,2,6,6] y)
        <{weights(a=(6, 2, 1, 1), b=(9, 2, 3, 3), e=(9,), c=(2, 9, 1, 1))}> {{
        h = Conv(x, a) i = Conv<group = 3>(h, b, e) j = Relu(i) y = Conv(j, c) }}""",
    ),
    "the same channel of every group": (
        "channels",
        4,
        18,
        f"""(float[B,2,8,8] x) => (float[B,6,6,6] y)
        <{weights(a=(8, 2, 1, 1), b=(6, 4, 3, 3))}> {{
        h = Conv(x, a) i = Relu(h) y = Conv<group = 2>(i, b) }}""",
    ),
    "several kernels for a channel": (
        "channels",
        3,
        18,
        f"""(float[B,2,8,8] x) => (float[B,2,6,6] y)
        <{weights(a=(3, 2, 1, 1), b=(6, 1, 3, 3), c=(2, 6, 1, 1))}> {{
        h = Conv(x, a) i = Conv<group = 3>(h, b) y = Conv(i, c) }}""",
    ),
    "transposed, in groups": (
        "channels",
        2,
        18,
        f"""(float[B,2,5,5] x) => (float[B,2,7,7] y)
        <{weights(a=(6, 2, 1, 1), b=(6, 3, 3, 3), e=(6,), c=(2, 6, 1, 1))}> {{
        h = Conv(x, a) i = ConvTranspose<group = 2>(h, b, e) y = Conv(i, c) }}""",
    ),
    "FusedConv": (
        "channels",
        5,
        18,
        f"""(float[B,2,8,8] x) => (float[B,2,8,8] y)
        <{weights(a=(5, 2, 1, 1), d=(5, 2, 1, 1), e=(5,), c=(2, 5, 1, 1))}> {{ s = Conv(x, d)
        h = com.microsoft.FusedConv<activation = "Relu">(x, a, e, s) y = Conv(h, c) }}""",
    ),
    "GroupNormalization": (
        "channels",
        3,
        21,
        f"""(float[B,2,8,8] x) => (float[B,2,8,8] y)
        <{weights(a=(6, 2, 1, 1), s=(6,), b=(6,), c=(2, 6, 1, 1))}> {{ h = Conv(x, a)
        i = GroupNormalization<num_groups = 3>(h, s, b) y = Conv(i, c) }}""",
    ),
    "GroupNormalization, one scale a group": (
        "channels",
        3,
        18,
        f"""(float[B,2,8,8] x) => (float[B,2,8,8] y)
        <{weights(a=(6, 2, 1, 1), s=(3,), b=(3,), c=(2, 6, 1, 1))}> {{ h = Conv(x, a)
        i = GroupNormalization<num_groups = 3>(h, s, b) y = Conv(i, c) }}""",
    ),
    "a normalization by groups, written out": (
        "channels",
        3,
        18,
        f"""(float[B,2,H,W] x) => (float[B,2,H,W] y)
        <{weights(a=(6, 2, 1, 1), s=(6, 1, 1), c=(2, 6, 1, 1))}, int64[3] g = {{0, 3, -1}},
         float[3] one = {{1, 1, 1}}, float[3] zero = {{0, 0, 0}}> {{
        h = Conv(x, a) whole = Shape(h) r = Reshape(h, g)
        n = InstanceNormalization(r, one, zero) t = Reshape(n, whole) i = Mul(t, s)
        y = Conv(i, c) }}""",
    ),
}


def model_of(opset, body):
    return from_text(HEADER.format(opset) + body)


def free_groups(model):
    groups = find_groups(couple(model, infer_shapes(model)))
    return [group for group in groups if group.pin is None]


@pytest.mark.parametrize("name", MODELS)
def test_what_is_cut_computes_what_zeros_compute(name):
    kind, count, opset, body = MODELS[name]
    model = model_of(opset, body)
    groups = free_groups(model)
    assert [(group.kind, len(group.units)) for group in groups] == [(kind, count)]
    feeds = generate_feed_sets(model, count=2)
    assert surgery_fault(model, [groups[0].units[1:2]], feeds) is None
    assert (
        surgery_fault(model, [[groups[0].units[0], groups[0].units[-1]]][: count - 2], feeds)
        is None
    )
