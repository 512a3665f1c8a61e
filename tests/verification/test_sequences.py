"""Models that carry state are compared over a sequence of runs."""

import numpy as np
import pytest

from graphopt.ir import from_text, save
from graphopt.runtime import shared_worker
from graphopt.verification import compare_models

CELL = """(float[2] x, float[2] state) => (float[2] y, float[2] stateN) <float[1] decay = {{{0}}}>
{{ kept = Mul(state, decay)  stateN = Add(kept, x)  y = Neg(stateN) }}"""


def feeds(count):
    rng = np.random.default_rng(0)
    return [
        {
            "x": np.abs(rng.standard_normal(2)).astype(np.float32),
            "state": np.ones(2, np.float32),
        }
        for _ in range(count)
    ]


@pytest.fixture
def models(tmp_path):
    paths = []
    for decay in (0.9, 0.91):
        path = tmp_path / f"{decay}.onnx"
        save(from_text(CELL.format(decay)), path)
        paths.append(path)
    return paths


def compared(models, count=4, **settings):
    return compare_models(*models, feeds(count), worker=shared_worker(), **settings)


def test_errors_add_up_over_a_sequence(models):
    once, carried = compared(models, states={}), compared(models)
    assert once.steps == 0
    assert carried.carried == ("state",)
    assert carried.steps == 7  # eight in all, and the first is known
    assert carried.samples == 4 + 7
    assert carried.outputs["y"].max_abs > 3 * once.outputs["y"].max_abs
    assert "runs in a row" in carried.notes()[0]


def test_each_side_carries_its_own_state(models):
    result = compared(models, count=20)
    state, y = 1.0, []
    for decay in (0.9, 0.91):
        state = np.ones(2)
        for feed in feeds(20):
            state = state * decay + feed["x"]
        y.append(state)
    assert result.steps == 19
    assert result.outputs["stateN"].max_abs >= np.abs(y[1] - y[0]).max() * 0.999


def test_state_that_is_said_is_carried_whatever_its_name(tmp_path):
    text = CELL.format(0.9).replace("stateN", "b").replace("state", "a")
    path = tmp_path / "m.onnx"
    save(from_text(text), path)
    fed = [{"x": feed["x"], "a": feed["state"]} for feed in feeds(3)]
    worker = shared_worker()
    assert compare_models(path, path, fed, worker=worker).steps == 0
    assert compare_models(path, path, fed, worker=worker, states={"a": "b"}).steps == 7


def test_a_cache_that_grows_is_not_carried(tmp_path):
    text = """(float[N] x, float[P] past_0) => (float[T] present_0)
    { present_0 = Concat<axis = 0>(past_0, x) }"""
    path = tmp_path / "m.onnx"
    save(from_text(text), path)
    fed = [{"x": np.ones(2, np.float32), "past_0": np.ones(3, np.float32)}]
    result = compare_models(path, path, fed, worker=shared_worker())
    assert result.steps == 0
    assert result.samples == 1
