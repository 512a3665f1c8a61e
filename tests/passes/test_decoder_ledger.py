"""Every product of a decoder is in the ledger: quantized, or refused with a reason."""

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.ir import from_text, nodes
from graphopt.pipeline import Pipeline

RANDOM = np.random.default_rng(3)
WIDTH, KEYS, INNER, WORDS = 64, 32, 96, 80  # 4 heads of queries, 2 of keys and values

ATTENTION = """
    q{n} = MatMul(h{n}, wq{n})  k{n} = MatMul(h{n}, wk{n})  v{n} = MatMul(h{n}, wv{n})
    qh{n} = Reshape(q{n}, four)  qt{n} = Transpose<perm = [0, 2, 1, 3]>(qh{n})
    kh{n} = Reshape(k{n}, two)  kt{n} = Transpose<perm = [0, 2, 1, 3]>(kh{n})
    vh{n} = Reshape(v{n}, two)  vt{n} = Transpose<perm = [0, 2, 1, 3]>(vh{n})
    present_k{n} = Concat<axis = 2>(past_k{n}, kt{n})
    present_v{n} = Concat<axis = 2>(past_v{n}, vt{n})
    kr{n} = Gather<axis = 1>(present_k{n}, places)  vr{n} = Gather<axis = 1>(present_v{n}, places)
    kx{n} = Transpose<perm = [0, 1, 3, 2]>(kr{n})
    s{n} = MatMul(qt{n}, kx{n})  sc{n} = Mul(s{n}, scale)  p{n} = Softmax<axis = -1>(sc{n})
    c{n} = MatMul(p{n}, vr{n})  ct{n} = Transpose<perm = [0, 2, 1, 3]>(c{n})
    cr{n} = Reshape(ct{n}, rows)  o{n} = MatMul(cr{n}, wo{n})  x{n} = Add(h{n}, o{n})"""
FEED_FORWARD = """
    g{n} = MatMul(x{n}, wg{n})  sg{n} = Sigmoid(g{n})  sw{n} = Mul(g{n}, sg{n})
    u{n} = MatMul(x{n}, wu{n})  m{n} = Mul(sw{n}, u{n})  d{n} = MatMul(m{n}, wd{n})
    h{next} = Add(x{n}, d{n})"""


def decoder(layers=2):
    """A Llama-style decoder with past: grouped queries, gates, a Gemm, one product too small."""
    inputs, outputs, body = ["int64[B,S] i"], ["float[N,80] z", "float[B,S,2] t"], ""
    weights = {"table": (WORDS, WIDTH), "head": (WORDS, WIDTH), "tiny": (WIDTH, 2)}
    for n in range(layers):
        inputs += [f"float[B,2,P,16] past_{kind}{n}" for kind in "kv"]
        outputs += [f"float[B,2,T,16] present_{kind}{n}" for kind in "kv"]
        body += (ATTENTION + FEED_FORWARD).format(n=n, next=n + 1)
        weights |= {f"wq{n}": (WIDTH, WIDTH), f"wo{n}": (WIDTH, WIDTH)}
        weights |= {f"wk{n}": (WIDTH, KEYS), f"wv{n}": (WIDTH, KEYS), f"wd{n}": (INNER, WIDTH)}
        weights |= {f"wg{n}": (WIDTH, INNER), f"wu{n}": (WIDTH, INNER)}
    body = f"h0 = Gather(table, i) {body}  f = Reshape(h{layers}, flat)"
    body += f"  z = Gemm<transB = 1>(f, head)  t = MatMul(h{layers}, tiny)"
    constants = (
        "int64[4] four = {0, 0, 4, 16}, int64[4] two = {0, 0, 2, 16}, int64[3] rows = {0, 0, 64}, "
        "int64[4] places = {0, 0, 1, 1}, int64[2] flat = {-1, 64}, float scale = {0.25}"
    )
    inputs += [f"float[{rows},{columns}] {name}" for name, (rows, columns) in weights.items()]
    header = '<ir_version: 10, opset_import: ["" : 21]>'
    text = f"g ({', '.join(inputs)}) => ({', '.join(outputs)}) <{constants}> {{ {body} }}"
    return _with_weights(from_text(f"{header} {text}"), weights)


def _with_weights(model, weights):
    """Turn inputs into weights, which are too long to be written out."""
    for value in [value for value in model.graph.inputs if value.name in weights]:
        model.graph.inputs.remove(value)
        array = RANDOM.normal(size=weights[value.name]).astype(np.float32) / 8
        value.const_value = ir.tensor(array, name=value.name)
        model.graph.register_initializer(value)
    return model


def accounted(ledger, name):
    """Return the nodes that edits of a pass replace or change, and the places that it refuses."""
    edits = [edit for edit in ledger.journal.edits if edit.pass_name == name]
    replaced = {node for edit in edits for node in (*edit.removed, *edit.changed)}
    return replaced, [one.where for one in ledger.journal.refusals if one.pass_name == name]


@pytest.mark.parametrize("before", ["@lossless", "@exact", "@fused,join-products"])
@pytest.mark.parametrize(
    "quantizer", ["quantize-weights", "quantize-weights{bits=8}", "quantize-dynamic"]
)
def test_every_product_is_quantized_or_refused(before, quantizer):
    model = Pipeline.parse(before).run(decoder()).model
    products = {node.name for node in nodes(model) if node.op_type in ("MatMul", "Gemm")}
    assert len(products) >= 9
    ledger = Pipeline.parse(quantizer).run(model).ledger
    replaced, refusals = accounted(ledger, quantizer.partition("{")[0])
    refused = {name for name in products if any(f"`{name}`" in place for place in refusals)}
    assert refused ^ (products & replaced) == products
    assert len(refused) < len(products) / 2


def test_the_recipe_of_the_target_groups_and_joins_all():
    result = Pipeline.parse("@fused,join-products").run(decoder())
    kinds = [node.op_type for node in nodes(result.model)]
    assert kinds.count("MultiHeadAttention") == 2
    assert kinds.count("Gather") == 1  # the table: no heads are repeated
    # Of each layer: queries with keys and values, the context, gate with up, down; and two heads.
    assert kinds.count("MatMul") + kinds.count("Gemm") == 2 * 4 + 2
