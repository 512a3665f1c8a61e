"""The order in which units go, against removing them by brute force."""

import numpy as np
import pytest

from graphopt.compression.obs import ObsLayer, removal_scores


def problem(seed, inputs, outputs, block=1):
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(inputs, inputs))
    units = np.repeat(np.arange(inputs // block), block)
    return ObsLayer(mixing @ mixing.T / inputs, rng.normal(size=(inputs, outputs)), units)


def cost(layer, gone):
    """Return the least error that is left when some inputs are gone and all else makes up for it."""
    size = len(layer.covariance)
    damped = layer.covariance + 1e-2 * np.diag(layer.covariance).mean() * np.eye(size)
    inverse = np.linalg.inv(damped)
    block = np.linalg.inv(inverse[np.ix_(gone, gone)])
    return float(np.trace(layer.weight[gone].T @ block @ layer.weight[gone]))


@pytest.mark.parametrize("block", [1, 3])
def test_each_unit_that_goes_is_the_one_that_costs_least(block):
    layer = problem(1, 12, 5, block)
    count = 12 // block
    scores = removal_scores([layer], count, count - 1)
    gone = []
    for unit in np.argsort(scores)[: count - 1].tolist():
        left = [one for one in range(count) if one not in gone]
        costs = {
            one: cost(layer, [i for i in range(12) if layer.units[i] in [*gone, one]])
            for one in left
        }
        assert min(costs, key=costs.get) == unit
        gone.append(unit)


def test_a_twin_goes_first_as_the_other_makes_up_for_it():
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(400, 4))
    rows[:, 3] = rows[:, 0] * 2.0  # as large as any, and known from another
    layer = ObsLayer(np.cov(rows.T), np.full((4, 3), 5.0), np.arange(4))
    assert int(np.argmin(removal_scores([layer], 4, 1))) in (0, 3)


def test_units_that_stay_score_above_all_that_go():
    layer = problem(3, 40, 8)
    scores = removal_scores([layer], 40, 10)
    order = np.argsort(scores)
    assert scores[order[9]] < scores[order[10]]
    assert np.isfinite(scores).all()
    assert len(set(scores[order[:10]])) == 10  # no ties: any number of them can go


def test_errors_of_all_layers_that_read_a_unit_count():
    light, heavy = problem(4, 6, 3), problem(5, 6, 3)
    strong = ObsLayer(heavy.covariance, heavy.weight * 100.0, heavy.units)
    together = removal_scores([light, strong], 6, 5)
    assert np.argmin(together) == np.argmin(removal_scores([strong], 6, 5))


def test_the_last_unit_stays():
    assert np.isfinite(removal_scores([problem(6, 3, 2)], 3, 3)).all()


def test_inputs_that_never_vary_cost_what_their_weights_say():
    layer = ObsLayer(np.zeros((3, 3)), np.array([[3.0], [1.0], [2.0]]), np.arange(3))
    assert np.argsort(removal_scores([layer], 3, 2)).tolist() == [1, 2, 0]
