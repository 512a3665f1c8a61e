"""Attention as other frameworks write it is found by the whole pipeline."""

import collections

import numpy as np
import pytest

from graphopt.ir import from_text, model_bytes, nodes
from graphopt.pipeline import Pipeline
from graphopt.runtime import shared_worker

WIDTH, COUNT, SIZE = 8, 2, 4
RANDOM = np.random.default_rng(7)


def model_of(inputs, body, **weights):
    """Parse a graph; ``weights`` are too long to be written out."""
    declared = []
    for name, array in weights.items():
        kind = "float" if np.asarray(array).dtype == np.float32 else "int64"
        dims = list(np.shape(array)) or ""
        values = ", ".join(str(item) for item in np.ravel(array))
        declared.append(f"{kind}{dims} {name} = {{{values}}}")
    header = '<ir_version: 10, opset_import: ["" : 17]>'
    return from_text(f"{header} g ({inputs}) => (float[P] z) <{', '.join(declared)}> {{ {body} }}")


def matrix(*dims):
    return RANDOM.normal(size=dims).astype(np.float32)


def layers(*dims, bias=(WIDTH,)):
    made = {f"w{name}": matrix(*dims) for name in "qkv"}
    return made | {f"b{name}": matrix(*bias) for name in "qkv"} | {"wo": matrix(WIDTH, WIDTH)}


MASK = "mi = Cast<to = 1>(mask)  mu = Unsqueeze(mi, ax)  ms = Sub(one, mu)  m = Mul(ms, big)"
NUMBERS = {
    "one": np.float32(1),
    "big": np.float32(-10000),
    "scale": np.float32(SIZE**-0.5),
    "ax": np.array([1, 2]),
}


def tf_bert_with_einsum():
    """TensorFlow's BERT: dense layers and products as Einsum, no axis ever moved."""
    dense = "  ".join(
        f'{name}m = Einsum<equation = "abc,cde->abde">(x, w{name})  {name}h = Add({name}m, b{name})'
        for name in "qkv"
    )
    body = f"""{MASK}  {dense}  qs = Mul(qh, scale)
        s = Einsum<equation = "BTNH,BFNH->BNFT">(kh, qs)  sm = Add(s, m)
        p = Softmax<axis = -1>(sm)  c = Einsum<equation = "BNFT,BTNH->BFNH">(p, vh)
        z = Einsum<equation = "abcd,cde->abe">(c, wo)"""
    weights = layers(WIDTH, COUNT, SIZE, bias=(COUNT, SIZE)) | {"wo": matrix(COUNT, SIZE, WIDTH)}
    return model_of("float[B,S,8] x, int64[B,S] mask", body, **weights, **NUMBERS)


def tf2onnx_bert():
    """The first BERT: everything but the attention is done on rows of a matrix."""
    dense = "  ".join(
        f"{name}m = MatMul(r, w{name})  {name}a = Add({name}m, b{name})"
        f"  {name}h = Reshape({name}a, four)  {name}t = Transpose<perm = [0, 2, 1, 3]>({name}h)"
        for name in "qkv"
    )
    body = f"""{MASK}  sh = Shape(x)  bs = Slice(sh, n0, n2, n0)  four = Concat<axis = 0>(bs, hd)
        r = Reshape(x, rows)  {dense}  kx = Transpose<perm = [0, 1, 3, 2]>(kt)
        s = MatMul(qt, kx)  sc = Mul(s, scale)  sm = Add(sc, m)  p = Softmax<axis = -1>(sm)
        c = MatMul(p, vt)  ct = Transpose<perm = [0, 2, 1, 3]>(c)  cr = Reshape(ct, rows)
        z = MatMul(cr, wo)"""
    return model_of(
        "float[B,S,8] x, int64[B,S] mask",
        body,
        **layers(WIDTH, WIDTH),
        **NUMBERS,
        rows=np.array([-1, WIDTH]),
        hd=np.array([COUNT, SIZE]),
        n0=np.array([0]),
        n2=np.array([2]),
    )


def keras_attention():
    """Keras's MultiHeadAttention, queries scaled, heads between features and time."""
    dense = "  ".join(
        f"{name}m = MatMul({source}, w{name})  {name}a = Add({name}m, b{name})"
        f"  {name}h = Reshape({name}a, heads)"
        for name, source in (("q", "x"), ("k", "y"), ("v", "y"))
    )
    body = f"""{dense}  qs = Mul(qh, scale)  qt = Transpose<perm = [0, 2, 1, 3]>(qs)
        kt = Transpose<perm = [0, 2, 3, 1]>(kh)  s = MatMul(qt, kt)  p = Softmax(s)
        vt = Transpose<perm = [0, 2, 1, 3]>(vh)  c = MatMul(p, vt)
        ct = Transpose<perm = [0, 2, 1, 3]>(c)  cr = Reshape(ct, merged)  z = MatMul(cr, wo)"""
    return model_of(
        "float[B,S,8] x, float[B,T,8] y",
        body,
        **layers(WIDTH, WIDTH),
        **NUMBERS,
        heads=np.array([0, 0, COUNT, SIZE]),
        merged=np.array([0, 0, WIDTH]),
    )


def torch_multi_head_attention():
    """`torch.nn.MultiheadAttention`: time first, one matrix for all, heads beside the batch."""
    body = """m = MatMul(x, w)  l = Add(m, b)  q, k, v = Split<axis = -1>(l)
        qh = Reshape(q, heads)  qt = Transpose<perm = [1, 0, 2]>(qh)  qs = Mul(qt, scale)
        kh = Reshape(k, heads)  kt = Transpose<perm = [1, 2, 0]>(kh)
        vh = Reshape(v, heads)  vt = Transpose<perm = [1, 0, 2]>(vh)
        s = MatMul(qs, kt)  p = Softmax<axis = -1>(s)  c = MatMul(p, vt)
        ct = Transpose<perm = [1, 0, 2]>(c)  cr = Reshape(ct, merged)  z = MatMul(cr, wo)"""
    return model_of(
        "float[S,3,8] x",
        body,
        w=matrix(WIDTH, 3 * WIDTH),
        b=matrix(3 * WIDTH),
        wo=matrix(WIDTH, WIDTH),
        heads=np.array([0, 3 * COUNT, SIZE]),
        merged=np.array([0, 3, WIDTH]),
        **NUMBERS,
    )


@pytest.mark.parametrize(
    "build", [tf_bert_with_einsum, tf2onnx_bert, keras_attention, torch_multi_head_attention]
)
def test_attention_is_found(build):
    model = build()
    Pipeline.parse("@fused").run(model)
    found = collections.Counter(node.op_type for node in nodes(model))
    assert "Softmax" not in found
    assert found["Attention"] + found["MultiHeadAttention"] == 1


DECODER = """
    mask = Concat<axis = 3>(earlier, own)
    qh = Reshape(q, heads)  qt = Transpose<perm = [0, 2, 1, 3]>(qh)
    kh = Reshape(k, heads)  kt = Transpose<perm = [0, 2, 1, 3]>(kh)  pk = Concat<axis = 2>(k0, kt)
    vh = Reshape(v, heads)  vt = Transpose<perm = [0, 2, 1, 3]>(vh)  pv = Concat<axis = 2>(v0, vt)
    kx = Transpose<perm = [0, 1, 3, 2]>(pk)  s = MatMul(qt, kx)  sc = Mul(s, scale)  %s
    p = Softmax<axis = -1>(sm)  %s  c = MatMul(%s, pv)
    ct = Transpose<perm = [0, 2, 1, 3]>(c)  z = Reshape(ct, merged)"""
CACHE = (
    "float[B,S,8] q, float[B,S,8] k, float[B,S,8] v, float[B,2,P,4] k0, float[B,2,P,4] v0, "
    "bool[B,1,S,P] earlier, bool[B,1,S,S] own"
)
GUARD = "nan = IsNaN(p)  w = Where(nan, zero, p)"
MASKS = {
    "infinity, guarded": ("m = Where(mask, zero, inf)  sm = Add(sc, m)", GUARD),
    "infinity": ("m = Where(mask, zero, inf)  sm = Add(sc, m)", ""),
    "least, guarded": ("m = Where(mask, zero, least)  sm = Add(sc, m)", GUARD),
    "chosen": ("sm = Where(mask, sc, least)", ""),
    "chosen infinity, guarded": ("sm = Where(mask, sc, inf)", GUARD),
    "chosen, and least added": (
        "m = Where(mask, zero, least)  sw = Where(mask, sc, least)  sm = Add(m, sw)",
        "",
    ),
}


@pytest.mark.parametrize("form", MASKS)
@pytest.mark.parametrize(("batch", "length", "past"), [(2, 3, 4), (1, 1, 5), (2, 5, 0)])
def test_masked_rows_and_pasts_of_any_length_are_the_same(form, batch, length, past):
    text = model_of(
        CACHE,
        DECODER % (*MASKS[form], "w" if MASKS[form][1] else "p"),
        **NUMBERS,
        heads=np.array([0, 0, COUNT, SIZE]),
        merged=np.array([0, 0, WIDTH]),
        zero=np.float32(0),
        inf=np.float32(-np.inf),
        least=np.finfo(np.float32).min,
    )
    mask = RANDOM.random((batch, 1, length, past + length)) < 0.7
    mask[0, 0, 0] = False  # no key counts for the first token
    mask[-1, 0, -1] = True
    feeds = {name: matrix(batch, length, WIDTH) for name in "qkv"}
    feeds |= {"earlier": mask[..., :past], "own": mask[..., past:]}
    feeds |= {name: matrix(batch, COUNT, past, SIZE) for name in ("k0", "v0")}
    expected = shared_worker().evaluate(model_bytes(text), feeds)
    Pipeline.parse("fuse-attention").run(text, verify="structure")
    assert "Softmax" not in {node.op_type for node in nodes(text)}
    found = shared_worker().evaluate(model_bytes(text), feeds)
    np.testing.assert_allclose(found["z"], expected["z"], rtol=1e-4, atol=1e-5)


def test_scores_that_overflow_are_guarded_though_no_mask_is_infinite():
    text = model_of(
        CACHE,
        DECODER % (*MASKS["least, guarded"], "w"),
        **NUMBERS,
        heads=np.array([0, 0, COUNT, SIZE]),
        merged=np.array([0, 0, WIDTH]),
        zero=np.float32(0),
        least=np.finfo(np.float32).min,
    )
    feeds = {name: matrix(1, 3, WIDTH) for name in "qkv"}
    feeds["q"][0, 1] = 3e38
    feeds["k"][0] = np.abs(feeds["k"][0]) + 2
    feeds |= {"earlier": np.ones((1, 1, 3, 2), bool), "own": np.ones((1, 1, 3, 3), bool)}
    feeds |= {name: matrix(1, COUNT, 2, SIZE) for name in ("k0", "v0")}
    expected = shared_worker().evaluate(model_bytes(text), feeds)
    assert not expected["z"][0, 1].any()
    Pipeline.parse("fuse-attention").run(text, verify="structure")
    assert "Softmax" not in {node.op_type for node in nodes(text)}
    found = shared_worker().evaluate(model_bytes(text), feeds)
    np.testing.assert_allclose(found["z"], expected["z"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("batch", "length", "past"), [(2, 3, 4), (1, 1, 5), (2, 5, 0)])
def test_the_standard_operator_continues_pasts_of_any_length(batch, length, past):
    body = DECODER.replace("mask = Concat<axis = 3>(earlier, own)", "")
    text = model_of(
        CACHE.partition(", bool")[0],
        body % ("sm = Identity(sc)", GUARD, "w"),
        **NUMBERS,
        heads=np.array([0, 0, COUNT, SIZE]),
        merged=np.array([0, 0, WIDTH]),
        zero=np.float32(0),
    )
    text.graph.opset_imports[""], text.ir_version = 23, 11
    feeds = {name: matrix(batch, length, WIDTH) for name in "qkv"}
    feeds |= {name: matrix(batch, COUNT, past, SIZE) for name in ("k0", "v0")}
    expected = shared_worker().evaluate(model_bytes(text), feeds)
    Pipeline.parse("eliminate-identities,fuse-attention{domain=standard}").run(
        text, verify="structure"
    )
    assert [node.domain for node in nodes(text) if node.op_type == "Attention"] == [""]
    found = shared_worker().evaluate(model_bytes(text), feeds)
    np.testing.assert_allclose(found["z"], expected["z"], rtol=1e-4, atol=1e-5)
