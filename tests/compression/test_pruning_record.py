"""What pruning says of itself is what it did."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from graphopt.analysis import summarise
from graphopt.calibration import Calibrator, SampleMeasure, load_samples
from graphopt.compression import unit_budget
from graphopt.compression.latency_share import latency_share, timed_feed
from graphopt.errors import OptionError
from graphopt.ir import from_text, model_bytes
from graphopt.passes.prune_neurons import PruneNeurons
from graphopt.pipeline import Pipeline, PipelineResult
from graphopt.runtime import shared_worker

WIDTH, HIDDEN, ROWS = 6, 16, 200
GENERATOR = np.random.default_rng(0)
FEEDS = [{"x": GENERATOR.normal(size=(ROWS, WIDTH)).astype(np.float32)} for _ in range(2)]


def text() -> str:
    """Return two layers; the later a neuron, the less the second layer reads of it."""
    generator = np.random.default_rng(1)
    first = generator.normal(size=(WIDTH, HIDDEN))
    second = generator.normal(size=(HIDDEN, 3)) * np.linspace(2.0, 0.2, HIDDEN)[:, None]
    weights = ", ".join(
        f"float[{array.shape[0]},{array.shape[1]}] {name} = "
        f"{{{', '.join(f'{number:.4f}' for number in array.reshape(-1))}}}"
        for name, array in (("w1", first), ("w2", second))
    )
    return (
        f'<ir_version: 10, opset_import: ["": 20]> g (float[B,{WIDTH}] x) => (float[B,3] y) '
        f"<{weights}> {{ h = MatMul(x, w1)  a = Relu(h)  y = MatMul(a, w2) }}"
    )


def pruned(options: str) -> PipelineResult:
    return Pipeline.parse(f"prune-neurons{{multiple=1 {options}}}").run(
        from_text(text()),
        statistics_provider=Calibrator(samples=load_samples(FEEDS)),
        reproducer_dir=None,
    )


def error(result: PipelineResult) -> float:
    """Return ``sqrt(E|y - y0|^2 / E|y0|^2)`` on the samples, computed anew."""
    wanted, found = [], []
    for feed in FEEDS:
        for model, into in ((from_text(text()), wanted), (result.model, found)):
            into.append(shared_worker().evaluate(model_bytes(model), feed)["y"])
    difference = np.concatenate(found) - np.concatenate(wanted)
    return float(np.sqrt(np.square(difference).sum() / np.square(np.concatenate(wanted)).sum()))


def test_a_decision_holds_scores_ranks_and_how_well_the_layer_was_fitted() -> None:
    result = pruned("ratio=0.5")
    (decision,) = result.ledger.journal.decisions
    assert (decision.kind, decision.score, len(decision.scores)) == ("neurons", "wanda", HIDDEN)
    assert set(decision.removed) == set(np.argsort(decision.scores)[: HIDDEN // 2].tolist())
    assert [decision.ranks[place] <= HIDDEN // 2 for place in decision.removed] == [True] * 8
    gone = sum(decision.scores[place] for place in decision.removed)
    assert decision.predicted == pytest.approx(gone / sum(decision.scores))
    (fit,) = decision.fits
    assert fit.before is not None
    assert fit.after is not None
    assert 0.0 < fit.after < fit.before
    assert fit.rows == 2 * ROWS


def test_the_error_of_a_fit_is_that_of_the_outputs() -> None:
    result = pruned("ratio=0.5")
    (fit,) = result.ledger.journal.decisions[0].fits
    outputs = [
        shared_worker().evaluate(model_bytes(from_text(text())), feed)["y"] for feed in FEEDS
    ]
    rows = np.concatenate(outputs).astype(np.float64)
    spread = np.square(rows - rows.mean(axis=0)).sum() / np.square(rows).sum()
    assert fit.after is not None
    assert error(result) == pytest.approx(np.sqrt(fit.after * spread), rel=1e-3)


def test_without_compensation_nothing_was_fitted() -> None:
    (decision,) = pruned("ratio=0.5 compensation=off score=l2").ledger.journal.decisions
    assert decision.fits == ()
    assert decision.curve == ()


def test_random_scores_predict_nothing() -> None:
    (decision,) = pruned("score=random compensation=off").ledger.journal.decisions
    assert decision.predicted is None


def test_other_scores_are_recorded_and_choose_nothing() -> None:
    plain = pruned("ratio=0.5")
    beside = pruned("ratio=0.5 compare=[l2,random,wanda]")
    assert model_bytes(beside.model) == model_bytes(plain.model)
    (decision,) = beside.ledger.journal.decisions
    others = dict(decision.others)
    assert list(others) == ["l2", "random"]  # the score that counts is told already
    (by_l2,) = pruned("ratio=0.5 score=l2").ledger.journal.decisions
    assert others["l2"] == by_l2.scores
    shared = set(decision.removed).intersection(by_l2.removed)
    assert decision.agreements["l2"] == len(shared) / len(decision.removed)
    assert plain.ledger.journal.decisions[0].others == ()


def test_without_samples_scores_that_are_measured_are_not_compared() -> None:
    found = PruneNeurons(compare=("l2", "flap")).without_samples()
    assert found.compare == ("l2",)
    assert not found.needs(from_text(text())).samples


def test_a_score_that_is_compared_asks_for_what_it_needs() -> None:
    bare = PruneNeurons(score="l2", compensation="off")
    assert not bare.needs(from_text(text())).samples
    assert replace(bare, compare=("flap",)).needs(from_text(text())).samples
    with pytest.raises(OptionError, match="compare"):
        replace(bare, compare=("size",))


def test_curves_are_measured_on_request() -> None:
    result = pruned("ratio=0.5 curves=true")
    (decision,) = result.ledger.journal.decisions
    errors = dict(decision.curve)
    assert list(errors) == [0.25, 0.5, 0.75]
    # One group: with it alone cut by half, the model is what was made.
    assert errors[0.5] == pytest.approx(error(result), rel=1e-4)
    assert None not in errors.values()
    assert sorted(errors.values(), key=lambda found: found or 0.0) == list(errors.values())


def test_an_error_budget_is_held_and_used() -> None:
    result = pruned("budget=0.2 budget_of=error")
    (decision,) = result.ledger.journal.decisions
    assert 0.0 < error(result) <= 0.2
    one_more = pruned(f"count={len(decision.removed) + 1}")
    assert error(one_more) > 0.2


@pytest.mark.parametrize(("of", "share"), [("parameters", 0.6), ("macs", 0.6), ("bytes", 0.6)])
def test_a_share_is_held_and_no_more_than_needed_goes(of: str, share: float) -> None:
    result = pruned(f"budget={share} budget_of={of} score=l2 compensation=off")
    (decision,) = result.ledger.journal.decisions
    left = HIDDEN - len(decision.removed)  # every neuron costs the same
    assert left / HIDDEN <= share < (left + 1) / HIDDEN
    assert any("ratio" in note and of in note for note in result.ledger.notes)


def test_a_budget_of_latency_goes_by_the_time_of_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[Any] = []

    def share(whole: Any, cut: Any, feed: Any) -> float:
        timed.append(feed)
        left, all_of_them = (summarise(one).parameters for one in (cut, whole))
        return left / all_of_them

    monkeypatch.setattr(unit_budget, "latency_share", share)
    result = pruned("budget=0.6 budget_of=latency")
    (decision,) = result.ledger.journal.decisions
    same = pruned("budget=0.6 budget_of=parameters")
    assert decision.removed == same.ledger.journal.decisions[0].removed
    assert any("may give another file" in note for note in result.ledger.notes)
    assert not any("may give another file" in note for note in same.ledger.notes)
    assert 0 < len(timed) < 8  # of eight ratios some cut the same units: these are timed once
    assert all(feed["x"].shape == (ROWS, WIDTH) for feed in timed)


def test_what_is_timed_is_the_middle_sample_or_one_that_runs() -> None:
    feeds = [{"x": np.zeros((rows, WIDTH), np.float32)} for rows in (1, 9, 4)]
    model = from_text(text())
    found = timed_feed(model, SampleMeasure(samples=load_samples(feeds)))
    assert found["x"].shape == (4, WIDTH)
    assert latency_share(model, from_text(text()), timed_feed(model, None)) > 0.0


@pytest.mark.parametrize("options", ["", "score=random seed=3", "allocation=global"])
def test_the_same_command_makes_the_same_bytes(options: str) -> None:
    first, second = (pruned(f"ratio=0.5 {options}") for _ in range(2))
    assert model_bytes(first.model) == model_bytes(second.model)
    records: list[Any] = [
        [one.to_dict() for one in result.ledger.journal.decisions] for result in (first, second)
    ]
    assert json.dumps(records[0]) == json.dumps(records[1])
