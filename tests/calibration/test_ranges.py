"""Ranges collected over samples."""

import math

import numpy as np
import pytest

from graphopt.calibration import Calibrator, load_samples
from graphopt.errors import RunError
from graphopt.ir import from_text, model_bytes
from graphopt.rewrite import RangeMethod, ValueRange

MODEL = """(float[N] x, int64[1] i) => (float[N] y) <float[1] w = {2.0}>
{ a = Neg(x)  b = Mul(a, w)  c = Log(x)  d = Compress(x, m)  y = Add(a, b) }""".replace(
    "{2.0}>", "{2.0}, bool[1] m = {0}>"
)


# Extremes are reduced in the graph; where cells are counted too, all is counted in the worker.
METHODS = [RangeMethod(), RangeMethod(name="percentile", percentile=100.0)]
METHOD = METHODS[0]


@pytest.fixture(params=METHODS, ids=lambda method: method.name, autouse=True)
def method(request, monkeypatch):
    monkeypatch.setitem(globals(), "METHOD", request.param)


def ranges(names, *arrays, progress=None):
    model = from_text(MODEL)
    before = model_bytes(model)
    feeds = [{"x": np.array(x, np.float32), "i": np.array([n])} for n, x in enumerate(arrays)]
    found = Calibrator(samples=load_samples(feeds), progress=progress)(model, names, METHOD)
    assert model_bytes(model) == before
    return found


def test_ranges_span_all_samples():
    found = ranges(["x", "b", "y", "i"], [1.0, 3.0], [0.5], [2.0, -4.0, 1.0])
    assert found == {
        "x": ValueRange(-4.0, 3.0),
        "b": ValueRange(-6.0, 8.0),
        "y": ValueRange(-9.0, 12.0),
        "i": ValueRange(0, 2),
    }


@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize("bad", [-1.0, 0.0])
def test_value_that_was_ever_not_finite_has_no_range(position, bad):
    arrays = [[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]]
    arrays[position] = [1.0, bad]
    found = ranges(["c", "x"], *arrays)
    assert math.isnan(found["c"].minimum)
    assert math.isnan(found["c"].maximum)
    assert found["x"] == ValueRange(bad, 2.0)


def test_value_that_was_always_empty_and_unknown_names_are_left_out():
    assert ranges(["d", "nothing", "w", "a"], [1.0, 2.0]) == {"a": ValueRange(-2.0, -1.0)}


def test_inputs_alone_are_looked_at_too():
    assert ranges(["x"], [1.0], [2.0]) == {"x": ValueRange(1.0, 2.0)}
    assert ranges([], [1.0]) == {}


def test_progress_counts_samples():
    told = []
    ranges(["a"], [1.0], [2.0], progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 2), (2, 2)]


def test_sample_that_the_runtime_refuses_is_an_error():
    samples = load_samples([{"x": np.ones(1, np.float32), "i": np.array([1])}, {"x": np.zeros(1)}])
    with pytest.raises(RunError) as caught:
        Calibrator(samples=samples)(from_text(MODEL), ["a"], METHOD)
    assert caught.value.where == "sample 2 of `list of feeds`"
