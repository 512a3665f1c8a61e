"""How many units of each group go by what cutting each alone does to the outputs."""

import itertools
import math

import numpy as np
import pytest

from graphopt.calibration import Calibrator, SampleMeasure, load_samples
from graphopt.compression.unit_allocation import Loss, cheapest_counts
from graphopt.compression.unit_selection import Ranking, Selection
from graphopt.ir import from_text
from graphopt.pipeline import Pipeline


def test_losses_between_and_beyond_what_was_measured():
    loss = Loss(1.0, ((4, 0.4), (8, 0.2), (12, math.nan), (16, 0.1)))
    found = loss.at(np.array([0, 2, 4, 6, 8, 9, 16]))
    # More units are never less of a loss, and behind an unknown point nothing is known.
    assert found.tolist() == [0.0, 0.2, 0.4, 0.4, 0.4, math.inf, math.inf]


def everything(losses, offered, share):
    """Return the least sum of losses that saves enough, by trying all."""
    whole = sum(loss.weight * max(counts) for loss, counts in zip(losses, offered, strict=True))
    sums = [
        sum(float(loss.at(np.array([n]))[0]) for loss, n in zip(losses, some, strict=True))
        for some in itertools.product(*offered)
        if sum(loss.weight * n for loss, n in zip(losses, some, strict=True)) >= share * whole
    ]
    return min(sums)


@pytest.mark.parametrize("seed", range(8))
def test_no_other_numbers_that_save_as_much_lose_less(seed):
    rng = np.random.default_rng(seed)
    losses, offered = [], []
    for _ in range(4):
        size = int(rng.integers(3, 6))
        errors = np.cumsum(rng.random(3) ** 3)
        points = zip((size // 3 or 1, size - 1, size), errors.tolist(), strict=True)
        losses.append(Loss(float(rng.integers(1, 5)), tuple(points)))
        offered.append(list(range(size + 1)))
    found = cheapest_counts(losses, offered, 0.5)
    least = everything(losses, offered, 0.5)
    lost = sum(float(loss.at(np.array([n]))[0]) for loss, n in zip(losses, found, strict=True))
    saved = sum(loss.weight * n for loss, n in zip(losses, found, strict=True))
    whole = sum(loss.weight * counts[-1] for loss, counts in zip(losses, offered, strict=True))
    assert saved >= 0.5 * whole * 0.998
    assert lost <= least + 1e-9


def test_where_nothing_saves_enough_as_much_goes_as_is_known():
    losses = [Loss(1.0, ((2, 0.1),)), Loss(1.0, ())]
    assert cheapest_counts(losses, [range(9), range(9)], 0.9) == [2, 0]
    assert cheapest_counts([], [], 0.5) == []


def test_a_quiet_group_loses_what_a_loud_one_keeps():
    names = ("loud", "quiet")
    rankings = [Ranking(name, np.arange(16.0), np.ones(16, bool)) for name in names]
    losses = {
        "loud": Loss(10.0, ((4, 0.5), (8, 0.9), (12, 1.0))),
        "quiet": Loss(10.0, ((4, 0.001), (8, 0.002), (12, 0.003))),
    }
    selection = Selection(ratio=0.25, allocation="measured", multiple=4, losses=losses)
    assert [len(places) for places in selection.removals(rankings)] == [0, 8]
    # A group of which nothing is known stays.
    selection = Selection(ratio=0.25, allocation="measured", losses={"loud": losses["loud"]})
    assert len(selection.removals(rankings)[1]) == 0


def two_layers():
    """Return two blocks on a stream, the second of which hardly adds to it."""
    rng = np.random.default_rng(0)
    weights = {
        "a": rng.normal(size=(4, 16)),
        "b": rng.normal(size=(16, 4)),
        "c": rng.normal(size=(4, 16)),
        "d": rng.normal(size=(16, 4)) * 0.02,
    }
    text = ", ".join(
        f"float[{array.shape[0]},{array.shape[1]}] {name} = "
        f"{{{', '.join(f'{number:.4f}' for number in array.reshape(-1))}}}"
        for name, array in weights.items()
    )
    return from_text(
        f"(float[B,4] x) => (float[B,4] y) <{text}> {{ h = MatMul(x, a)  r = Relu(h)  "
        "f = MatMul(r, b)  s = Add(x, f)  g = MatMul(s, c)  t = Relu(g)  e = MatMul(t, d)  "
        "y = Add(s, e) }"
    )


def test_measured_curves_share_out_a_ratio_and_are_recorded():
    rng = np.random.default_rng(1)
    samples = load_samples([{"x": rng.normal(size=(64, 4)).astype(np.float32)} for _ in range(3)])
    text = "prune-neurons{ratio=0.25 allocation=measured multiple=1}"
    ledger = Pipeline.parse(text).run(
        two_layers(), statistics_provider=Calibrator(samples=samples), reproducer_dir=None
    )
    decisions = ledger.ledger.journal.decisions
    assert [len(one.removed) for one in decisions] == [8]  # all of a quarter from the quiet one
    assert [ratio for ratio, _ in decisions[0].curve] == [0.25, 0.5, 0.75]
    assert "as many as the outputs bear" in decisions[0].reason


def test_trials_rank_nothing_again_and_run_the_model_as_it_was_once(monkeypatch):
    """Copies of one model have the same units, and what the model itself returns stays."""
    ranked, compared = [], []
    moments, cross = SampleMeasure.moments, SampleMeasure.cross

    def counted_moments(self, *given, **named):
        ranked.append(given)
        return moments(self, *given, **named)

    def counted_cross(self, *given, products=True, held=(None, None)):
        if not products:  # that is how outputs are compared
            compared.append(held[1])
        return cross(self, *given, products=products, held=held)

    monkeypatch.setattr(SampleMeasure, "moments", counted_moments)
    monkeypatch.setattr(SampleMeasure, "cross", counted_cross)
    rng = np.random.default_rng(1)
    samples = load_samples([{"x": rng.normal(size=(64, 4)).astype(np.float32)} for _ in range(3)])
    text = "prune-neurons{ratio=0.25 allocation=measured multiple=1 compensation=off}"
    Pipeline.parse(text).run(
        two_layers(), statistics_provider=Calibrator(samples=samples), reproducer_dir=None
    )
    assert len(ranked) == 1
    assert len(compared) == 6  # three numbers of units for each of two groups
    assert None not in compared
    assert len(set(compared)) == 1
