"""Ranges collected over samples."""

import math

import numpy as np
import pytest

from graphopt.calibration import collect_ranges, load_samples
from graphopt.errors import RunError
from graphopt.ir import from_text, model_bytes
from graphopt.rewrite import ValueRange
from graphopt.runtime import shared_worker

MODEL = """(float[N] x, int64[1] i) => (float[N] y) <float[1] w = {2.0}>
{ a = Neg(x)  b = Mul(a, w)  c = Log(x)  d = Compress(x, m)  y = Add(a, b) }""".replace(
    "{2.0}>", "{2.0}, bool[1] m = {0}>"
)


def ranges(names, *arrays, progress=None):
    model = from_text(MODEL)
    before = model_bytes(model)
    feeds = [{"x": np.array(x, np.float32), "i": np.array([n])} for n, x in enumerate(arrays)]
    found = collect_ranges(
        model, load_samples(feeds), names, worker=shared_worker(), progress=progress
    )
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
    with pytest.raises(RunError):
        collect_ranges(
            from_text(MODEL), load_samples([{"x": np.zeros(1)}]), ["a"], worker=shared_worker()
        )
