"""Rounding for the inputs that a weight sees."""

import numpy as np
import pytest

from graphopt.compression import WeightView, pack_weight, unpack_weight
from graphopt.compression.compensated_rounding import compensation_for, round_compensated
from graphopt.compression.inverse_factor import inverse_factor


def inputs(rows, length, seed=0):
    """Rows whose elements are much alike, as the pixels of a photograph are."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((rows, 1)) + 0.2 * rng.standard_normal((rows, length))) * 3


def test_outputs_are_nearer_than_those_of_the_nearest_integers():
    x, weight = inputs(400, 32), np.random.default_rng(1).standard_normal((5, 32))
    weight = weight.astype(np.float32)
    size = np.full(weight.shape, np.abs(weight).max() / 127, np.float32)
    integers = round_compensated(weight, size, compensation_for(x.T @ x / len(x)), 127)
    assert np.abs(integers).max() <= 127
    assert np.array_equal(integers, np.rint(integers))

    def error(found):
        return np.square(x @ (found * size - weight).T).mean()

    assert error(integers) < 0.25 * error(np.rint(weight / size))


def test_inputs_that_tell_nothing_are_told():
    assert compensation_for(np.zeros((4, 4))) is None
    assert compensation_for(np.full((4, 4), np.nan)) is None


@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 200])
def test_the_factor_is_that_of_the_inverse(length):
    x = np.random.default_rng(0).standard_normal((2 * length, length))
    gram = x.T @ x
    factor = inverse_factor(gram, damping=0.01).astype(np.float64)
    damped = gram + 0.01 * np.diagonal(gram).mean() * np.eye(length)
    assert np.array_equal(factor, np.triu(factor))
    np.testing.assert_allclose(factor.T @ factor @ damped, np.eye(length), atol=1e-5)


def test_inputs_of_rank_one_do_no_harm():
    weight = np.random.default_rng(1).standard_normal((3, 8)).astype(np.float32)
    size = np.full(weight.shape, 0.05, np.float32)
    integers = round_compensated(weight, size, compensation_for(np.ones((8, 8))), 127)
    assert np.abs((integers * size - weight).sum(axis=1)).max() <= 0.05


def test_groups_have_matrices_of_their_own():
    weight = np.random.default_rng(1).standard_normal((4, 1, 3, 3)).astype(np.float32)
    x = [inputs(200, 9, seed) for seed in (2, 3)]
    grams = np.stack([rows.T @ rows / 200 for rows in x])
    view = WeightView(4, 9, 1, 9)
    packed = pack_weight(weight, view, grams=grams)
    alone = pack_weight(weight[2:], WeightView(2, 9, 1, 9), grams=grams[1:])
    assert np.array_equal(packed.integers[2:], alone.integers)
    restored = unpack_weight(packed, weight.shape)
    assert np.abs(restored - weight).max() < 0.2
