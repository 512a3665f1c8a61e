"""Blocks and sub-layers of models, by what reaches what."""

import pytest

from graphopt.analysis.blocks import find_blocks
from graphopt.analysis.sub_layers import find_sub_layers
from graphopt.ir import from_text

WEIGHTS = "<float[4,4] v, float[4,4] w, float[4,4] k, int64[3] p = {0, 0, 4}>"


def model(body, inputs="float[B,S,4] x", outputs="float[B,S,4] y"):
    values = ", ".join(["1"] * 16)
    weights = WEIGHTS.replace("v,", f"v = {{{values}}},").replace("w,", f"w = {{{values}}},")
    weights = weights.replace("k,", f"k = {{{values}}},")
    return from_text(f"({inputs}) => ({outputs}) {weights} {{ {body} }}")


def kinds(found):
    return [layer.kind for layer in found]


ATTENTION = """q{n} = MatMul({x}, v)  k{n} = MatMul({m}, k)  t{n} = Transpose<perm = [0, 2, 1]>(k{n})
    s{n} = MatMul(q{n}, t{n})  {mask} p{n} = Softmax<axis = -1>({s})  c{n} = MatMul(p{n}, {m})
    o{n} = MatMul(c{n}, w)  {y} = Add({x}, o{n})  """
FEED_FORWARD = (
    "f{n} = MatMul({x}, v)  g{n} = Relu(f{n})  h{n} = MatMul(g{n}, w)  {y} = Add(h{n}, {x})  "
)


def attention(n, x, y, memory=None, mask=None):
    sum_ = f"a{n} = Add({mask}, s{n})" if mask else ""
    scores = f"a{n}" if mask else f"s{n}"
    return ATTENTION.format(n=n, x=x, y=y, m=memory or x, mask=sum_, s=scores)


def feed_forward(n, x, y):
    return FEED_FORWARD.format(n=n, x=x, y=y)


def test_encoder_of_two_blocks():
    body = attention(0, "x", "a") + feed_forward(1, "a", "b")
    body += attention(2, "b", "c") + feed_forward(3, "c", "y")
    blocks = find_blocks(model(body).graph)
    assert [block.name for block in blocks] == ["block-0", "block-1"]
    assert [kinds(block.layers) for block in blocks] == [["attention", "feed-forward"]] * 2
    assert [name for name, _ in blocks[1].parts()] == ["block-1.attention", "block-1.feed-forward"]
    assert blocks[0].leave.name == "b"
    assert blocks[1].entry.name == "b"


def test_mask_that_is_added_in_every_layer_is_no_stream():
    body = attention(0, "x", "a", mask="m") + attention(1, "a", "b", mask="m")
    body += attention(2, "b", "y", mask="m")
    found = find_sub_layers(model(body, "float[B,S,4] x, float[B,S,S] m").graph)
    assert [layer.exit.name for layer in found] == ["a", "b", "y"]


def test_what_is_attended_to_elsewhere():
    body = attention(0, "x", "a") + attention(1, "a", "b", memory="e") + feed_forward(2, "b", "y")
    (block,) = find_blocks(model(body, "float[B,S,4] x, float[B,E,4] e").graph)
    assert kinds(block.layers) == ["attention", "cross-attention", "feed-forward"]


def test_what_is_normalized_behind_the_sum_is_left_so():
    norm = "{y} = LayerNormalization({x}, z)  "
    body = "z = Constant<value = float[4] {1, 1, 1, 1}>()  "
    body += feed_forward(0, "x", "a") + norm.format(x="a", y="b")
    body += feed_forward(1, "b", "c") + norm.format(x="c", y="y")
    blocks = find_blocks(model(body).graph)
    assert [block.leave.name for block in blocks] == ["b", "y"]
    assert len({block.stream for block in blocks}) == 1


def test_two_branches_on_one_sum():
    body = """a = MatMul(x, v)  b = Relu(a)  c = MatMul(x, w)  d = Tanh(c)
              s = Add(x, b)  y = Add(s, d)"""
    found = find_sub_layers(model(body).graph)
    assert [(layer.branch.name, layer.kept.name, layer.exit.name) for layer in found] == [
        ("b", "x", "y"),
        ("d", "s", "y"),
    ]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("a = Mul(x, x)  b = Mul(a, x)  y = Add(x, b)", id="arithmetic"),
        pytest.param(
            "n = Shape(x)  m = ConstantOfShape(n)  a = MatMul(m, v)  y = Add(x, a)", id="sizes"
        ),
        pytest.param(
            "z = Constant<value = float[4] {1, 1, 1, 1}>()  a = MatMul(x, v)  y = Add(a, z)",
            id="bias",
        ),
    ],
)
def test_no_layer(body):
    assert not find_sub_layers(model(body).graph)


def test_stream_that_passes_layers_on_both_ways_is_a_shortcut():
    body = "r = Relu(x)  a = MatMul(r, v)  b = Relu(a)  c = MatMul(b, w)  d = MatMul(r, k)  y = Add(c, d)"
    (layer,) = find_sub_layers(model(body).graph)
    assert layer.is_shortcut
    assert (layer.entry.name, layer.branch.name, layer.kept.name) == ("r", "c", "d")
