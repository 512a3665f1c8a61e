"""The head of an early exit, its threshold, and what is claimed of it."""

import numpy as np
import pytest

from graphopt.compression.compensation import Affine
from graphopt.compression.exit_head import certainty_of, choose_exit, fit_head, lower_bound, softmax


def rows(count, seed=0):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, 5)) * [1, 10, 0.1, 1, 0] + [0, 0, 0, 0, 7]
    return features, features @ (rng.normal(size=(5, 3)) / [[1], [10], [0.1], [1], [1]])


def test_linear_scores_are_found():
    features, scores = rows(400)
    head = fit_head(features[:200], scores[:200], features[200:], scores[200:])
    own = features @ head.matrix + head.bias
    assert (own.argmax(1) == scores.argmax(1)).mean() > 0.99
    assert not head.matrix[4].any()  # what never changes gets no weight


def test_least_certainty_for_the_agreement_that_is_asked_for():
    rng = np.random.default_rng(3)
    scores = rng.normal(size=(1000, 4)) * 3
    noisy = scores + rng.normal(size=scores.shape)
    head = Affine(np.eye(4), np.zeros(4))
    for certainty in ("probability", "entropy"):
        rule = choose_exit(head, noisy, scores, certainty=certainty, agreement=0.98)
        leaves = certainty_of(noisy, certainty) > rule.threshold
        wrong = (noisy.argmax(1) != scores.argmax(1)) & leaves
        assert wrong.sum() <= 10  # half of the 20 that are allowed
        assert rule.leaving == leaves.mean() > 0.3
    assert choose_exit(head, scores, scores, certainty="entropy", agreement=1.0).leaving == 1.0


def test_nobody_leaves_where_the_surest_is_wrong():
    head = Affine(np.eye(2), np.zeros(2))
    features = np.array([[9.0, 0.0], [1.0, 0.0]])
    rule = choose_exit(head, features, -features, certainty="probability", agreement=1.0)
    assert rule.threshold == np.inf
    assert rule.leaving == 0.0


def test_certainty_that_single_precision_cannot_tell_lets_nobody_leave():
    # Both probabilities are 1 to seven digits: what the graph computes cannot tell them apart.
    scores = np.array([[30.0, 0.0], [20.0, 0.0]])
    wanted = scores * [[1.0], [-1.0]]
    head = Affine(np.eye(2), np.zeros(2))
    rule = choose_exit(head, scores, wanted, certainty="probability", agreement=1.0)
    assert rule.leaving == 0.0


def test_certainties():
    scores = np.array([[0.0, 0.0], [50.0, 0.0]])
    assert certainty_of(scores, "probability") == pytest.approx([0.5, 1.0])
    assert certainty_of(scores, "entropy") == pytest.approx([-np.log(2), 0.0], abs=1e-6)
    assert softmax(np.array([[1000.0, 0.0]])) == pytest.approx(np.array([[1.0, 0.0]]))


@pytest.mark.parametrize(
    ("successes", "trials", "bound"),
    [(100, 100, 0.05 ** (1 / 100)), (0, 10, 0.0), (10, 10, 0.05**0.1), (95, 100, 0.8977)],
)
def test_lower_bound(successes, trials, bound):
    assert lower_bound(successes, trials) == pytest.approx(bound, abs=1e-4)
