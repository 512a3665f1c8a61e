"""Timing two models: the order, when it stops, what it reports. Times here are invented."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from graphopt.errors import RunError, SessionLoadError
from graphopt.runtime import SessionOptions, measure_cold_start, measure_latency
from graphopt.runtime import latency as module
from graphopt.runtime.session import Timing

RELU = "g (float[N] x) => (float[N] y) { y = Relu(x) }"
NEG = "g (float[N] x) => (float[N] y) { a = Neg(x)  b = Neg(a)  y = Neg(b) }"


class InventedSession:
    """Takes as long as it is told, without waiting."""

    def __init__(self, milliseconds, noise=0.0, seed=5):
        self.ns = milliseconds * 1e6
        self.noise = noise
        self.rng = np.random.default_rng(seed)

    def time(self, repeats=1):
        wall = self.ns * (1 + self.noise * self.rng.random())
        return Timing(wall, wall, 0)


@pytest.fixture
def plans(monkeypatch):
    seen = []

    def invented(plan):
        seen.append(plan)
        return [session.time(repeats) for session, repeats in plan]

    monkeypatch.setattr(module, "time_sessions", invented)
    return seen


def test_stops_as_soon_as_the_ratio_is_known(plans):
    sessions = (InventedSession(10), InventedSession(5))
    samples = module._sample(sessions, budget_s=1000, precision=0.03, seed=0)
    assert 30 <= len(samples.pairs) < 80
    assert samples.interval(0).ratio == 0.5


def test_goes_on_while_it_is_noisy(plans):
    sessions = (InventedSession(10, noise=1), InventedSession(5, noise=1, seed=6))
    samples = module._sample(sessions, budget_s=1000, precision=0.01, seed=0)
    assert len(samples.pairs) > 80


def test_runs_three_rounds_whatever_the_budget(plans):
    sessions = (InventedSession(1e5), InventedSession(1e5))
    samples = module._sample(sessions, budget_s=0.0, precision=0.03, seed=0)
    assert len(samples.pairs) == 3


def test_both_models_go_first_equally_often_and_at_random():
    orders = list(islice(module._orders(np.random.default_rng(0)), 100))
    assert sum(orders) == 50
    assert orders != [True, False] * 50


def test_pairs_are_sorted_by_model_whatever_the_order(plans):
    sessions = (InventedSession(10), InventedSession(5))
    pairs = module._rounds(sessions, (1, 1), [True, False])
    assert [(before.wall_ns, after.wall_ns) for before, after in pairs] == [(1e7, 5e6)] * 2
    assert [session for session, _ in plans[0]] == [
        sessions[1],
        sessions[0],
        sessions[0],
        sessions[1],
    ]


def test_short_runs_are_repeated(plans):
    sessions = (InventedSession(0.01), InventedSession(2))
    samples = module._sample(sessions, budget_s=1000, precision=0.03, seed=0)
    assert samples.repeats == (100, 1)
    assert samples.summary(0).runs == 100 * len(samples.pairs)
    assert samples.summary(0).median_ms == pytest.approx(0.01)


def test_compares_real_models(model_bytes):
    feeds = {"x": np.ones(1000, np.float32)}
    result = measure_latency(model_bytes(RELU), model_bytes(NEG), feeds, budget_s=0.2)
    assert result.verdict in {"faster", "same", "slower", "too-noisy"}
    assert result.ratio_low <= result.ratio <= result.ratio_high
    assert result.rounds >= 3
    assert result.cpu_interval[0] <= result.cpu_ratio <= result.cpu_interval[1]
    for side in (result.before, result.after):
        assert 0 < side.p10_ms <= side.median_ms <= side.p99_ms
        assert side.runs >= result.rounds
    assert result.to_dict()["before"]["runs"] == result.before.runs


def test_cpu_time_that_is_no_measure_has_no_interval(model_bytes):
    feeds = {"x": np.ones(10, np.float32)}
    several = measure_latency(
        model_bytes(RELU), model_bytes(NEG), feeds, budget_s=0.1, options=SessionOptions(threads=2)
    )
    assert several.cpu_interval is None
    still = module._Samples((1, 1), [(Timing(2.0, 0.0, 0), Timing(1.0, 0.0, 0))] * 3)
    assert module._cpu_interval(still, 0) is None


def test_models_that_fail_are_errors(model_bytes):
    feeds = {"x": np.ones(10, np.float32)}
    with pytest.raises(SessionLoadError):
        measure_latency(model_bytes(RELU), b"nonsense", feeds, budget_s=0.1)
    with pytest.raises(RunError):
        measure_latency(model_bytes(RELU), model_bytes(NEG), {"z": feeds["x"]}, budget_s=0.1)


def test_cold_start_reports_time_and_memory(model_bytes, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(model_bytes(NEG))
    small = measure_cold_start(path, {"x": np.ones(10, np.float32)})
    large = measure_cold_start(path, {"x": np.ones(20_000_000, np.float32)})
    assert small.load_ms > 0
    assert small.first_run_ms > 0
    assert small.peak_rss_bytes >= small.base_rss_bytes > 0
    assert large.peak_rss_bytes > small.peak_rss_bytes + 80_000_000
