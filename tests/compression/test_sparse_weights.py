"""Zeros in weights: where they go, and what the other weights do about them."""

import numpy as np
import pytest

from graphopt.compression.sparse_weights import (
    NmPattern,
    Sparsity,
    removed_weights,
    sparse_compensated,
)


def inputs(length, rows=4000, seed=0):
    """Return rows whose elements go together, and their Gram matrix."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, length)) @ rng.standard_normal((length, length))
    return x, x.T @ x / rows


def weight(outputs, length, seed=1):
    return np.random.default_rng(seed).standard_normal((outputs, length)).astype(np.float32)


@pytest.mark.parametrize("by_output", [False, True])
def test_ratio_is_kept_exactly(by_output):
    scores = np.random.default_rng(0).random((6, 10))
    removed = removed_weights(scores, Sparsity(ratio=0.3, by_output=by_output))
    assert removed.sum() == 18
    if by_output:
        assert (removed.sum(axis=1) == 3).all()
    else:
        assert scores[removed].max() < scores[~removed].min()


@pytest.mark.parametrize(("inputs", "kernel"), [(8, 1), (8, 3), (7, 3), (3, 9), (5, 1)])
@pytest.mark.parametrize("pattern", [NmPattern(2, 4), NmPattern(4, 8), NmPattern(1, 4)])
def test_pattern_holds_among_inputs_at_each_place_of_the_kernel(inputs, kernel, pattern):
    scores = np.random.default_rng(0).random((5, inputs * kernel))
    kept = ~removed_weights(scores, Sparsity(pattern=pattern), kernel)
    by_place = kept.reshape(5, inputs, kernel)
    for first in range(0, inputs, pattern.of):
        group = by_place[:, first : first + pattern.of]
        assert (group.sum(axis=1) == min(pattern.kept, group.shape[1])).all()


def test_the_one_that_stays_takes_over_what_is_always_equal():
    gram = np.ones((2, 2))
    found = sparse_compensated(
        np.array([[1.0, 3.0]], np.float32), gram, Sparsity(ratio=0.5), damping=1e-6
    )
    np.testing.assert_allclose(found, [[0.0, 4.0]], atol=1e-4)


def test_one_zero_is_the_step_of_the_optimal_brain_surgeon():
    _x, gram = inputs(5)
    before = weight(1, 5)
    before[0, 0] = 1e-3  # the first to go, so that all others can make up for it
    after = sparse_compensated(before, gram, Sparsity(ratio=0.2), damping=1e-9)
    inverse = np.linalg.inv(gram)
    expected = before[0] - before[0, 0] / inverse[0, 0] * inverse[0]
    np.testing.assert_allclose(after[0], expected, atol=1e-4)


@pytest.mark.parametrize(
    "wanted",
    [Sparsity(ratio=0.5), Sparsity(ratio=0.5, by_output=True), Sparsity(pattern=NmPattern(2, 4))],
)
def test_making_up_for_zeros_is_better_than_the_best_zeros(wanted):
    length = 300  # more than one batch
    x, gram = inputs(length)
    before = weight(20, length)
    scores = np.abs(before) * np.sqrt(np.diag(gram))
    masked = np.where(removed_weights(scores, wanted), 0, before)
    after = sparse_compensated(before, gram, wanted)
    assert np.count_nonzero(after) == np.count_nonzero(masked)
    error = [np.square(x @ (new - before).T).mean() for new in (after, masked)]
    assert error[0] < 0.75 * error[1]


@pytest.mark.parametrize(("inputs_", "kernel"), [(8, 9), (3, 9), (6, 4)])
def test_compensated_pattern_holds_in_kernels_too(inputs_, kernel):
    _, gram = inputs(inputs_ * kernel)
    after = sparse_compensated(
        weight(4, inputs_ * kernel), gram, Sparsity(pattern=NmPattern(2, 4)), kernel=kernel
    )
    by_place = (after != 0).reshape(4, inputs_, kernel)
    for first in range(0, inputs_, 4):
        group = by_place[:, first : first + 4]
        assert (group.sum(axis=1) == min(2, group.shape[1])).all()


def test_nothing_is_fitted_to_inputs_that_are_zero():
    assert sparse_compensated(weight(2, 4), np.zeros((4, 4)), Sparsity()) is None
