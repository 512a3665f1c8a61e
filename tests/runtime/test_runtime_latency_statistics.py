"""The verdict on synthetic timings: spikes, drift, bursts, identical and different models."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.runtime.latency_statistics import (
    Interval,
    judge,
    low_quantile_ratio,
    ratio_interval,
)


def timings(rng, milliseconds, rounds, *, jitter=0.02):
    return milliseconds * (1 + jitter * np.abs(rng.standard_normal(rounds)))


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def verdict(baseline, candidate, *, cpu=None, margin=0.03):
    return judge(ratio_interval(baseline, candidate), cpu, margin=margin).verdict


@pytest.mark.parametrize(
    ("after", "expected"),
    [(10, "same"), (10.1, "same"), (5, "faster"), (9, "faster"), (12, "slower")],
)
def test_quiet_timings(rng, after, expected):
    assert verdict(timings(rng, 10, 60), timings(rng, after, 60)) == expected


def test_interval_holds_the_true_ratio_most_of_the_time(rng):
    hits = 0
    for seed in range(60):
        interval = ratio_interval(timings(rng, 10, 60), timings(rng, 8, 60), seed=seed)
        hits += interval.low <= 0.8 <= interval.high
    assert hits >= 50


def test_spikes_that_hit_the_slower_model_more_do_not_move_the_ratio(rng):
    baseline, candidate = timings(rng, 23, 200), timings(rng, 10, 200)
    # The share of interrupted runs grows with their length: what makes medians lie.
    baseline[rng.random(200) < 0.7] *= 3
    candidate[rng.random(200) < 0.3] *= 3
    assert np.median(candidate) / np.median(baseline) < 0.25
    interval = ratio_interval(baseline, candidate)
    assert interval.ratio == pytest.approx(10 / 23, rel=0.03)
    assert 0.41 < interval.low <= interval.high < 0.46


def test_drift_of_the_machine_that_both_share_is_harmless(rng):
    slowing = np.linspace(1, 1.5, 100)
    baseline, candidate = timings(rng, 10, 100) * slowing, timings(rng, 6, 100) * slowing
    assert low_quantile_ratio(baseline, candidate) == pytest.approx(0.6, rel=0.03)
    assert verdict(baseline, candidate) == "faster"


def test_drift_of_one_model_alone_is_noise(rng):
    slowing = np.where(np.arange(100) < 50, 0.9, 1.15)
    assert verdict(timings(rng, 10, 100), timings(rng, 10, 100) * slowing) == "too-noisy"


def test_interval_is_as_wide_as_bursts_make_it(rng):
    quiet, other = timings(rng, 10, 120), timings(rng, 10, 120)
    bursts = np.repeat(1 + 0.3 * rng.random(12), 10)
    assert ratio_interval(quiet, other * bursts).width > ratio_interval(quiet, other).width


def test_few_wild_timings_are_too_noisy(rng):
    baseline, candidate = 10 * rng.lognormal(0, 1, 6), 10 * rng.lognormal(0, 1, 6)
    assert verdict(baseline, candidate) == "too-noisy"


def test_interval_is_the_same_for_the_same_seed(rng):
    baseline, candidate = timings(rng, 10, 50), timings(rng, 9, 50)
    assert ratio_interval(baseline, candidate, seed=3) == ratio_interval(
        baseline, candidate, seed=3
    )


def test_one_round_is_enough_for_a_ratio():
    interval = ratio_interval(np.array([10.0]), np.array([5.0]))
    assert (interval.ratio, interval.low, interval.high) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("wall", "cpu", "expected"),
    [
        (Interval(0.5, 0.48, 0.52), 0.51, "faster"),
        (Interval(0.5, 0.48, 0.52), None, "faster"),
        (Interval(0.5, 0.48, 0.52), 0.8, "faster"),
        (Interval(0.5, 0.48, 0.52), 0.98, "too-noisy"),
        (Interval(0.95, 0.93, 0.96), 1.02, "too-noisy"),
        (Interval(1.2, 1.1, 1.3), 0.99, "too-noisy"),
        (Interval(1.2, 1.1, 1.3), 1.18, "slower"),
        (Interval(1.0, 0.99, 1.01), 1.01, "same"),
        (Interval(1.0, 0.99, 1.01), 1.5, "too-noisy"),
        (Interval(1.0, 0.9, 1.1), 1.0, "too-noisy"),
        (Interval(0.4, 0.3, 0.7), 0.4, "faster"),
        (Interval(0.4, 0.3, 0.7), None, "too-noisy"),
        (Interval(0.9, 0.5, 1.1), 0.9, "too-noisy"),
        (Interval(0.98, 0.972, 0.99), 0.98, "same"),
    ],
)
def test_judgement(wall, cpu, expected):
    judgement = judge(wall, cpu, margin=0.03)
    assert judgement.verdict == expected
    assert judgement.reason


@pytest.mark.parametrize(
    ("wall", "cpu", "bound"),
    [
        (Interval(0.5, 0.48, 0.52), 0.51, 0.5),
        (Interval(0.5, 0.48, 0.52), 0.8, 0.8),
        (Interval(0.4, 0.3, 0.7), 0.4, 0.7),
    ],
)
def test_where_only_the_direction_is_sure_the_worst_is_promised(wall, cpu, bound):
    assert judge(wall, cpu, margin=0.03).bound == bound
