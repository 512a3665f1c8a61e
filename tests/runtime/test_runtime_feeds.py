"""Generated feeds: valid, reproducible, and at dimensions at which the model runs."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.errors import UnknownNameError, UnsupportedModelError
from graphopt.ir import from_text
from graphopt.runtime import (
    TensorSpec,
    generate_feed_sets,
    generate_feeds,
    input_specs,
    representative_feed,
)
from graphopt.runtime.dimensions import Role, dimension_roles, proposals, shape_of


def model(graph, opset=17):
    return from_text(f'<ir_version: 10, opset_import: ["": {opset}]> {graph}')


EMBED = """g (int64[batch, seq] ids, int64[batch, seq] attention_mask, int64[batch, seq] token_types) => (float[batch, seq, 2] y)
<float[5, 2] words = {1,2,3,4,5,6,7,8,9,10}, float[2, 2] types = {1,2,3,4}> {
  w = Gather(words, ids)
  t = Gather(types, token_types)
  s = Add(w, t)
  m = Cast<to=1>(attention_mask)
  axis = Constant<value = int64[1] {2}>()
  u = Unsqueeze(m, axis)
  y = Mul(s, u)
}"""


def test_values_are_valid():
    feeds = generate_feeds(model(EMBED), dims={"batch": 3, "seq": 40})
    assert {name: array.shape for name, array in feeds.items()} == dict.fromkeys(feeds, (3, 40))
    assert {array.dtype for array in feeds.values()} == {np.dtype(np.int64)}
    assert set(np.unique(feeds["ids"])) == set(range(5))
    assert set(np.unique(feeds["token_types"])) == {0, 1}


def test_masks_are_mostly_one_and_hide_only_ends():
    mask = generate_feeds(model(EMBED), dims={"batch": 50, "seq": 40})["attention_mask"]
    assert set(np.unique(mask)) == {0, 1}
    assert mask.mean() > 0.7
    assert (mask[:, 0] == 1).all()
    assert (np.diff(mask, axis=1) <= 0).all()


def test_the_same_seed_gives_the_same_feed():
    first, second = (generate_feeds(model(EMBED), seed=4) for _ in range(2))
    other = generate_feeds(model(EMBED), seed=5)
    assert all((first[name] == second[name]).all() for name in first)
    assert (first["ids"] != other["ids"]).any()


def test_floats_are_standard_normal_and_bytes_use_their_range():
    graph = "g (float16[N, 500] x, uint8[N, 500] p, bool[N, 500] b) => (float16[N, 500] y) { q = Cast<to=10>(p)  c = Cast<to=10>(b) d = Add(x, q) y = Add(d, c) }"
    feeds = generate_feeds(model(graph), dims={"N": 40})
    assert feeds["x"].dtype == np.float16
    assert abs(feeds["x"].astype(float).mean()) < 0.05
    assert feeds["x"].astype(float).std() == pytest.approx(1, abs=0.05)
    assert (feeds["p"].min(), feeds["p"].max()) == (0, 255)
    assert set(np.unique(feeds["b"])) == {False, True}


def test_overridable_initializers_are_left_out():
    graph = "g (float[N] x, float[1] w) => (float[N] y) <float[1] w = {1}> { y = Mul(x, w) }"
    assert list(generate_feeds(model(graph))) == ["x"]
    assert [spec.name for spec in input_specs(model(graph))] == ["x"]


def test_positions_count_up():
    graph = "g (int64[batch, seq] position_ids) => (float[batch, seq, 1] y) <float[8, 1] t = {0,1,2,3,4,5,6,7}> { y = Gather(t, position_ids) }"
    feeds = generate_feeds(model(graph), dims={"seq": 6, "batch": 2})
    assert feeds["position_ids"].tolist() == [[0, 1, 2, 3, 4, 5]] * 2


def test_modes_take_the_values_that_the_model_knows():
    graph = "g (int64 rate, float[N] x) => (float[N] y) { k = Constant<value = int64 {16000}>()  is = Equal(rate, k)  f = Cast<to=1>(is)  y = Mul(x, f) }"
    assert generate_feeds(model(graph))["rate"] == 16000


def test_text():
    graph = "g (string[N] x) => (string[N] y) { y = Identity(x) }"
    feed = generate_feeds(model(graph), dims={"N": 30})["x"]
    assert feed.dtype == object
    assert all(isinstance(word, str) for word in feed)


def test_unknown_dimension_is_refused_with_the_nearest_name():
    with pytest.raises(UnknownNameError) as caught:
        generate_feeds(model(EMBED), dims={"bach": 3})
    assert "batch" in caught.value.hint


def test_sequences_cannot_be_generated():
    graph = "g (seq(float[N]) x) => (int64 y) { y = SequenceLength(x) }"
    with pytest.raises(UnsupportedModelError, match="sequence"):
        generate_feeds(model(graph))


def test_an_input_of_absurd_size_is_refused_before_memory_is_asked_for():
    huge = model("g (float[1048576, 1048576] x) => (float[1048576, 1048576] y) { y = Neg(x) }")
    with pytest.raises(UnsupportedModelError, match=r"too large(.|\n)*`x`(.|\n)*1048576"):
        generate_feeds(huge)
    assert generate_feeds(model("g (float[1024, 8] x) => (float[1024, 8] y) { y = Neg(x) }"))


def test_feed_sets_vary_every_dimension():
    first, second = generate_feed_sets(model(EMBED))
    assert first["ids"].shape[0] != second["ids"].shape[0]
    assert first["ids"].shape[1] != second["ids"].shape[1]
    assert {array.shape for array in first.values()} == {first["ids"].shape}


def test_feed_sets_of_a_fixed_model_vary_values():
    graph = "g (float[2, 3] x) => (float[2, 3] y) { y = Relu(x) }"
    first, second, third = generate_feed_sets(model(graph), count=3)
    assert first["x"].shape == third["x"].shape == (2, 3)
    assert (first["x"] != second["x"]).any()


def test_dimensions_that_are_open_in_name_only_keep_what_runs():
    # `seq` is baked in by the Reshape; `batch` is truly open.
    graph = """g (float[batch, seq] x) => (float[batch, 32] y) {
      to = Constant<value = int64[2] {-1, 32}>()
      flat = Reshape(x, to)
      zero = Sub(flat, x)
      y = Add(x, zero)
    }"""
    first, second = generate_feed_sets(model(graph))
    assert first["x"].shape[1] == second["x"].shape[1] == 32
    assert first["x"].shape[0] != second["x"].shape[0]


def test_representative_feed_has_the_sizes_of_a_benchmark():
    assert representative_feed(model(EMBED))["ids"].shape == (1, 128)


def test_representative_feed_falls_back_to_what_runs():
    graph = """g (float[batch, seq] x) => (float[batch, 32] y) {
      to = Constant<value = int64[2] {-1, 32}>()
      flat = Reshape(x, to)
      y = Add(x, flat)
    }"""
    assert representative_feed(model(graph))["x"].shape == (1, 32)


def test_total_is_past_and_present():
    graph = """g (float[batch, seq] now, float[batch, past_seq] past, float[batch, total_seq] mask) => (float[batch, total] y) {
      all = Concat<axis=1>(past, now)
      y = Mul(all, mask)
    }"""
    first, second = generate_feed_sets(model(graph))
    for feed in (first, second):
        assert feed["mask"].shape[1] == feed["now"].shape[1] + feed["past"].shape[1]
    assert first["now"].shape != second["now"].shape
    assert first["past"].shape != second["past"].shape


def test_symbols_of_different_names_may_have_to_be_equal():
    graph = "g (float[batch, seq_a] x, float[batch, seq_b] z) => (float[batch, seq_a] y) { y = Add(x, z) }"
    for feed in generate_feed_sets(model(graph)):
        assert feed["x"].shape == feed["z"].shape


def test_a_model_that_runs_at_no_size_is_refused_with_the_reason():
    graph = """g (float[N] x) => (float[2] y) {
      to = Constant<value = int64[2] {7919, 13}>()
      r = Reshape(x, to)
      y = ReduceSum<keepdims=0>(r)
    }"""
    with pytest.raises(UnsupportedModelError, match=r"no generated input runs(.|\n)*Reshape"):
        generate_feed_sets(model(graph))


def test_given_session_is_used(worker, tmp_path):
    from graphopt.ir import save

    path = tmp_path / "m.onnx"
    save(model(EMBED), path)
    session = worker.load(path)
    for feed in generate_feed_sets(model(EMBED), count=3, session=session):
        session.run(feed)


def test_roles_by_name_and_by_place():
    specs = [
        TensorSpec("x", "float32", ("s0", 3, "s1", "s2")),
        TensorSpec("ids", "int64", ("s0", "s3")),
        TensorSpec("past_key_0", "float32", ("s0", 4, "p", 8)),
        TensorSpec("mask", "int64", ("s0", "total_len")),
        TensorSpec("none", "float32", (None, None)),
    ]
    assert dimension_roles(specs) == {
        "s0": Role.BATCH,
        "s1": Role.IMAGE,
        "s2": Role.IMAGE,
        "s3": Role.SEQUENCE,
        "p": Role.PAST,
        "total_len": Role.TOTAL,
        "axis 0": Role.BATCH,
        "axis 1": Role.SEQUENCE,
    }


def test_expressions_are_evaluated():
    specs = [
        TensorSpec("ids", "int64", ("batch", "seq")),
        TensorSpec("mask", "int64", ("batch", "past + seq")),
    ]
    roles = dimension_roles(specs)
    assert set(roles) == {"batch", "seq", "past"}
    assert shape_of(specs[1], {"batch": 1, "seq": 4, "past": 3}) == (1, 7)


def test_odd_names_are_symbols():
    spec = TensorSpec("x", "float32", ("batch size (B)", "unk__3"))
    sizes = next(proposals(dimension_roles([spec])))
    assert len(shape_of(spec, sizes)) == 2


def test_input_specs_of_every_kind():
    graph = "g (seq(float[N]) s, string[2] t, bfloat16[a, 3] b, int4[4] i) => (string[2] y) { y = Identity(t) }"
    text = model(graph, opset=21)
    text.graph.inputs[2].shape = ir.Shape([None, 3])
    assert input_specs(text) == (
        TensorSpec("s", "sequence(float32)", ("N",)),
        TensorSpec("t", "string", (2,)),
        TensorSpec("b", "bfloat16", (None, 3)),
        TensorSpec("i", "int4", (4,)),
    )


def test_a_mask_of_unknown_rank_hides_nothing():
    model = from_text("(float[N,4] x, bool[N] mask) => (float[N,4] y) { y = Where(mask, x, x) }")
    model.graph.inputs[1].shape = None
    assert generate_feeds(model)["mask"].tolist() is True
