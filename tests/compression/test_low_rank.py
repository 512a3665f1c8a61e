"""Products of two thin matrices: the nearest there are, by what they make of inputs."""

import numpy as np
import pytest

from graphopt.compression.low_rank import decompose, followed_matrix, rank_of_ratio


def data(inputs=24, outputs=16, rows=2000):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, inputs)) @ rng.standard_normal((inputs, inputs))
    return x, rng.standard_normal((inputs, outputs))


def error(x, matrix, factors):
    return np.square(x @ (matrix - factors[0] @ factors[1])).sum(axis=1).mean()


@pytest.mark.parametrize("rank", [1, 5, 15])
def test_error_of_a_rank_is_what_its_singular_values_say(rank):
    x, matrix = data()
    found = decompose(matrix, x.T @ x / len(x), damping=1e-12)
    expected = np.square(found.values[rank:]).sum()
    assert error(x, matrix, found.factors(rank)) == pytest.approx(expected, rel=1e-6)
    whole = np.square(x @ matrix).sum(axis=1).mean()
    assert found.lost_share(rank) == pytest.approx(expected / whole, rel=1e-6)


def test_inputs_count():
    x, matrix = data()
    plain = error(x, matrix, decompose(matrix).factors(6))
    whitened = error(x, matrix, decompose(matrix, x.T @ x / len(x)).factors(6))
    assert whitened < 0.6 * plain


def test_all_factors_are_the_matrix():
    x, matrix = data()
    for covariance in (None, x.T @ x / len(x)):
        first, second = decompose(matrix, covariance).factors(16)
        np.testing.assert_allclose(first @ second, matrix, atol=1e-9)


def test_rank_of_energy_is_the_least_that_keeps_it():
    x, matrix = data()
    found = decompose(matrix, x.T @ x / len(x))
    for energy in (0.5, 0.9, 0.999, 1.0):
        rank = found.rank_of_energy(energy)
        assert found.lost_share(rank) <= 1 - energy + 1e-9
        assert rank == 1 or found.lost_share(rank - 1) > 1 - energy


def test_rank_of_ratio_keeps_to_the_share():
    assert rank_of_ratio(384, 1536, 0.5) == 153
    assert rank_of_ratio(2, 2, 0.01) == 1


def test_nothing_is_fitted_to_inputs_that_are_zero():
    _, matrix = data()
    assert decompose(matrix, np.zeros((24, 24))) is None


def test_followed_matrix_undoes_what_happened_to_the_inputs():
    x, matrix = data()
    changed = x @ (np.eye(24) + 0.1 * np.random.default_rng(1).standard_normal((24, 24)))
    covariance, cross = changed.T @ changed / len(x), changed.T @ x / len(x)
    found = followed_matrix(matrix, covariance, cross, ridge=1e-9)
    assert np.square(changed @ found - x @ matrix).mean() < 1e-6 * np.square(x @ matrix).mean()
    anchored = followed_matrix(matrix, covariance, cross, ridge=1e9)
    np.testing.assert_allclose(anchored, matrix, atol=1e-6)
