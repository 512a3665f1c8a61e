"""Units that stand or fall together, on the forms that exporters emit."""

import itertools

import numpy as np

from graphopt.analysis import infer_shapes
from graphopt.analysis.coupling import couple, find_attentions, find_groups, find_loose_layers
from graphopt.analysis.coupling.units import Factor, Pin, Ties
from graphopt.ir import from_text


def zeros(*shape):
    return "{" + ",".join(["0"] * int(np.prod(shape))) + "}"


FFN = f"""(float[B,4] x) => (float[B,4] y)
    <float[4,6] w1 = {zeros(4, 6)}, float[6] b1 = {zeros(6)}, float[6,4] w2 = {zeros(6, 4)}> {{
    h = MatMul(x, w1)  i = Add(h, b1)  a = Relu(i)  y = MatMul(a, w2) }}"""


def groups_of(text):
    model = from_text(text)
    return find_groups(couple(model, infer_shapes(model)))


def test_neurons_are_tied_through_bias_and_activation():
    groups = groups_of(FFN)
    free = [group for group in groups if group.pin is None]
    assert [(group.kind, len(group.units)) for group in free] == [("neurons", 6)]
    sites = sorted((site.value.name, site.axis) for site in free[0].sites)
    assert sites == [("b1", 0), ("w1", 1), ("w2", 0)]


def test_what_a_model_returns_stays():
    pins = {group.pin.slug for group in groups_of(FFN) if group.pin}
    assert pins == {"model-output"}


def test_an_overridable_weight_pins_what_it_meets():
    text = FFN.replace("(float[B,4] x)", "(float[B,4] x, float[6] b1)")
    assert all(group.pin is not None for group in groups_of(text))


def attention(packed):
    """Heads of length 2 from a packed projection, three ways on the outer axis or one after another."""
    split = (
        "r = Reshape(p, s) t = Transpose<perm = [2,0,3,1,4]>(r) u, v, w = Split<axis = 0>(t, n)"
        " q = Squeeze(u, z) k = Squeeze(v, z) o = Squeeze(w, z)"
        if packed
        else "a, b, c = Split<axis = 2>(p, m)"
        " d = Reshape(a, e) q = Transpose<perm = [0,2,1,3]>(d)"
        " f = Reshape(b, e) k = Transpose<perm = [0,2,1,3]>(f)"
        " g = Reshape(c, e) o = Transpose<perm = [0,2,1,3]>(g)"
    )
    return f"""(float[B,S,6] x) => (float[B,S,6] y)
    <float[6,18] w1 = {zeros(6, 18)}, float[6,6] w2 = {zeros(6, 6)}, int64[5] s = {{0,-1,3,3,2}},
     int64[3] n = {{1,1,1}}, int64[1] z = {{0}}, int64[3] m = {{6,6,6}},
     int64[4] e = {{0,-1,3,2}}, int64[3] h = {{0,-1,6}}> {{
    p = MatMul(x, w1) {split}
    kt = Transpose<perm = [0,1,3,2]>(k) l = MatMul(q, kt) sm = Softmax<axis = -1>(l)
    ctx = MatMul(sm, o) back = Transpose<perm = [0,2,1,3]>(ctx) flat = Reshape(back, h)
    y = MatMul(flat, w2) }}"""


def test_heads_are_units_however_the_projection_is_packed():
    for packed in (False, True):
        free = [group for group in groups_of(attention(packed)) if group.pin is None]
        assert [(group.kind, len(group.units)) for group in free] == [("heads", 3)], packed
        columns = [site for site in free[0].sites if site.value.name == "w1"]
        assert len(columns) == 1


def test_a_convolution_of_single_channels_ties_both_sides():
    groups = groups_of(f"""(float[1,2,8,8] x) => (float[1,2,8,8] y)
        <float[4,2,1,1] a = {zeros(4, 2)}, float[4,1,3,3] d = {zeros(4, 9)},
         float[2,4,1,1] b = {zeros(2, 4)}> {{
        h = Conv(x, a) i = Conv<group = 4, pads = [1,1,1,1]>(h, d) y = Conv(i, b) }}""")
    free = [group for group in groups if group.pin is None]
    assert [(group.kind, len(group.units)) for group in free] == [("channels", 4)]
    assert len(free[0].sites) == 3


def test_a_mean_over_units_marks_them():
    groups = groups_of(f"""(float[B,4] x) => (float[B,4] y)
        <float[4,6] w1 = {zeros(4, 6)}, float[6] g = {zeros(6)}, float[6,4] w2 = {zeros(6, 4)}> {{
        h = MatMul(x, w1) i = LayerNormalization<axis = -1>(h, g) y = MatMul(i, w2) }}""")
    slugs = {group.pin.slug for group in groups if group.pin and len(group.units) == 6}
    assert slugs == {"normalized-over"}


def test_an_unknown_operator_pins():
    text = FFN.replace("a = Relu(i)", "a = test.Mystery(i)").replace(
        "(float[B,4] x)", "(float[B,4] x)"
    )
    model = from_text('<ir_version: 8, opset_import: ["" : 18, "test" : 1]> g ' + text)
    groups = find_groups(couple(model, infer_shapes(model)))
    assert groups
    assert all(group.pin is not None for group in groups)


def test_components_follow_long_chains():
    ties = Ties()
    factors = [ties.factor(3) for _ in range(50)]
    for first, second in itertools.pairwise(factors):
        ties.tie(second, first, "chain")
    units = ties.solve()
    assert units.of(factors[0]).tolist() == units.of(factors[-1]).tolist() == [0, 1, 2]


def test_a_product_loses_indices_of_the_factor_that_is_free():
    ties = Ties()
    flat, outer, inner = ties.factor(6), ties.factor(2), ties.factor(3)
    ties.split(flat, (outer, inner), "here")
    ties.pin(outer, Pin("why", "because", "there"))
    units = ties.solve()
    assert units.is_pinned(outer)
    assert units.of(flat).tolist() == [*units.of(inner).tolist()] * 2
    kept = units.kept(flat, np.array([units.of(inner)[1]]))
    assert kept.tolist() == [True, False, True] * 2
    assert units.kept(Factor(5), np.array([0])) is None


def everything_of(text):
    model = from_text(text)
    coupling = couple(model, infer_shapes(model))
    groups = find_groups(coupling)
    return (
        groups,
        find_attentions(model, coupling, groups),
        find_loose_layers(model, coupling, groups),
    )


def test_every_attention_is_found_with_its_heads():
    for packed in (False, True):
        groups, sites, _ = everything_of(attention(packed))
        assert [(site.group in groups, site.pin) for site in sites] == [(True, None)]


def test_a_classifier_is_no_attention():
    text = FFN.replace("y = MatMul(a, w2)", "s = Softmax(a) y = MatMul(s, w2)")
    assert everything_of(text)[1] == ()


def test_layers_of_no_group_are_told_with_the_reason():
    _, _, loose = everything_of(f"""(float[S,1,4] x, bool c) => (float[S,1,1,6] y, float[S,1,2] z)
        <float[1,24,4] w = {zeros(1, 24, 4)}, float[1,24,6] r = {zeros(1, 24, 6)},
         float[4,2] m = {zeros(4, 2)}> {{
        y = LSTM<hidden_size = 6>(x, w, r)
        z = If (c) < then_branch = t () => (float[S,1,2] a) {{ a = MatMul(x, m) }},
                     else_branch = e () => (float[S,1,2] b) {{ b = MatMul(x, m) }}> }}""")
    assert sorted((one.node.op_type, one.kind, one.pin.slug) for one in loose) == [
        ("LSTM", "neurons", "recurrent"),
        ("MatMul", "neurons", "in-subgraph"),
        ("MatMul", "neurons", "in-subgraph"),
    ]


def test_heads_of_a_cache_are_named_though_they_stay():
    text = attention(packed=False).replace(
        "(float[B,S,6] x)", "(float[B,S,6] x, float[B,3,P,2] past)"
    )
    text = text.replace(
        "kt = Transpose<perm = [0,1,3,2]>(k)",
        "j = Concat<axis = 2>(past, k) kt = Transpose<perm = [0,1,3,2]>(j)",
    )
    text = text.replace("ctx = MatMul(sm, o)", "i = Concat<axis = 2>(past, o) ctx = MatMul(sm, i)")
    groups, sites, _ = everything_of(text)
    (heads,) = [group for group in groups if group.kind == "heads"]
    assert heads.pin is not None
    assert (len(heads.units), heads.pin.slug, heads.pin.where) == (3, "model-input", "past")
    assert [site.group for site in sites] == [heads]


def test_heads_of_a_cache_are_free_where_the_interface_may_change():
    text = attention(packed=False).replace(
        "(float[B,S,6] x)", "(float[B,S,6] x, float[B,3,P,2] past)"
    )
    text = text.replace("=> (float[B,S,6] y)", "=> (float[B,S,6] y, float[B,3,T,2] j)")
    text = text.replace(
        "kt = Transpose<perm = [0,1,3,2]>(k)",
        "j = Concat<axis = 2>(past, k) kt = Transpose<perm = [0,1,3,2]>(j)",
    )
    text = text.replace("ctx = MatMul(sm, o)", "i = Concat<axis = 2>(past, o) ctx = MatMul(sm, i)")
    model = from_text(text)
    groups = find_groups(couple(model, infer_shapes(model), caches=True))
    assert [group.pin for group in groups if group.kind == "heads"] == [None]
