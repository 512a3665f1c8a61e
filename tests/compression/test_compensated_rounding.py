"""Rounding for the inputs that a weight sees."""

import numpy as np

from graphopt.compression import WeightView, pack_weight, unpack_weight
from graphopt.compression.compensated_rounding import round_compensated


def inputs(rows, length, seed=0):
    """Rows whose elements are much alike, as the pixels of a photograph are."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((rows, 1)) + 0.2 * rng.standard_normal((rows, length))) * 3


def test_outputs_are_nearer_than_those_of_the_nearest_integers():
    x, weight = inputs(400, 32), np.random.default_rng(1).standard_normal((5, 32))
    weight = weight.astype(np.float32)
    size = np.full(weight.shape, np.abs(weight).max() / 127, np.float32)
    integers = round_compensated(weight, size, x.T @ x / len(x), 127)
    assert np.abs(integers).max() <= 127
    assert np.array_equal(integers, np.rint(integers))

    def error(found):
        return np.square(x @ (found * size - weight).T).mean()

    assert error(integers) < 0.25 * error(np.rint(weight / size))


def test_inputs_that_tell_nothing_are_told():
    weight = np.ones((2, 4), np.float32)
    assert round_compensated(weight, weight, np.zeros((4, 4)), 127) is None
    assert round_compensated(weight, weight, np.full((4, 4), np.nan), 127) is None


def test_inputs_of_rank_one_do_no_harm():
    weight = np.random.default_rng(1).standard_normal((3, 8)).astype(np.float32)
    size = np.full(weight.shape, 0.05, np.float32)
    integers = round_compensated(weight, size, np.ones((8, 8)), 127)
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
