"""What fusions look for: polynomials, masks of keys, what is left over, shapes of fused operators."""

import math

import pytest

from graphopt.analysis import Operators, infer_shapes
from graphopt.analysis.growing_shapes import GrowingShapes
from graphopt.analysis.key_masks import find_key_mask
from graphopt.analysis.orphans import orphans
from graphopt.analysis.polynomials import is_close, polynomial_of
from graphopt.analysis.symbolic_table import SymbolicTable
from graphopt.ir import from_text

CONSTANTS = "float two = {2}, float half = {0.5}, float zero = {0}, float[2] v = {1, 2}"


def computed(body, output="z", inputs="float[N] x, float[N] y"):
    model = from_text(f"({inputs}) => (float[N] {output}) <{CONSTANTS}> {{ {body} }}")
    return model, list(model.graph.inputs), model.graph.outputs[0]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("z = Mul(x, two)", {(1, 0): 2.0}),
        ("a = Add(x, y)  z = Mul(a, a)", {(2, 0): 1.0, (1, 1): 2.0, (0, 2): 1.0}),
        ("a = Pow(x, two)  b = Neg(a)  z = Div(b, two)", {(2, 0): -0.5}),
        ("a = Sub(x, x)  z = Add(a, half)", {(0, 0): 0.5}),
        ("a = Identity(x)  z = Sub(a, two)", {(1, 0): 1.0, (0, 0): -2.0}),
        ("z = Mul(x, zero)", {}),
        ("z = Div(x, zero)", None),
        ("z = Div(x, y)", None),
        ("z = Pow(x, half)", None),
        ("z = Mul(x, v)", None),
        ("z = Exp(x)", None),
        ("a = Mul(x, x)  b = Mul(a, a)  z = Mul(b, x)", None),
    ],
)
def test_polynomials(body, expected):
    _, variables, result = computed(body)
    assert polynomial_of(result, variables) == expected


def test_coefficients_are_compared_up_to_the_rounding_of_float32():
    assert is_close({(1,): 0.70710677}, {(1,): 1 / math.sqrt(2)})
    assert not is_close({(1,): 0.7071}, {(1,): 1 / math.sqrt(2)})
    assert not is_close({(1,): 1.0}, {(1,): 1.0, (0,): 1e-9})
    assert not is_close(None, {})


def test_orphans_stop_at_what_is_kept_read_elsewhere_or_random():
    text = """(float[N] x) => (float[N] z, float[N] w) {
        a = Exp(x)  b = Relu(a)  c = Abs(b)  r = RandomNormalLike(x)  d = Add(c, r)
        k = Neg(x)  e = Add(d, k)  s = Sqrt(x)  w = Abs(s)  z = Add(e, s) }"""
    graph = from_text(text).graph
    by_name = {node.outputs[0].name: node for node in graph}
    found = orphans([by_name["z"]], [by_name["k"].outputs[0]], Operators(from_text(text)))
    assert [node.outputs[0].name for node in found][:2] == ["z", "e"]
    assert {node.outputs[0].name for node in found} == {"z", "e", "d", "c", "b", "a"}


MASK = "int64[2] ax = {1, 2}, float one = {1}, float big = {-10000}, float small = {-2}"


@pytest.mark.parametrize(
    ("kind", "body", "penalty"),
    [
        ("int64[B,T]", "u = Unsqueeze(m, ax)  c = Cast<to=1>(u)  d = Sub(one, c)  z = Mul(d, big)", -1e4),
        ("bool[B,T]", "n = Not(m)  c = Cast<to=1>(n)  d = Mul(big, c)  z = Unsqueeze(d, ax)", -1e4),
        ("float[B,T]", "u = Unsqueeze(m, ax)  d = Sub(one, u)  b = Cast<to=9>(d)  z = Where(b, big, d)", -1e4),
        ("int64[B,T]", "u = Unsqueeze(m, ax)  c = Cast<to=1>(u)  z = Mul(c, big)", None),
        ("int64[B,T]", "u = Unsqueeze(m, ax)  c = Cast<to=1>(u)  d = Sub(one, c)  z = Mul(d, small)", None),
        ("int64[B,T,1]", "c = Cast<to=1>(m)  d = Sub(one, c)  z = Mul(d, big)", None),
        ("int64[B,T]", "c = Cast<to=1>(m)  e = Exp(c)  d = Sub(one, e)  z = Mul(d, big)", None),
    ],
)  # fmt: skip
def test_key_masks(kind, body, penalty):
    model = from_text(f"({kind} m) => (float[B,1,1,T] z) <{MASK}> {{ {body} }}")
    found = find_key_mask(model.graph.outputs[0], frozenset({"m"}))
    assert (None if found is None else found.penalty) == penalty


def test_a_value_that_is_no_mask_is_not_taken_for_one():
    text = f"""(int64[B,T] m) => (float[B,1,1,T] z) <{MASK}> {{
        u = Unsqueeze(m, ax)  c = Cast<to=1>(u)  d = Sub(one, c)  z = Mul(d, big) }}"""
    assert find_key_mask(from_text(text).graph.outputs[0], frozenset()) is None


FUSED = """<ir_version: 10, opset_import: ["" : 20, "com.microsoft" : 1]>
g (float[B,S,4] x, int32[B,S] ids, float[B,T,4] k, float[B,T,6] v) => (float z, float w)
<float[4,12] p = {%s}, float[9,4] t = {%s}, float[4] s = {1, 1, 1, 1}>
{
  a = com.microsoft.Attention <num_heads = 2> (x, p)
  b, , , c = com.microsoft.SkipLayerNormalization (a, x, s)
  d = com.microsoft.BiasGelu (c, s)
  e = com.microsoft.EmbedLayerNormalization (ids, , t, t, , s, s)
  f = com.microsoft.MultiHeadAttention <num_heads = 2> (x, k, v)
  g = com.microsoft.NoSuchOperator (x)
  z = Add(d, e)  w = Add(f, g)
}""" % (", ".join(["1"] * 48), ", ".join(["1"] * 36))  # noqa: UP031 - braces belong to the text


@pytest.mark.parametrize("kind", ["inferred", "symbolic"])
def test_shapes_of_fused_operators(kind):
    model = from_text(FUSED)
    table = infer_shapes(model)
    table = SymbolicTable(model, table) if kind == "symbolic" else table
    values = {value.name: table.of(value) for node in model.graph for value in node.outputs}
    same = ("B", "S", 4)
    assert [values[name].dims for name in "abcde"] == [same] * 5
    assert values["f"].dims == ("B", "S", 6)
    assert all(str(values[name].dtype) == "FLOAT" for name in "abcdef")
    assert values["g"] is None


def test_a_growing_table_knows_what_takes_the_place_of_what():
    model, _, result = computed("a = Exp(x)  z = Abs(a)")
    shapes = GrowingShapes(infer_shapes(model))
    new = from_text("(float q) => (float r) { r = Abs(q) }").graph.outputs[0]
    assert shapes.of(new) is None
    shapes.alias(new, result)
    assert shapes.of(new).dims == ("N",)


LAYERS = """<ir_version: 10, opset_import: ["" : %d, "com.microsoft" : 1]>
g (float[B,2,H,8] x, float[3,2,3,3] w, float[B,S,4] q, float[B,T,4] k, float[N,4] u, float[5,4] v)
  => (float z) {
  a = com.microsoft.FusedConv <pads = [1, 1, 1, 1], strides = [1, 2]> (x, w)
  b = com.microsoft.FusedMatMul <transB = 1> (q, k)
  c = com.microsoft.FusedMatMul <transA = 1> (q, q)
  d = com.microsoft.FusedMatMul <transB = 1, alpha = 0.5> (q, v)
  e = com.microsoft.FusedGemm <transB = 1, activation = "Relu"> (u, v)
  z = Relu(e)
}"""


@pytest.mark.parametrize("opset", [9, 20])
@pytest.mark.parametrize("kind", ["inferred", "symbolic"])
def test_shapes_of_layers_with_what_is_around_them(kind, opset):
    model = from_text(LAYERS % opset)
    table = infer_shapes(model)
    table = SymbolicTable(model, table) if kind == "symbolic" else table
    values = {value.name: table.of(value) for node in model.graph for value in node.outputs}
    assert all(str(values[name].dtype) == "FLOAT" for name in "abcde")
    assert values["e"].dims == ("N", 5)
    batch, channels, _, width = values["a"].dims
    assert (batch, channels, width) == ("B", 3, 4)
    dims = [values[name].dims for name in "bcd"]
    assert dims == [("B", "S", "T"), ("B", 4, 4), ("B", "S", 5)]


CACHED = """<ir_version: 10, opset_import: ["" : 20, "com.microsoft" : 1]>
g (float[B,S,4] x, float[B,T,4] k, float[B,2,P,2] p, float[B,2,T,2] split)
  => (float z, float w, float y) {
  z, c, d = com.microsoft.MultiHeadAttention <num_heads = 2> (x, k, k, , , , p, p)
  w = com.microsoft.MultiHeadAttention <num_heads = 2> (x, split, split)
  y = com.microsoft.RotaryEmbedding (x, k, k, k)
}"""


@pytest.mark.parametrize("kind", ["inferred", "symbolic"])
def test_shapes_of_attention_with_a_past_or_split_heads(kind):
    model = from_text(CACHED)
    table = infer_shapes(model)
    table = SymbolicTable(model, table) if kind == "symbolic" else table
    values = {value.name: table.of(value) for node in model.graph for value in node.outputs}
    assert [values[name].dims for name in "zwy"] == [("B", "S", 4)] * 3
    assert all(str(values[name].dtype) == "FLOAT" for name in "zwy")
    if kind == "symbolic":
        assert values["c"].dims == values["d"].dims
        assert str(values["c"].dims).replace("T+P", "P+T") == "('B', 2, 'P+T', 2)"
