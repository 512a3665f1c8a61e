"""A stage that prunes by samples: what candidates then are made of, and what is said without any."""

import numpy as np
import pytest

from graphopt import ir as gir
from graphopt.api import plan
from graphopt.errors import MissingExtraError, PreconditionError
from graphopt.search.campaign import explore
from graphopt.search.progress import Reporter
from graphopt.search.results import result_of
from graphopt.search.workbench import prepare
from graphopt.targets import load_target

TARGET = """
name = "board"
summary = "a board"
extends = "cpu-int8"
[pipeline.prune]
passes = "prune-neurons{budget=0.3 budget_of=error allocation=measured multiple=1}"
[candidates.dynamic]
enabled = false
[gates]
min_cosine = 0.9
"""


@pytest.fixture(name="place")
def fixture_place(tmp_path):
    rng = np.random.default_rng(0)
    first = rng.normal(size=(6, 24)) * np.linspace(1.0, 0.02, 24)
    texts = [
        ", ".join(f"{number:.4f}" for number in array.reshape(-1))
        for array in (first, rng.normal(size=(24, 6)))
    ]
    model = gir.from_text(
        f"(float[N,6] x) => (float[N,6] y) <float[6,24] a = {{{texts[0]}}}, "
        f"float[24,6] b = {{{texts[1]}}}> {{ h = MatMul(x, a)  r = Relu(h)  y = MatMul(r, b) }}"
    )
    gir.save(model, tmp_path / "model.onnx")
    (tmp_path / "target.toml").write_text(TARGET, encoding="utf-8")
    (tmp_path / "samples").mkdir()
    for number in range(6):
        feed = {"x": rng.standard_normal((40, 6)).astype(np.float32)}
        np.savez(tmp_path / "samples" / f"{number}.npz", **feed)
    return tmp_path


def searched(place, *, is_on, calibration=True, gates=None, candidates=("float",)):
    target = load_target(place / "target.toml").with_gates(gates or {})
    others = {item.name for item in target.enabled_candidates()} - set(candidates)
    target = target.with_stages(dict.fromkeys(others, False) | {"prune": is_on})
    bench = prepare(
        place / "model.onnx",
        target,
        calibration=place / "samples" if calibration else None,
        evaluation=None,
        metric=None,
        latency_budget_s=None,
        seed=0,
        report=Reporter(),
    )
    (place / "work").mkdir(exist_ok=True)
    return explore(bench, place / "work")


def test_a_stage_prunes_within_its_budget_and_says_what_went(place):
    outcome = searched(place, is_on=True)
    result = result_of(outcome, seconds=0.0, source_sha256="")
    assert outcome.chosen is not None
    assert outcome.chosen.size_ratio < 0.9
    (decision,) = result.decisions
    assert decision.removed
    assert len(decision.curve) == 3
    error = next(iter(result.error.values()))
    assert error["cosine"] > 0.9  # of the worst sample; 0.95 over all of them


def test_switched_off_nothing_goes(place):
    outcome = searched(place, is_on=False)
    assert result_of(outcome, seconds=0.0, source_sha256="").decisions == ()


def test_where_nothing_pruned_holds_the_gates_the_unpruned_is_shipped(place):
    """What the stage may do to outputs and what gates allow are two people's numbers."""
    outcome = searched(place, is_on=True, gates={"min_cosine": 0.9999})
    result = result_of(outcome, seconds=0.0, source_sha256="")
    assert outcome.chosen is not None
    assert outcome.chosen.size_ratio == pytest.approx(1.0, abs=0.02)
    assert (result.decisions, result.gates_met) == ((), True)
    assert "prune" not in str(result.pipeline)
    (note,) = [note for note in result.notes if "stage" in note]
    assert note == (
        "left out stage `prune`: no candidate behind it holds the gates (min_cosine 0.9999); "
        "all candidates were built again without it"
    )
    assert not any(entry.pass_name == "prune-neurons" for entry in outcome.shared.entries)
    shipped = outcome.chosen.built.path.read_bytes()
    alone = searched(place, is_on=False, gates={"min_cosine": 0.9999})
    assert alone.chosen is not None
    assert alone.chosen.built.path.read_bytes() == shipped


def test_what_is_right_behind_the_stage_is_not_built_again(place):
    outcome = searched(place, is_on=True)
    assert not any("stage" in note for note in outcome.shared.notes)


def test_a_candidate_that_needs_torch_says_so_before_anything_is_built(place, monkeypatch):
    monkeypatch.setattr("graphopt.training.torch_extra.has_torch", lambda: False)
    monkeypatch.setattr("graphopt.search.campaign.run_stages", pytest.fail)
    text = TARGET + '[candidates.taught]\nsummary = "trained"\npipeline = "distill"\n'
    (place / "target.toml").write_text(text, encoding="utf-8")
    with pytest.raises(MissingExtraError, match="pass `distill` needs torch"):
        searched(place, is_on=False, candidates=("float", "taught"))


def test_without_samples_it_is_an_error_and_not_left_out(place):
    with pytest.raises(PreconditionError, match="stage `prune` needs calibration samples"):
        searched(place, is_on=True, calibration=False)


def test_a_plan_says_that_it_is_not_tried(place):
    found = plan(place / "model.onnx", target=str(place / "target.toml"), stages={"prune": True})
    assert "note: stage `prune` is not tried here: it measures samples" in str(found)
    assert not any(entry.pass_name == "prune-neurons" for entry in found.shared.entries)


def test_the_targets_that_come_along_have_it_switched_off():
    stages = {stage.name: stage for stage in load_target("cpu-int8").stages}
    assert list(stages)[-1] == "prune"
    assert not stages["prune"].enabled
    assert load_target("cpu-int8").with_stages({"prune": True}).stages[-1].enabled
