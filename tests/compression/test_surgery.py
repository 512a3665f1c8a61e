"""Surgery against the masked model: what is removed is what would be zero."""

import numpy as np
import pytest

from graphopt.analysis import infer_shapes
from graphopt.analysis.coupling import couple, find_groups
from graphopt.compression.masking import judge_surgery, surgery_fault
from graphopt.compression.surgery import plan_surgery
from graphopt.ir import from_text
from graphopt.rewrite import Editor, Journal


def numbers(seed, *shape):
    values = np.random.default_rng(seed).normal(size=int(np.prod(shape))).round(3)
    return "{" + ",".join(map(str, values)) + "}"


HEADS = f"""(float[B,S,6] x) => (float[B,S,6] y)
    <float[6,18] w1 = {numbers(1, 6, 18)}, float[6,6] w2 = {numbers(2, 6, 6)},
     int64[3] m = {{6,6,6}}, int64[1] b = {{-1}}, int64[2] e = {{3,2}}, int64[1] six = {{6}},
     int64[1] zero = {{0}}, int64[1] two = {{2}}> {{
    p = MatMul(x, w1)  a, b1, c = Split<axis = 2>(p, m)
    whole = Shape(x)  some = Slice(whole, zero, two)
    shape = Concat<axis = 0>(some, e)  merged = Concat<axis = 0>(some, six)
    d = Reshape(a, shape) q = Transpose<perm = [0,2,1,3]>(d)
    f = Reshape(b1, shape) k = Transpose<perm = [0,2,3,1]>(f)
    g = Reshape(c, shape) o = Transpose<perm = [0,2,1,3]>(g)
    l = MatMul(q, k) sm = Softmax<axis = -1>(l) ctx = MatMul(sm, o)
    back = Transpose<perm = [0,2,1,3]>(ctx) flat = Reshape(back, merged) y = MatMul(flat, w2) }}"""

CHANNELS = f"""(float[N,2,8,8] x) => (float[N,2,8,8] y)
    <float[4,2,1,1] a = {numbers(3, 4, 2)}, float[4] ab = {numbers(4, 4)},
     float[4,1,3,3] d = {numbers(5, 4, 3, 3)}, float[2,8,1,1] b = {numbers(6, 2, 8)},
     int64[1] one = {{1}}, int64[1] five = {{5}}> {{
    h = Conv(x, a, ab) i = Conv<group = 4, pads = [1,1,1,1]>(h, d) r = Relu(h)
    j = Concat<axis = 1>(i, r) y = Conv(j, b) }}"""

SLICED = f"""(float[N,3] x) => (float[N,3] y)
    <float[3,8] w1 = {numbers(7, 3, 8)}, float[4,3] w2 = {numbers(8, 4, 3)}, int64[1] zero = {{0}},
     int64[1] four = {{4}}, int64[1] end = {{9223372036854775807}}, int64[1] axis = {{-1}}> {{
    h = MatMul(x, w1) up = Slice(h, zero, four, axis) gate = Slice(h, four, end, axis)
    s = Sigmoid(gate) a = Mul(s, up) y = MatMul(a, w2) }}"""

FEEDS = {
    "heads": [{"x": np.random.default_rng(0).normal(size=(2, 5, 6)).astype(np.float32)}],
    "channels": [{"x": np.random.default_rng(0).normal(size=(2, 2, 8, 8)).astype(np.float32)}],
    "sliced": [{"x": np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)}],
}
MODELS = {"heads": HEADS, "channels": CHANNELS, "sliced": SLICED}


def free_group(model):
    (group,) = [g for g in find_groups(couple(model, infer_shapes(model))) if g.pin is None]
    return group


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("which", [(1,), (0, 2)])
def test_what_is_cut_computes_what_zeros_compute(name, which):
    model = from_text(MODELS[name])
    group = free_group(model)
    assert surgery_fault(model, [[group.units[i] for i in which]], FEEDS[name]) is None


def test_it_is_smaller_by_what_was_removed():
    model = from_text(HEADS)
    group = free_group(model)
    editor = Editor(model, pass_name="test", journal=Journal())
    with editor.rewrite(model.graph, because="test") as change:
        assert (
            plan_surgery(couple(model, infer_shapes(model)), group.units[:1]).apply(change) is None
        )
    weights = model.graph.initializers
    assert weights["w1"].const_value.numpy().shape == (6, 12)
    assert weights["w2"].const_value.numpy().shape == (4, 6)


def test_a_wrong_cut_is_found(monkeypatch):
    model = from_text(SLICED)
    group = free_group(model)
    monkeypatch.setattr("graphopt.compression.surgery.Surgery._adapt_slice", lambda *_: None)
    fault = surgery_fault(model, [group.units[:2]], FEEDS["sliced"])
    assert fault is not None


def test_units_that_have_to_stay_are_not_removed():
    model = from_text(SLICED)
    coupling = couple(model, infer_shapes(model))
    unit = next(unit for unit, _ in coupling.units.pinned())
    with pytest.raises(ValueError, match="has to stay"):
        plan_surgery(coupling, [unit])


def test_a_wrong_cut_is_found_where_the_outputs_hardly_hang_on_it(monkeypatch):
    quiet = SLICED.replace("y = MatMul(a, w2)", "z = MatMul(a, w2) t = Mul(z, tiny) y = Add(x, t)")
    quiet = quiet.replace("int64[1] zero", "float tiny = {0.0000001}, int64[1] zero")
    model = from_text(quiet)
    group = free_group(model)
    assert surgery_fault(model, [group.units[:2]], FEEDS["sliced"]) is None
    monkeypatch.setattr("graphopt.compression.surgery.Surgery._adapt_slice", swapped)
    fault = surgery_fault(model, [group.units[:2]], FEEDS["sliced"])
    assert fault is not None
    assert "`z`" in fault


def swapped(_surgery, node, change):
    """Take the halves in the other order: all shapes fit, and what is computed is wrong."""
    bounds = (2, 4) if node.outputs[0].name == "up" else (0, 2)
    for index, bound in enumerate(bounds, 1):
        change.set_input(node, index, change.initializer(np.array([bound]), name="bound"))


def test_outputs_and_sums_are_compared():
    model = from_text(HEADS)
    test = judge_surgery(model, [free_group(model).units[1:2]], FEEDS["heads"])
    assert test.fault is None
    assert test.error < 1e-5
    assert test.compared == 1  # the sum is the output
