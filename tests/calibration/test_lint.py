"""Doubts about samples: each is found where it should be, and real samples raise none."""

import functools

import numpy as np
import pytest

from graphopt.calibration import lint_samples, load_samples
from graphopt.calibration.survey import Survey, distance, distance_from_uniform
from graphopt.ir import from_text
from graphopt.runtime import Histogram

CONVOLUTION = "(float[B,3,32,32] x) => (float[B,2,M,N] y) <float[2,3,3,3] w> { y = Conv(x, w) }"
SCALED = """(float[B,3,32,32] x) => (float[B,2,M,N] y) <float[2,3,3,3] w, float[1] c = {255.0}>
{ s = Div(x, c)  t = Transpose<perm = [0, 1, 2, 3]>(s)  y = Conv(t, w) }"""
TEXT = """(int64[B,S] ids, int64[B,S] types, int64[B,S] attention_mask) => (float[B,S,2] y)
<float[5000,2] table, float[2,2] kinds>
{ a = Gather(table, ids)  b = Gather(kinds, types)  c = Add(a, b)
  m = Cast<to = 9>(attention_mask)  y = Identity(c) }"""
TABULAR = "(float[B,8] x) => (float[B,8] y) { y = Relu(x) }"


def model(text):
    """Weights only need a shape here."""
    for name, shape in (
        ("float[2,3,3,3] w", (2, 3, 3, 3)),
        ("float[5000,2] table", (5000, 2)),
        ("float[2,2] kinds", (2, 2)),
    ):
        zeros = ",".join(["1.0"] * int(np.prod(shape)))
        text = text.replace(name, f"{name} = {{{zeros}}}")
    return from_text(text)


@functools.cache
def image(seed, channels=3, size=32):
    """Blobs, as smooth as photographs are, with a little noise."""
    rng = np.random.default_rng(seed)
    rough = rng.standard_normal((1, channels, size + 16, size + 16))
    for axis in (2, 3):
        sums = np.cumsum(rough, axis=axis)
        rough = np.diff(sums, n=1, axis=axis)
        kernel = np.ones(8) / 8
        rough = np.apply_along_axis(np.convolve, axis, rough, kernel, "same")
    kept = rough[:, :, 8 : 8 + size, 8 : 8 + size]
    return (kept / kept.std() + 0.02 * rng.standard_normal(kept.shape)).astype(np.float32)


def images(count=40):
    return [{"x": image(seed)} for seed in range(count)]


def sentences(count=40, length=64):
    """Indices as texts have them: few are frequent, most are rare."""
    rng = np.random.default_rng(1)
    made = []
    for _ in range(count):
        ids = np.minimum(rng.zipf(1.3, size=(1, length)), 4999)
        ids[0, 0] = 101
        made.append({"ids": ids, "types": np.zeros_like(ids), "attention_mask": np.ones_like(ids)})
    return made


def slugs(text, feeds, evaluation=None):
    judged = None if evaluation is None else load_samples(evaluation)
    found = lint_samples(model(text), load_samples(feeds), judged)
    assert all(warning.message and str(warning).startswith(warning.slug) for warning in found)
    assert all(warning.to_dict()["evidence"] for warning in found)
    return [(warning.slug, warning.input) for warning in found]


@pytest.mark.parametrize(("text", "feeds"), [(CONVOLUTION, images), (TEXT, sentences)])
def test_good_samples_raise_no_doubt(text, feeds):
    assert slugs(text, feeds(), feeds()) == []


def test_few_samples():
    assert slugs(CONVOLUTION, images(31)) == [("too-few", None)]
    batch = {"x": np.concatenate([image(seed) for seed in range(32)])}
    assert slugs(CONVOLUTION, [batch]) == []  # rows count, not files


def test_a_sample_that_is_all_rows_there_are():
    rows = np.concatenate([image(seed) for seed in range(9)] * 57)
    assert len(rows) == 513
    assert ("large-batch", None) in slugs(CONVOLUTION, [{"x": rows}])
    assert ("large-batch", None) not in slugs(CONVOLUTION, [{"x": rows[:512]}])
    fixed = CONVOLUTION.replace("[B,", "[513,")
    assert ("large-batch", None) not in slugs(fixed, [{"x": rows}])


def test_duplicates():
    assert slugs(CONVOLUTION, [*images(37), *images(3)]) == [("duplicates", None)]
    assert slugs(CONVOLUTION, [*images(39), *images(1)]) == []


@pytest.mark.parametrize("count", [40, 1])
def test_constant_input(count):
    flat = [{"x": np.full((1, 3, 32, 32), 0.5 + n * 1e-3, np.float32)} for n in range(count)]
    assert ("constant-input", "x") in slugs(CONVOLUTION, [*images(40), *flat])
    assert ("constant-input", "ids") in slugs(
        TEXT, [{**feed, "ids": np.full_like(feed["ids"], 7)} for feed in sentences()]
    )


def test_token_types_and_masks_are_constant_as_a_rule():
    assert slugs(TEXT, sentences()) == []


@pytest.mark.parametrize("kind", ["standard_normal", "random"])
def test_noise_where_a_convolution_looks_for_shapes(kind):
    rng = np.random.default_rng(0)
    noise = [{"x": getattr(rng, kind)((1, 3, 32, 32)).astype(np.float32)} for _ in range(40)]
    assert slugs(CONVOLUTION, noise) == [("looks-random", "x")]


def test_normal_features_of_a_table_are_no_noise():
    rng = np.random.default_rng(0)
    rows = [{"x": rng.standard_normal((64, 8)).astype(np.float32)} for _ in range(40)]
    assert slugs(TABULAR, rows) == []


def test_indices_drawn_evenly():
    rng = np.random.default_rng(0)
    feeds = [{**feed, "ids": rng.integers(0, 5000, (1, 64))} for feed in sentences()]
    assert slugs(TEXT, feeds) == [("looks-random", "ids")]


def pixels(feeds, scale=1.0):
    return [
        {"x": (np.clip(np.rint(feed["x"] * 40 + 128), 0, 255) * scale).astype(np.float32)}
        for feed in feeds
    ]


def test_range_of_pixels():
    assert slugs(CONVOLUTION, pixels(images())) == [("wrong-range", "x")]
    assert slugs(SCALED, pixels(images())) == []
    assert slugs(SCALED, pixels(images(), 1 / 255)) == [("wrong-range", "x")]
    assert slugs(CONVOLUTION, pixels(images(), 1 / 255)) == []


def test_colours_that_come_last():
    reshaped = [
        {"x": np.ascontiguousarray(feed["x"].transpose(0, 2, 3, 1)).reshape(1, 3, 32, 32)}
        for feed in images()
    ]
    assert slugs(CONVOLUTION, reshaped) == [("wrong-layout", "x")]


def test_evaluation_of_another_kind():
    brighter = [{"x": feed["x"] * 3 + 1} for feed in images()]
    assert slugs(CONVOLUTION, images(), brighter) == [("differs-from-evaluation", "x")]
    found = slugs(TEXT, sentences(), sentences(length=20))
    assert found == [("differs-from-evaluation", name) for name in ("ids", "types")]


def histogram(values):
    made = Histogram()
    made.add(np.asarray(values))
    return made


def test_distances():
    rng = np.random.default_rng(0)
    even = histogram(rng.random(5000))
    assert distance_from_uniform(even, 0.0, 1.0) < 0.03
    assert distance(even, histogram(rng.random(5000) * 1000)) > 0.9
    assert distance(even, even) == 0.0
    assert abs(distance(even, histogram(rng.random(5000) + 0.5)) - 0.5) < 0.05
    assert distance(even, histogram(-rng.random(50))) > 0.99


def test_survey_counts_samples_and_rows():
    survey = Survey.of(load_samples([{"x": np.zeros((2, 3))}, {"x": np.ones((1, 3))}] * 2))
    assert (survey.samples, survey.rows, survey.duplicates) == (4, 6, 2)
    assert survey.inputs["x"].constant_samples == 4
    assert dict(survey.inputs["x"].shapes) == {(2, 3): 2, (1, 3): 2}
