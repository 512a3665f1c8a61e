"""Ranges from histograms, against the same searches done by brute force on the values."""

import math

import numpy as np
import pytest

from graphopt.calibration import RANGE_METHODS, range_of
from graphopt.calibration.thresholds import divergences, squared_errors
from graphopt.errors import OptionError
from graphopt.rewrite import RangeMethod, ValueRange
from graphopt.runtime import Histogram

SIZE = 40_000
rng = np.random.default_rng(5)
NORMAL = rng.standard_normal(SIZE)
VALUES = {
    "normal": NORMAL,
    "rectified": np.maximum(NORMAL, 0),
    "heavy": rng.laplace(size=SIZE),
    "outlier": np.append(NORMAL, [60.0]),
    "outliers": np.append(NORMAL, [-45.0, 80.0, 81.0]),
    "positive": np.abs(NORMAL) + 3.0,
    "negative": -np.abs(NORMAL) - 3.0,
    "small": NORMAL * 1e-9,
    "few": np.array([-1.0, 0.25, 0.5, 2.0]),
    "two": np.array([0.0, 5.0]),
}
SYMMETRIC = [False, True]


def histogram(values):
    made = Histogram()
    made.add(np.asarray(values, np.float64))
    return made


def found(values, name, *, symmetric=False, **settings):
    levels = 255 if symmetric else 256
    method = RangeMethod(name=name, symmetric=symmetric, levels=levels, **settings)
    return range_of(histogram(values), method)


def quantized(values, low, high, *, symmetric):
    """Quantization as the runtime does it, without a histogram in sight."""
    low, high = min(low, 0.0), max(high, 0.0)
    if symmetric:
        scale, zero, least, most = max(-low, high) / 127, 0, -127, 127
    else:
        scale, least, most = (high - low) / 255, 0, 255
        zero = round(-low / scale)
    return (np.clip(np.rint(values / scale) + zero, least, most) - zero) * scale


def error(values, low, high, *, symmetric):
    return float(np.square(values - quantized(values, low, high, symmetric=symmetric)).mean())


@pytest.mark.parametrize("name", VALUES)
def test_minmax_is_what_was_seen(name):
    values = VALUES[name]
    assert found(values, "minmax") == ValueRange(values.min(), values.max())


@pytest.mark.parametrize("percentile", [100.0, 99.9, 99.0, 90.0])
@pytest.mark.parametrize("name", VALUES)
def test_percentile_is_within_a_cell_of_the_exact_one(name, percentile):
    values = np.sort(VALUES[name])
    width = histogram(values).width
    cut = math.floor((100 - percentile) / 200 * len(values))
    exact = min(values[cut], 0.0), max(values[len(values) - 1 - cut], 0.0)
    span = found(values, "percentile", percentile=percentile)
    assert exact[0] - width <= min(span.minimum, 0.0) <= exact[0]
    assert exact[1] <= max(span.maximum, 0.0) <= exact[1] + width
    magnitudes = np.sort(np.abs(values))
    bound = magnitudes[len(values) - 1 - math.floor((100 - percentile) / 100 * len(values))]
    span = found(values, "percentile", percentile=percentile, symmetric=True)
    reached = max(-min(span.minimum, 0.0), span.maximum, 0.0)
    assert bound <= reached + 1e-12
    assert reached <= bound + width


@pytest.mark.parametrize("symmetric", SYMMETRIC)
@pytest.mark.parametrize("name", VALUES)
def test_least_error_is_as_small_as_brute_force_finds_it(name, symmetric):
    values = VALUES[name]
    span = found(values, "mse", symmetric=symmetric)
    ours = error(values, span.minimum, span.maximum, symmetric=symmetric)
    low, high = min(values.min(), 0.0), max(values.max(), 0.0)
    parts = np.arange(1, 25) / 24
    lows = low * parts if low < 0 and not symmetric else [low]
    best = min(
        error(values, a, high * b, symmetric=symmetric)
        if not symmetric
        else error(values, -max(-low, high) * b, max(-low, high) * b, symmetric=True)
        for a in lows
        for b in parts
    )
    assert ours <= best * 1.03 + 1e-30
    assert ours <= error(values, low, high, symmetric=symmetric) * 1.001 + 1e-30


def brute_divergence(counts, start, end, levels):
    """The definition, cell by cell and level by level."""
    kept = counts[start:end].astype(float)
    clipped = kept.copy()
    clipped[0] += counts[:start].sum()
    clipped[-1] += counts[end:].sum()
    spread = np.zeros(len(kept))
    for level in range(levels):
        first, last = (part * len(kept) // levels for part in (level, level + 1))
        filled = clipped[first:last] > 0
        if filled.any():
            mass = kept[first:last].sum() or 1.0
            spread[first:last][filled] = mass / filled.sum()
    filled = clipped > 0
    one, two = clipped[filled] / clipped.sum(), spread[filled] / spread.sum()
    return float((one * np.log(one / two)).sum())


@pytest.mark.parametrize("seed", range(60))
def test_divergence_is_that_of_its_definition(seed):
    draw = np.random.default_rng(seed)
    cells = draw.integers(1, 60)
    counts = draw.integers(0, 4, cells) * draw.integers(0, 50, cells)
    counts[draw.integers(cells)] += 1
    starts = draw.integers(0, cells, 8)
    ends = np.array([draw.integers(start + 1, cells + 1) for start in starts])
    levels = int(draw.integers(1, 20))
    expected = [brute_divergence(counts, *pair, levels) for pair in zip(starts, ends, strict=True)]
    assert np.allclose(divergences(counts, starts, ends, levels), expected, atol=1e-9)


@pytest.mark.parametrize("symmetric", SYMMETRIC)
@pytest.mark.parametrize("name", ["normal", "rectified", "heavy", "outlier", "outliers"])
def test_entropy_finds_nearly_the_best_of_all_bounds(name, symmetric):
    """The search takes steps; every single bound of one side is tried here."""
    values = VALUES[name]
    made = histogram(values)
    counts, zero = made.counts.copy(), -made.first
    counts[zero] -= made.zeros
    levels = 128 if symmetric else 256
    span = found(values, "entropy", symmetric=symmetric)
    if symmetric:
        counts = np.array(
            [
                counts[zero + k : zero + k + 1].sum() + (counts[zero - 1 - k] if k < zero else 0)
                for k in range(max(zero, len(counts) - zero))
            ]
        )
        start, ours = 0, math.ceil(max(-span.minimum, span.maximum) / made.width)
    else:
        start = round(span.minimum / made.width) + zero if span.minimum < 0 else zero
        ours = math.ceil(span.maximum / made.width) + zero
    total = counts.sum()
    ends = np.arange(start + levels, len(counts) + 1)
    ends = ends[counts.sum() - np.cumsum(counts)[ends - 1] <= 0.01 * total]
    best = min(divergences(counts, start, ends, levels))
    (mine,) = divergences(counts, start, np.array([ours]), levels)
    assert mine <= best * 1.1 + 1e-5


def test_entropy_cuts_a_far_outlier_and_keeps_the_rest():
    for symmetric in SYMMETRIC:
        assert 3.0 < found(VALUES["outlier"], "entropy", symmetric=symmetric).maximum < 8.0


@pytest.mark.parametrize("symmetric", SYMMETRIC)
@pytest.mark.parametrize("method", RANGE_METHODS)
@pytest.mark.parametrize("name", VALUES)
def test_no_bound_is_beyond_what_was_seen(name, method, symmetric):
    values = VALUES[name]
    span = found(values, method, symmetric=symmetric)
    assert values.min() <= span.minimum <= span.maximum <= values.max()


@pytest.mark.parametrize("method", RANGE_METHODS)
def test_nothing_zeros_and_what_is_not_finite(method):
    assert found([], method) is None
    assert found([0.0, 0.0], method) == ValueRange(0.0, 0.0)
    assert found([0.5], method) == ValueRange(0.5, 0.5)
    assert math.isnan(found([1.0, np.inf], method).minimum)
    assert math.isnan(found([np.nan, 2.0], method).maximum)


def test_entropy_does_not_clip_nearly_all_into_one_cell():
    for name in ("positive", "negative"):
        span = found(VALUES[name], "entropy")
        clipped = (VALUES[name] < span.minimum) | (VALUES[name] > span.maximum)
        assert clipped.mean() <= 0.01


def test_squared_errors_are_exact_where_values_lie_evenly():
    """Against sums over many values in each of a few cells that cut across the steps."""
    edges = np.linspace(-1.0, 3.0, 1000)
    heights = np.random.default_rng(0).random(999)
    inner = (np.arange(200) + 0.5) / 200
    values = edges[:-1, None] + inner * np.diff(edges)[:, None]
    for low, high, symmetric in ((-1.0, 3.0, False), (-0.3, 2.0, False), (-1.5, 1.5, True)):
        bounds = np.array([low]), np.array([high])
        levels = 255 if symmetric else 256
        (total,) = squared_errors(edges, heights, *bounds, levels, symmetric=symmetric)
        far = np.square(values - quantized(values, low, high, symmetric=symmetric)).mean(axis=1)
        expected = float((far * heights * np.diff(edges)).sum())
        assert abs(total - expected) <= 1e-3 * expected


@pytest.mark.parametrize(
    "method",
    [RangeMethod(name="median"), RangeMethod(name="percentile", percentile=0.0)],
)
def test_unknown_methods_are_refused(method):
    with pytest.raises(OptionError):
        range_of(histogram([1.0]), method)
