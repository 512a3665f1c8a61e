"""Moments and Gram matrices over samples: chunks, padding, windows, two models, the cache."""

from typing import ClassVar

import numpy as np
import pytest

from graphopt.analysis import KeptShapes
from graphopt.calibration import Calibrator, SampleMeasure, load_samples
from graphopt.errors import PreconditionError, RunError
from graphopt.ir import from_text
from graphopt.pipeline import PassManager, Pipeline
from graphopt.pipeline.facts_source import FactsSource
from graphopt.rewrite import Approximate, Channels, Contract, Needs, Pass, Window

CHAIN = """(float[B,S,3] x) => (float[B,S,3] d)
{ a = Neg(x)  b = Exp(a)  c = Mul(b, x)  d = Tanh(c) }"""

TEXT = """(int64[B,S] ids, int64[B,S] attention_mask) => (float[B,S,3] y)
<float[9,3] table = {0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26}>
{ e = Gather(table, ids)  m = Cast<to = 1>(attention_mask)  y = Neg(e) }"""


def feeds(count=5, seed=3):
    rng = np.random.default_rng(seed)
    sizes = [(1, 4), (2, 3), (1, 700)]
    return [
        {"x": rng.standard_normal((*sizes[index % 3], 3)).astype(np.float32)}
        for index in range(count)
    ]


def measure(given=None, **settings):
    return SampleMeasure(samples=load_samples(given or feeds()), **settings)


def rows(name="x"):
    return np.concatenate([feed[name].reshape(-1, 3) for feed in feeds()]).astype(np.float64)


def test_moments_are_those_of_all_rows():
    found = measure().moments(from_text(CHAIN), ["x"], grams=["x", "b"])
    assert set(found) == {"x", "b"}
    for name, expected in (("x", rows()), ("b", np.exp(-rows()))):
        item = found[name]
        assert item.count == len(expected)
        np.testing.assert_allclose(item.mean, expected.mean(0), rtol=1e-5)
        np.testing.assert_allclose(item.second, (expected**2).mean(0), rtol=1e-5)
        np.testing.assert_allclose(item.largest, np.abs(expected).max(0), rtol=1e-5)
        np.testing.assert_allclose(item.limits, (expected.min(0), expected.max(0)), rtol=1e-5)
        np.testing.assert_allclose(item.gram, expected.T @ expected / len(expected), rtol=1e-4)
        np.testing.assert_allclose(item.variance, expected.var(0), rtol=1e-4)
        assert item.is_finite


def test_memory_limit_divides_the_work_and_changes_nothing():
    model, names = from_text(CHAIN), ["x", "a", "b", "c", "d"]
    told = []
    whole = measure().moments(model, [], grams=names)
    parts = measure(memory_bytes=100, progress=lambda *n: told.append(n)).moments(
        model, [], grams=names
    )
    assert told[-1] == (25, 25)
    for name in names:
        np.testing.assert_array_equal(whole[name].gram, parts[name].gram)


def test_channels_may_be_another_axis():
    model = from_text("(float[N,2,H] x) => (float[N,2,H] y) { y = Neg(x) }")
    given = [{"x": np.arange(12, dtype=np.float32).reshape(1, 2, 6)}]
    asked = Channels("y", axis=1)
    item = measure(given).moments(model, [asked])[asked]
    assert item.count == 6
    np.testing.assert_allclose(item.mean, [-2.5, -8.5])


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("positions", [None, 7])
def test_windows_are_what_a_convolution_multiplies(groups, positions):
    """Seen through its window, a convolution is a product of matrices: also where it samples."""
    rng = np.random.default_rng(groups)
    weight = rng.standard_normal((6, 4 // groups, 3, 2)).astype(np.float32)
    model = from_text(
        f"""(float[N,4,H,W] x, float[6,{4 // groups},3,2] w) => (float[N,6,P,Q] y)
        {{ y = Conv<group={groups}, pads=[1,0,1,1], strides=[2,1], dilations=[1,2]>(x, w) }}"""
    )
    given = [{"x": rng.standard_normal((2, 4, 5, 6)).astype(np.float32), "w": weight}] * 2
    window = Window((3, 2), (2, 1), (1, 2), (1, 0, 1, 1), groups)
    seen = Channels("x", window=window, positions=positions)
    made = Channels("y", axis=1, positions=positions)
    (found,) = measure(given).cross(model, model, [(seen, made)])
    grams = found.first.gram.reshape(groups, 4 // groups * 6, 4 // groups * 6)
    products = found.product.reshape(groups, 4 // groups * 6, 6 // groups)
    matrices = weight.reshape(groups, 6 // groups, -1)
    for gram, product, matrix in zip(grams, products, matrices, strict=True):
        np.testing.assert_allclose(gram @ matrix.T, product, atol=1e-5)
    np.testing.assert_allclose(
        found.first.mean.reshape(groups, -1)[0] @ matrices[0].T,
        found.second.mean[: 6 // groups],
        atol=1e-5,
    )
    assert found.first.count == (2 * 7 if positions else 2 * 2 * 3 * 5)


def test_padding_is_left_out():
    given = [
        {
            "ids": np.array([[1, 2, 0, 0], [3, 0, 0, 0]]),
            "attention_mask": np.array([[1, 1, 0, 0], [1, 0, 0, 0]]),
        }
    ]
    tool = measure(given)
    item = tool.moments(from_text(TEXT), [], grams=["e"])["e"]
    expected = np.arange(27.0).reshape(9, 3)[[1, 2, 3]]
    assert item.count == 3
    np.testing.assert_allclose(item.gram, expected.T @ expected / 3)
    assert tool.notes == ["calibration: positions where `attention_mask` is 0 were left out"]
    (found,) = tool.cross(from_text(TEXT), from_text(TEXT), [("e", "y")])
    assert found.first.count == found.second.count == 3
    np.testing.assert_allclose(found.error, 4 * (expected**2).mean(0))


def test_two_models_are_compared_row_by_row():
    other = from_text(CHAIN.replace("Exp(a)", "Abs(a)"))
    same, apart, missing = measure(memory_bytes=300).cross(
        from_text(CHAIN), other, [("a", "a"), ("x", "b"), ("nothing", "b")]
    )
    assert missing is None
    assert same.sqnr_db == np.inf
    left, right = rows(), np.abs(rows())
    np.testing.assert_allclose(apart.product, left.T @ right / len(left), atol=1e-4)
    np.testing.assert_allclose(apart.shift, (right - left).mean(0), rtol=1e-5)
    np.testing.assert_allclose(apart.error, ((right - left) ** 2).mean(0), rtol=1e-5)
    expected = 10 * np.log10((right**2).sum() / ((right - left) ** 2).sum())
    assert abs(apart.sqnr_db - expected) < 1e-4


def test_other_widths_have_products_and_no_differences():
    wide = from_text("(float[B,S,3] x) => (float[B,S,6] y) { y = Concat<axis = 2>(x, x) }")
    (found,) = measure().cross(from_text(CHAIN), wide, [("x", "y")])
    assert found.product.shape == (3, 6)
    assert found.shift is None
    assert np.isnan(found.sqnr_db)


def test_samples_with_other_numbers_of_rows_are_left_out():
    """Of a model that drops rows now and then, only what can be compared counts."""
    other = from_text(
        "(float[B,S,3] x) => (float[K,3] y) <int64[1] axis = {0}, int64[1] rest = {-1}, int64[2] s = {-1, 3},"
        " int64[1] from = {0}, int64[1] to = {6}>"
        "{ r = Reshape(x, s)  y = Slice(r, from, to, axis) }"
    )
    (found,) = measure().cross(from_text(CHAIN), other, [("x", "y")])
    assert found.first.count == found.second.count == 4 + 6 + 4 + 6
    np.testing.assert_allclose(found.first.mean, found.second.mean)


def test_rows_of_several_widths_have_no_channels():
    model = from_text("(float[N,S] x) => (float[N,S] y) { y = Neg(x) }")
    given = [{"x": np.ones((2, size), np.float32)} for size in (3, 4, 3)]
    assert not measure(given).moments(model, ["x"], grams=["y"])
    assert measure(given).cross(model, model, [("x", "y")]) == [None]


def test_what_is_not_finite_shows():
    given = [{"x": np.array([[[1.0, np.inf, 2.0]]], np.float32)}]
    item = measure(given).moments(from_text(CHAIN), ["a"])["a"]
    assert not item.is_finite
    assert np.isfinite(item.mean).tolist() == [True, False, True]


def test_sample_that_fails_is_named():
    bad = [*feeds(1), {"x": np.zeros(3, np.float32)}]
    with pytest.raises(RunError) as caught:
        measure(bad).moments(from_text(CHAIN), ["a"])
    assert caught.value.where == "sample 2 of `list of feeds`"


def test_outputs_come_sample_by_sample():
    found = list(measure().outputs(from_text(CHAIN), ["b"]))
    assert len(found) == 5
    np.testing.assert_allclose(found[1]["b"], np.exp(-feeds()[1]["x"]), rtol=1e-5)
    assert set(next(iter(measure().outputs(from_text(CHAIN))))) == {"d"}


def test_cache_answers_the_same_question_only(tmp_path):
    calibrator = Calibrator(samples=load_samples(feeds()), cache=tmp_path)
    first = calibrator.moments(from_text(CHAIN), ["a", "b"], ["b"])
    again = Calibrator(samples=load_samples(feeds()), cache=tmp_path)
    second = again.moments(from_text(CHAIN), ["b", "a"], ["b"])
    assert again.notes == ["calibration: moments of 2 of 2 values from the cache"]
    np.testing.assert_array_equal(first["b"].gram, second["b"].gram)
    assert second["a"].gram is None
    other = Calibrator(samples=load_samples(feeds(seed=4)), cache=tmp_path)
    assert not np.array_equal(other.moments(from_text(CHAIN), ["a"])["a"].mean, first["a"].mean)
    assert not other.notes
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:-40])
    damaged = Calibrator(samples=load_samples(feeds()), cache=tmp_path)
    assert damaged.moments(from_text(CHAIN), ["b"], ["b"])["b"].count == first["b"].count
    assert not damaged.notes


# -- in the pass manager -------------------------------------------------------------------------


class Asking(Pass):
    name = "asking"
    contract = Contract(numerics=Approximate(metric="sqnr_db"))
    seen: ClassVar[dict] = {}

    def needs(self, model):
        return Needs(moments=("a",), grams=("b",), samples=True, original=True)

    def run(self, model, edit, facts):
        self.seen.update(facts=facts)


def test_passes_get_what_they_ask_for():
    model = from_text(CHAIN)
    provider = Calibrator(samples=load_samples(feeds()))
    manager = PassManager(statistics_provider=provider, verify="off")
    manager.run(model, Pipeline.of(Asking()))
    facts = Asking.seen["facts"]
    assert facts.moments["a"].gram is None
    assert facts.moments["b"].gram.shape == (3, 3)
    assert facts.original is not model
    assert [node.op_type for node in facts.original.graph] == ["Neg", "Exp", "Mul", "Tanh"]
    (found,) = facts.measure.cross(model, facts.original, [("d", "d")], products=False)
    assert found.product is None
    assert found.sqnr_db == np.inf


def test_ranges_alone_do_not_do():
    source = FactsSource(statistics=lambda *_: {})
    model = from_text(CHAIN)
    with pytest.raises(PreconditionError, match="needs calibration samples"):
        source.facts_for(Asking(), model, KeptShapes(model))
