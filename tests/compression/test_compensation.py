"""Least squares from moments: against rows, held-out choice, and what it must not break."""

import numpy as np
import pytest

from graphopt.compression.compensation import (
    Affine,
    NormalEquations,
    best_fit,
    bias_fit,
    ridge_fit,
)


def equations(rows, wanted):
    ones = np.hstack([rows, np.ones((len(rows), 1))])
    count = len(rows)
    return NormalEquations(
        count, ones.T @ ones / count, ones.T @ wanted / count, float((wanted**2).sum() / count)
    )


def layer(rng, inputs, outputs):
    return Affine(rng.normal(size=(inputs, outputs)), rng.normal(size=outputs))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_error_is_that_of_the_rows(rng):
    rows, some = rng.normal(size=(50, 4)), layer(rng, 4, 3)
    wanted = rng.normal(size=(50, 3)) + 5.0
    off = rows @ some.matrix + some.bias - wanted
    expected = (off**2).sum() / ((wanted - wanted.mean(0)) ** 2).sum()
    assert equations(rows, wanted).error(some) == pytest.approx(expected)


def test_what_wants_constants_has_no_relative_error(rng):
    rows = rng.normal(size=(8, 2))
    assert equations(rows, np.zeros((8, 1))).error(layer(rng, 2, 1)) is None


def test_ridge_fit_finds_the_least_squares_of_the_rows(rng):
    rows, wanted = rng.normal(size=(60, 5)), rng.normal(size=(60, 2))
    found = ridge_fit(equations(rows, wanted), layer(rng, 5, 2), 0.0)
    ones = np.hstack([rows, np.ones((60, 1))])
    expected = np.linalg.lstsq(ones, wanted, rcond=None)[0]
    np.testing.assert_allclose(found.layer.stacked(), expected, atol=1e-6)


def test_a_strong_pull_keeps_what_stayed(rng):
    prior = layer(rng, 3, 2)
    found = ridge_fit(equations(rng.normal(size=(9, 3)), rng.normal(size=(9, 2))), prior, 1e9)
    np.testing.assert_allclose(found.layer.stacked(), prior.stacked(), atol=1e-6)


def test_inputs_that_are_always_zero_keep_their_weights(rng):
    rows = rng.normal(size=(40, 3))
    rows[:, 1] = 0.0
    prior = layer(rng, 3, 2)
    found = ridge_fit(equations(rows, rng.normal(size=(40, 2))), prior, 0.01)
    np.testing.assert_allclose(found.layer.matrix[1], prior.matrix[1], atol=1e-9)


def test_bias_fit_meets_the_mean_and_leaves_the_matrix(rng):
    rows, wanted = rng.normal(size=(30, 3)), rng.normal(size=(30, 2)) + 4.0
    prior = layer(rng, 3, 2)
    found = bias_fit(equations(rows, wanted), prior).layer
    assert found.matrix is prior.matrix
    np.testing.assert_allclose((rows @ found.matrix + found.bias).mean(0), wanted.mean(0))


def test_joined_is_all_rows_together(rng):
    rows, wanted = rng.normal(size=(30, 3)), rng.normal(size=(30, 2))
    both = equations(rows[:10], wanted[:10]).joined(equations(rows[10:], wanted[10:]))
    whole = equations(rows, wanted)
    assert both.count == 30
    np.testing.assert_allclose(both.system, whole.system)
    np.testing.assert_allclose(both.target, whole.target)
    assert both.energy == pytest.approx(whole.energy)


def test_best_fit_takes_least_squares_where_it_holds_for_other_rows(rng):
    truth, prior = layer(rng, 4, 2), layer(rng, 4, 2)
    rows = rng.normal(size=(200, 4))
    wanted = rows @ truth.matrix + truth.bias
    held = equations(rows[150:], wanted[150:])
    found = best_fit(equations(rows[:150], wanted[:150]), held, prior)
    assert found.method == "least-squares"
    assert found.ridge == 1e-3
    assert found.error < held.error(prior)


def test_best_fit_leaves_alone_what_it_cannot_make_better(rng):
    """Few rows of noise: what is fitted to them is worse on all others."""
    prior = layer(rng, 30, 2)
    rows = rng.normal(size=(530, 30))
    wanted = rows @ prior.matrix + prior.bias + rng.normal(size=(530, 2))
    held = equations(rows[30:], wanted[30:])
    found = best_fit(equations(rows[:30], wanted[:30]), held, prior, ridges=(0.0,))
    assert found.method in ("off", "bias")
    assert found.error <= held.error(prior)
