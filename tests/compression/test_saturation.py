"""Sums of 16 bits: what saturates, and by how much."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.compression import replay_saturation, saturation_excess


def slow(activations, weights):
    """The same by definition, pair by pair."""
    rows, depth = activations.shape
    excess, count = np.zeros((rows, weights.shape[1]), np.int64), 0
    for row in range(rows):
        for column in range(weights.shape[1]):
            for first in range(0, depth, 2):
                pair = slice(first, first + 2)
                products = activations[row, pair].astype(int) * weights[pair, column].astype(int)
                total = int(products.sum())
                kept = min(max(total, -32768), 32767)
                excess[row, column] += total - kept
                count += total != kept
    return excess, count


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 9), st.integers(1, 6))
def test_only_pairs_at_risk_are_formed_and_the_result_is_that_of_all(seed, rows, depth, columns):
    random = np.random.default_rng(seed)
    activations = random.choice(np.array([0, 3, 200, 255], np.uint8), (rows, depth))
    weights = random.choice(np.array([-128, -90, 0, 70, 127], np.int8), (depth, columns))
    excess, count = saturation_excess(activations, weights)
    wanted, wanted_count = slow(activations, weights)
    np.testing.assert_array_equal(excess, wanted)
    assert count == wanted_count


def test_the_largest_sum_loses_half_and_a_pair_is_two_neighbours():
    activations = np.full((1, 4), 255, np.uint8)
    weights = np.array([[127], [127], [127], [-127]], np.int8)
    excess, count = saturation_excess(activations, weights)
    assert (excess.item(), count) == (2 * 255 * 127 - 32767, 1)


def test_seven_bits_never_saturate():
    activations = np.full((3, 64), 255, np.uint8)
    assert saturation_excess(activations, np.full((64, 5), 64, np.int8))[1] == 0
    assert saturation_excess(activations, np.full((64, 5), -64, np.int8))[1] == 0


def test_seven_bits_are_wanted_where_saturation_costs_more_than_they():
    random = np.random.default_rng(0)
    activations = random.integers(0, 256, (64, 128)).astype(np.uint8)
    wide = random.integers(-127, 128, (128, 16)).astype(np.int8)
    narrow = np.clip(random.normal(0, 20, (128, 16)), -127, 127).astype(np.int8)
    harmed = replay_saturation(activations, wide, 128, np.ones((), np.float32))
    unharmed = replay_saturation(activations, narrow, 128, np.ones((), np.float32))
    assert harmed.rate > 0.01
    assert harmed.is_worse_than_seven_bits
    assert harmed.saturated_sqnr_db < harmed.sqnr_db - 10
    assert not unharmed.is_worse_than_seven_bits


def test_results_of_several_samples_add_up():
    random = np.random.default_rng(1)
    activations = random.integers(0, 256, (8, 10)).astype(np.uint8)
    weights = random.integers(-127, 128, (10, 4)).astype(np.int8)
    scale = random.uniform(0.1, 1, 4).astype(np.float32)
    whole = replay_saturation(activations, weights, 99, scale)
    parts = sum(
        (
            replay_saturation(half, weights, 99, scale)
            for half in (activations[3:], activations[:3])
        ),
        start=replay_saturation(activations[:0], weights, 99, scale),
    )
    assert (parts.pairs, parts.saturated) == (whole.pairs, whole.saturated)
    assert parts.lost == pytest.approx(whole.lost)
    assert parts.rounding == pytest.approx(whole.rounding)
    assert parts.sqnr_db == pytest.approx(whole.sqnr_db)
