"""Mixed precision: which operators are left in float, and that the recipe makes the same again."""

from dataclasses import replace

import numpy as np
import pytest

from graphopt import ir as gir
from graphopt import run_pipeline
from graphopt.pipeline import Pipeline
from graphopt.search import Reporter, explore, prepare
from graphopt.search.op_groups import OpGroup, divided, quantized_groups, without
from graphopt.search.results import result_of
from graphopt.search.sensitivity import Sensitivity
from graphopt.targets import load_target

WIDTH = 32
TARGET = """name = "mixed"
summary = "one quantized candidate, and none beside it but the floats"
extends = "cpu-int8"

[candidates.plain]
summary = "without any care for outliers"
pipeline = "quantize-linear-layers{columns=0}"
needs_calibration = true
"""


def model_text(rng):
    """Return a chain of three layers; the second reads a channel that drowns all others."""
    weights = [rng.standard_normal((WIDTH, WIDTH)) / np.sqrt(WIDTH) for _ in range(3)]
    scale = np.ones(WIDTH)
    scale[5] = 100.0
    # What reads the outlier is small, so that only the others matter in the result.
    weights[1][5] /= 1000.0
    text = {
        name: ", ".join(f"{value:.6g}" for value in np.ravel(array))
        for name, array in zip("abcs", [*weights, scale], strict=True)
    }
    shape = f"float[{WIDTH},{WIDTH}]"
    return f"""<ir_version: 10, opset_import: ["" : 20]>
g (float[N,{WIDTH}] x) => (float[N,{WIDTH}] y)
<{shape} a = {{{text["a"]}}}, {shape} b = {{{text["b"]}}}, {shape} c = {{{text["c"]}}}, float[{WIDTH}] s = {{{text["s"]}}}>
{{
  [first] p = MatMul(x, a)
  q = Mul(p, s)
  [second] r = MatMul(q, b)
  t = Tanh(r)
  [third] y = MatMul(t, c)
}}"""


@pytest.fixture(name="place")
def fixture_place(tmp_path):
    rng = np.random.default_rng(3)
    gir.save(gir.from_text(model_text(rng)), tmp_path / "model.onnx")
    (tmp_path / "target.toml").write_text(TARGET, encoding="utf-8")
    (tmp_path / "samples").mkdir()
    for number in range(8):
        feed = {"x": rng.standard_normal((6, WIDTH)).astype(np.float32)}
        np.savez(tmp_path / "samples" / f"{number}.npz", **feed)
    return tmp_path


def searched(place, gates, budget_s=60.0, metric=None):
    target = load_target(place / "target.toml").with_gates(gates)
    others = {item.name for item in target.enabled_candidates()} - {"plain", "float"}
    target = target.with_stages(dict.fromkeys(others, False))
    bench = prepare(
        place / "model.onnx",
        target,
        calibration=place / "samples",
        evaluation=None,
        metric=metric,
        latency_budget_s=None,
        repair_budget_s=budget_s,
        seed=0,
        report=Reporter(),
    )
    work = place / "work"
    work.mkdir()
    return explore(bench, work)


def test_only_the_layer_that_costs_the_accuracy_stays_in_float(place):
    outcome = searched(place, {"min_cosine": 0.999, "max_size_ratio": None})
    by_name = {item.built.candidate.name: item for item in outcome.measured}
    assert not by_name["plain"].is_correct
    mixed = by_name["plain-mixed"]
    assert mixed.is_correct
    assert mixed.built.candidate.pipeline == "quantize-linear-layers{columns=0 exclude=[second]}"
    refusals = {item.where: item for item in mixed.built.ledger.journal.refusals}
    assert "dB, too little for min_cosine 0.999" in refusals["MatMul `second`"].why
    reasons = [item.because for item in mixed.built.ledger.journal.edits]
    assert sum("alone it has" in reason for reason in reasons) == 2
    assert any("1 of 3 groups" in note for note in mixed.built.ledger.notes)


def test_the_recipe_makes_the_same_file_again(place):
    outcome = searched(place, {"min_cosine": 0.999, "max_size_ratio": None})
    mixed = next(i for i in outcome.measured if i.built.candidate.name == "plain-mixed")
    again = place / "again.onnx"
    run_pipeline(
        place / "model.onnx",
        outcome.bench.target.pipeline_text(mixed.built.candidate),
        again,
        target=place / "target.toml",
        calibration=place / "samples",
    )
    one, other = (gir.to_text(gir.load(path)) for path in (mixed.built.path, again))
    assert one.partition("g (")[2] == other.partition("g (")[2]  # but for the recipe before it


def test_a_budget_that_nothing_quantized_holds_leaves_the_floats_and_says_so(place):
    outcome = searched(place, {"min_sqnr_db": 90.0, "max_size_ratio": None})
    assert [item.built.candidate.name for item in outcome.measured if item.is_correct] == ["float"]
    assert any("however many of its 3 groups" in note for note in outcome.shared.notes)
    notes = result_of(outcome, seconds=1.0, source_sha256="").notes
    assert notes[0] == (
        "no quantized candidate holds the gates (min_cosine 0.99, min_sqnr_db 90): "
        "`float` is shipped, not quantized"
    )


@pytest.mark.parametrize(("drop", "allowed"), [(5e-9, True), (1e-3, False), (-1e-3, True)])
def test_a_budget_of_zero_allows_what_rounding_does_to_a_loss(place, drop, allowed):
    found = iter([1.0, 1.0 - drop])
    outcome = searched(place, {"max_metric_drop": 0.0}, metric=lambda _predict: next(found, 1.0))
    first = outcome.measured[0]
    assert first.is_correct == allowed
    assert (first.metric, first.built.candidate.name) == (1.0 - drop, "float")


def test_where_nothing_is_timed_a_repaired_candidate_stands_before_the_floats(place):
    """The order of the target decides for a device that is elsewhere, and the floats end it."""
    board = TARGET + '\n[device]\narchitectures = ["wasm32"]\n'
    (place / "target.toml").write_text(board, encoding="utf-8")
    target = load_target(place / "target.toml").with_gates({"min_cosine": 0.999})
    known = {item.name: item for item in target.candidates}
    bench = prepare(
        place / "model.onnx",
        replace(target, candidates=(known["plain"], known["float"])),
        calibration=place / "samples",
        evaluation=None,
        metric=None,
        latency_budget_s=None,
        repair_budget_s=60.0,
        seed=0,
        report=Reporter(),
    )
    (place / "work").mkdir()
    outcome = explore(bench, place / "work")
    names = [item.built.candidate.name for item in outcome.measured]
    assert names == ["plain", "plain-mixed", "float"]
    assert outcome.chosen is outcome.measured[1]


def test_nothing_is_tried_where_it_is_switched_off_or_time_is_up(place):
    outcome = searched(place, {"min_cosine": 0.999}, budget_s=None)
    assert [item.built.candidate.name for item in outcome.measured] == ["float", "plain"]
    assert not any("groups" in note for note in outcome.shared.notes)


def test_without_time_the_note_says_that_there_was_none(place):
    outcome = searched(place, {"min_cosine": 0.999}, budget_s=1e-9)
    assert all(item.built.candidate.name != "plain-mixed" for item in outcome.measured)


def test_nothing_is_tried_where_the_gates_hold(place):
    outcome = searched(place, {"min_cosine": 0.1, "max_size_ratio": None})
    assert [item.built.candidate.name for item in outcome.measured] == ["float", "plain"]


def test_names_become_patterns_that_mean_only_them():
    group = OpGroup(("a[0]", "b*"), "MatMul", frozenset({"quantize-dynamic"}))
    table = OpGroup(("t",), "Gather", frozenset({"quantize-dynamic"}))
    pipeline = Pipeline.parse("@lossless,quantize-dynamic{ops=[MatMul]},quantize-static")
    before, rest = divided(pipeline)
    assert str(before + rest) == str(pipeline)
    assert str(without(rest, [group])) == (
        'quantize-dynamic{ops=[MatMul] exclude=["a[[]0]","b[*]"]},quantize-static'
    )
    assert without(rest, []) == rest
    assert "t" in str(without(rest, [table]))


def test_layers_that_share_their_input_are_one_group():
    text = """(float[N,2] x) => (float[N,2] a, float[N,2] b, float[N,2] c)
<float[2,2] u = {1, 2, 3, 4}, float[2,2] v = {5, 2, 3, 4}, float[2,2] w = {1, 2, 3, 9}>
{ [one] a = MatMul(x, u)  [two] b = MatMul(x, v)  [three] c = MatMul(a, w) }"""
    model = gir.from_text(text)
    ledger = Pipeline.parse("quantize-dynamic{minimum_elements=1}").run(gir.clone(model)).ledger
    names = [group.nodes for group in quantized_groups(model, ledger)]
    assert names == [("one", "two"), ("three",)]


def test_what_was_not_measured_comes_last():
    group = OpGroup(("a",), "MatMul", frozenset())
    unknown, known = Sensitivity(group, None, None), Sensitivity(group, 80.0, 1.0)
    assert sorted([unknown, known], key=lambda item: item.rank) == [known, unknown]
    assert str(unknown) == "not measured"
