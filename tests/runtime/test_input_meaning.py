"""Index ranges, masks and modes, found by following inputs through a graph."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.analysis import compared_values, index_ranges, mask_inputs
from graphopt.ir import from_text

TABLE = "float[6, 2] table = {0,0,0,0,0,0,0,0,0,0,0,0}"


def model(graph, functions="", opset=17):
    return from_text(
        f'<ir_version: 10, opset_import: ["": {opset}, "local": 1]> {graph} {functions}'
    )


def ranges(body, *, inputs="int64[b, s] x", weights=TABLE, **more):
    return index_ranges(model(f"g ({inputs}) => (y) <{weights}> {{ {body} }}", **more))


@pytest.mark.parametrize(
    ("body", "bound"),
    [
        ("y = Gather(table, x)", 6),
        ("y = Gather<axis=1>(table, x)", 2),
        ("y = Gather<axis=-1>(table, x)", 2),
        ("a = Cast<to=6>(x) y = Gather(table, a)", 6),
        ("f = Cast<to=1>(x) a = Cast<to=7>(f) y = Gather(table, a)", 6),
        ("one = Constant<value = int64[1] {-1}>() a = Reshape(x, one) y = Gather(table, a)", 6),
        ("two = Constant<value = int64 {2}>() a = Add(x, two) y = Gather(table, a)", 4),
        ("two = Constant<value = int64 {2}>() a = Sub(x, two) y = Gather(table, a)", 8),
        ("two = Constant<value = int64 {2}>() a = Mul(two, x) y = Gather(table, a)", 3),
        (
            "two = Constant<value = int64 {2}>() a = Mul(x, two) b = Add(a, two) y = Gather(table, b)",
            2,
        ),
        ("a = Concat<axis=1>(x, x) y = Gather(table, a)", 6),
        ("a = Gather(table, x) b = Gather<axis=1>(table, x) y = Concat<axis=-1>(a, b)", 2),
        ("t = Cast<to=10>(table) y = Gather(t, x)", 6),
        ("y = GatherElements<axis=1>(table, x)", 2),
        (
            "d = Constant<value = int64 {9}>() v = Constant<value = int64[2] {0, 1}>() y = OneHot(x, d, v)",
            9,
        ),
    ],
)
def test_index_ranges(body, bound):
    assert ranges(body) == {"x": bound}


@pytest.mark.parametrize(
    "body",
    [
        "y = Relu(x)",
        "m = Constant<value = int64 {6}>() a = Mod(x, m) y = Gather(table, a)",
        "s = Shape(x) y = Gather(table, s)",
        "c = Cast<to=9>(x) a = Cast<to=7>(c) y = Gather(table, a)",
    ],
)
def test_values_that_do_not_arrive_are_not_bounded(body):
    assert ranges(body) == {}


def test_table_of_unknown_size_gives_no_bound():
    assert ranges("y = Gather(t, x)", inputs="int64[b] x, float[n, 2] t") == {}


def test_table_behind_dequantization():
    weights = "uint8[6, 2] q = {0,0,0,0,0,0,0,0,0,0,0,0}, float scale = {1}"
    assert ranges("t = DequantizeLinear(q, scale) y = Gather(t, x)", weights=weights) == {"x": 6}


def test_through_subgraphs():
    body = """y = If<
      then_branch = a () => (float[b, s, 2] p) { p = Gather(table, x) },
      else_branch = c () => (float[b, s, 2] q) { i = Identity(x) q = Gather(table, i) }>(flag)"""
    assert ranges(body, inputs="int64[b, s] x, bool flag") == {"x": 6}


def test_through_loops():
    body = """n = Constant<value = int64 {3}>()
    last = Loop<body = step (int64 i, bool c, int64[b, s] v) => (bool d, int64[b, s] w) { d = Identity(c) w = Identity(v) }>(n, , x)
    y = Gather(table, last)"""
    assert ranges(body) == {"x": 6}


def test_through_functions():
    function = '<domain: "local", opset_import: ["": 17]> look (t, i) => (o) { o = Gather(t, i) }'
    passing = '<domain: "local", opset_import: ["": 17]> same (i) => (o) { o = Identity(i) }'
    body = "k = local.same(x) y = Gather(table, k)"
    assert ranges(body, functions=passing) == {"x": 6}
    # Inside a function the table is a parameter, whose size is not known.
    assert ranges("y = local.look(table, x)", functions=function) == {}


def test_fused_embedding():
    inputs = "int32[b, s] ids, int32[b, s] segments"
    weights = "float[6, 2] w = {0,0,0,0,0,0,0,0,0,0,0,0}, float[4, 2] p = {0,0,0,0,0,0,0,0}, float[2, 2] t = {0,0,0,0}, float[2] one = {1, 1}"
    body = "y, m = com.microsoft.EmbedLayerNormalization(ids, segments, w, p, t, one, one)"
    assert ranges(body, inputs=inputs, weights=weights) == {"ids": 6, "segments": 2}


def masks(body, *, inputs="int64[b, s] m, float[b, s] x", opset=17):
    return set(mask_inputs(model(f"g ({inputs}) => (y) <{TABLE}> {{ {body} }}", opset=opset)))


@pytest.mark.parametrize(
    "body",
    [
        "f = Cast<to=1>(m) one = Constant<value = float {1}>() n = Sub(one, f) big = Constant<value = float {-10000}>() p = Mul(n, big) y = Add(x, p)",
        "c = Cast<to=9>(m) y = Where(c, x, x)",
        "z = Constant<value = int64 {0}>() c = Equal(m, z) y = Where(c, x, x)",
        "z = Constant<value = int64 {0}>() c = Greater(m, z) y = Where(c, x, x)",
    ],
)
def test_masks_by_use(body):
    assert masks(body) == {"m"}


def test_boolean_masks_by_use():
    assert masks("y = Where(m, x, x)", inputs="bool[b, s] m, float[b, s] x") == {"m"}
    assert masks("n = Not(m) y = Cast<to=1>(n)", inputs="bool[b, s] m") == {"m"}
    assert masks("y = Cast<to=1>(m)", inputs="bool[b, s] m") == set()


def test_masks_by_name():
    assert masks("y = Identity(pixel_mask)", inputs="int64[b, s] pixel_mask") == {"pixel_mask"}


@pytest.mark.parametrize(
    ("body", "inputs"),
    [
        ("y = Gather(table, mask_ids)", "int64[b, s] mask_ids"),
        ("z = Constant<value = float {0}>() c = Greater(x, z) y = Where(c, x, x)", "float[b, s] x"),
        (
            "one = Constant<value = float {1}>() n = Sub(one, x) two = Constant<value = float {2}>() y = Mul(n, two)",
            "float[b, s] x",
        ),
        ("k = Constant<value = int64 {16000}>() c = Equal(m, k) y = Cast<to=1>(c)", "int64[b] m"),
        (
            "y = If<then_branch = a () => (float p) { p = Constant<value = float {1}>() }, else_branch = c () => (float q) { q = Constant<value = float {2}>() }>(flag)",
            "bool flag",
        ),
    ],
    ids=["indices", "compared measurement", "small factor", "mode", "scalar condition"],
)
def test_what_is_no_mask(body, inputs):
    assert masks(body, inputs=inputs) == set()


def test_compared_values():
    body = "k = Constant<value = int64 {16000}>() e = Constant<value = int64 {8000}>() c = Equal(m, k) d = Equal(e, m) o = Or(c, d) y = Cast<to=1>(o)"
    assert compared_values(model(f"g (int64 m) => (y) {{ {body} }}")) == {"m": (8000, 16000)}


@pytest.mark.parametrize(
    ("kind", "constant"),
    [(8, 'string {"one"}'), (1, "float {0.5}"), (1, "float {1}")],
    ids=["text", "no whole number", "a whole number"],
)
def test_values_compared_as_another_type(kind, constant):
    body = f"t = Cast<to = {kind}>(m) k = Constant<value = {constant}>() y = Equal(t, k)"
    compared = model(f"g (int64 m) => (y) {{ {body} }}")
    assert compared_values(compared) == ({"m": (1,)} if constant == "float {1}" else {})
    assert mask_inputs(compared) == set()


def test_values_compared_with_what_is_no_number():
    compared = model(
        "g (int64 m) => (y) { t = Cast<to = 1>(m) k = Constant<value = float {1}>() y = Equal(t, k) }"
    )
    (constant,) = [node for node in compared.graph if node.op_type == "Constant"]
    for number in (np.inf, np.nan):
        constant.attributes["value"] = ir.AttrTensor("value", ir.tensor(np.float32(number)))
        assert compared_values(compared) == {}
