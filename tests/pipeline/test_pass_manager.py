import json

import numpy as np
import onnx_ir as ir
import pytest
from onnx_ir.passes.common import RemoveUnusedNodesPass
from toy_passes import AskForFacts

from graphopt.errors import (
    NumericMismatch,
    OptionError,
    PassError,
    PostconditionError,
    PreconditionError,
    UnsupportedModelError,
)
from graphopt.ir import clone, from_text, model_digest, save
from graphopt.pipeline import PassManager, Pipeline, PrintAfter
from graphopt.rewrite import RangeMethod, TargetFacts, ValueRange

pytestmark = pytest.mark.usefixtures("toys")


def run(text, model, **settings):
    return Pipeline.parse(text).run(model, **{"reproducer_dir": None, **settings})


def operators(model):
    return [node.op_type for node in model.graph]


def test_good_group_costs_one_check_and_is_recorded(chain, feeds):
    result = run("relabel-operators{reverse=true limit=3}", chain, feeds=feeds)
    assert result.model is chain
    assert operators(chain) == ["Abs", "Abs", "Relu", "Identity", "Identity", "Identity"]
    (entry,) = result.ledger.entries
    assert (entry.status, entry.edits, entry.nodes_before, entry.nodes_after) == (
        "applied",
        3,
        6,
        6,
    )
    assert [edit.number for edit in result.ledger.journal.edits] == [1, 2, 3]
    parts = result.ledger.timing.part("group 1").parts
    assert "verify numerics" in parts
    assert "bisection" not in parts


def test_wrong_result_is_traced_to_the_edit_and_the_model_is_put_back(chain, feeds):
    before = model_digest(chain)
    with pytest.raises(PassError, match=r"changed an output .* first at edit 5") as caught:
        run("relabel-operators{reverse=true}", chain, feeds=feeds)
    assert isinstance(caught.value.__cause__, NumericMismatch)
    assert caught.value.where == "`relabel-operators{reverse=true}`"
    assert model_digest(chain) == before


def test_wrong_result_of_a_pass_that_cannot_be_cut_short_is_traced_to_the_pass(chain, feeds):
    with pytest.raises(PassError, match="`rely-on-edits` changed an output"):
        run("rely-on-edits", chain, feeds=feeds)


def test_random_output_keeps_its_rank():
    model = from_text(
        """(float[1,N] x) => (float y) <int64[1] axes = {0}> {
            a = RandomUniformLike(x)  b = Add(a, x)  y = Squeeze(b, axes)
        }"""
    )
    model.graph.outputs[0].shape = None
    with pytest.raises(PassError, match="changed an output"):
        run("add-an-axis", model)


def test_guilty_pass_is_dropped_and_the_rest_is_kept(chain, feeds):
    text = (
        "relabel-operators{old=Relu},"  # right: what it reads is not negative
        "relabel-operators{reverse=true},"  # wrong at its fifth edit, the sixth of the group
        "relabel-operators{reverse=true limit=2}"  # right
    )
    result = run(text, chain, feeds=feeds, on_error="drop")
    assert operators(chain) == ["Abs", "Abs", "Identity", "Abs", "Identity", "Identity"]
    (dropped,) = result.ledger.rolled_back()
    assert dropped.pass_text == "relabel-operators{reverse=true}"
    assert "edit 6" in dropped.reason
    assert [entry.status for entry in result.ledger.entries] == [
        "applied",
        "applied",
        "rolled-back",
    ]
    assert len(result.ledger.journal.edits) == 3


def test_two_guilty_passes_are_both_dropped(chain, feeds):
    result = run("relabel-operators,raise-error", chain, feeds=feeds, on_error="drop")
    assert {entry.pass_name for entry in result.ledger.rolled_back()} == {
        "relabel-operators",
        "raise-error",
    }
    assert operators(chain) == ["Abs", "Abs", "Relu", "Abs", "Abs", "Abs"]


def test_raising_pass(chain, feeds):
    before = model_digest(chain)
    with pytest.raises(PassError, match="pass `raise-error` failed") as caught:
        run("relabel-operators{old=Relu},raise-error", chain, feeds=feeds)
    assert "ZeroDivisionError: toy failure" in caught.value.why
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert model_digest(chain) == before


def test_broken_structure_is_traced(chain):
    with pytest.raises(PostconditionError, match="left a broken model, first at edit 2") as caught:
        run("relabel-operators{old=Relu},break-structure", chain, verify="structure")
    assert "nowhere" in caught.value.why


def test_without_verification_nothing_is_noticed(chain):
    run("break-structure", chain, verify="off")
    assert list(chain.graph)[1].inputs[0].name == "nowhere"


def test_change_behind_the_editor_is_traced_to_the_pass(chain, feeds):
    with pytest.raises(PassError, match="go-behind-the-editor` changed an output") as caught:
        run("relabel-operators{old=Relu},go-behind-the-editor", chain, feeds=feeds)
    assert "at edit" not in caught.value.message


def test_model_that_differs_from_its_source_blames_no_pass(chain, feeds, tmp_path):
    other = from_text("(float[N] x) => (float[N] y) { y = Neg(x) }")
    save(other, tmp_path / "source.onnx")
    with pytest.raises(Exception, match="differs from its source before any pass"):
        run("relabel-operators{old=Relu}", chain, feeds=feeds, source=tmp_path / "source.onnx")


def test_source_file_is_the_reference(chain, feeds, tmp_path):
    save(chain, tmp_path / "source.onnx")
    result = run("relabel-operators{old=Relu}", chain, feeds=feeds, source=tmp_path / "source.onnx")
    assert result.ledger.edits == 1


def test_model_that_the_runtime_cannot_run(feeds):
    model = from_text(
        '<ir_version: 10, opset_import: ["" : 20, "mine" : 1]>'
        "g (float[N] x) => (float[N] y) { a = Abs(x) b = Abs(a) y = mine.Unknown(b) }"
    )
    with pytest.raises(UnsupportedModelError, match="cannot be run before any pass"):
        run("relabel-operators", model, feeds=feeds)
    assert operators(model) == ["Abs", "Abs", "Unknown"]


def test_rounding_is_judged_by_its_bound_and_exact_passes_stay_exact(feeds):
    text = "(float[N] x) => (float[N] y) <float k = {KKK}> { a = Abs(x) y = Mul(a, k) }"
    near, far = (from_text(text.replace("KKK", k)) for k in ("1.001", "1.5"))
    # y becomes Add(a, k) - far from Mul(a, k): no bound allows that.
    with pytest.raises(PassError):
        run("round-relabel{old=Mul new=Add}", far, feeds=feeds)
    one = [{"x": np.array([2.0], np.float32)}]
    near = from_text(text.replace("KKK", "2.01"))
    with pytest.raises(PassError):  # 2 * 2.01 against 2 + 2.01: off by 0.0025 of the largest
        run("relabel-operators{old=Mul new=Add}", near, feeds=one)
    assert run("round-relabel{old=Mul new=Add}", near, feeds=one).ledger.edits == 1


def test_after_rounding_the_next_exact_group_starts_from_the_new_numbers():
    model = from_text(
        "(float[N] x) => (float[N] y) <float k = {2.01}> { a = Abs(x) b = Mul(a, k) y = Abs(b) }"
    )
    one = [{"x": np.array([2.0], np.float32)}]
    text = "round-relabel{old=Mul new=Add},relabel-operators{reverse=true limit=1}"
    assert run(text, model, feeds=one).ledger.edits == 2


def test_approximate_pass_is_not_judged_but_its_drift_is_measured(chain, feeds):
    text = "approximate-relabel,relabel-operators{old=Identity new=Abs limit=0}"
    result = run(text, chain, feeds=feeds)
    drift = result.ledger.entries[0].drift["y"]
    assert drift["max_abs"] == 3.0  # -3 came out as 3 before, and as 0 after
    assert result.ledger.entries[1].drift is None


def test_group_after_an_approximate_pass_is_compared_with_what_that_made(chain, feeds):
    text = "approximate-relabel{old=Abs limit=1},relabel-operators{old=Relu new=Abs}"
    assert run(text, chain, feeds=feeds).ledger.edits == 2


@pytest.mark.parametrize(
    "settings", [{"verify": "some"}, {"on_error": "x"}, {"reproducer_weights": "x"}]
)
def test_wrong_setting(settings):
    with pytest.raises(OptionError, match="setting `"):
        PassManager(**settings)


def test_fixpoint_repeats_until_nothing_changes(chain, feeds):
    result = run("fixpoint(relabel-operators{old=Relu})", chain, feeds=feeds)
    assert [(e.iteration, e.status) for e in result.ledger.entries] == [(1, "applied")]
    assert result.ledger.notes == []  # one pass, idempotent: a second round could not edit anything


def test_fixpoint_goes_on_while_a_pass_feeds_another(chain):
    text = (
        "fixpoint(relabel-operators{old=Abs new=Neg limit=1},relabel-operators{old=Relu new=Abs})"
    )
    result = run(text, chain, verify="structure")
    assert operators(chain) == ["Neg"] * 6
    rounds = [entry.iteration for entry in result.ledger.entries]
    assert max(rounds) == 7  # the last edits nothing


def test_fixpoint_stops_after_its_rounds_and_says_so(chain):
    result = run("fixpoint{max=1}(toggle-operators)", chain, verify="structure")
    assert len(result.ledger.entries) == 1
    assert "still changed the model in its last round, 1" in result.ledger.notes[0]


def test_fixpoint_notices_a_circle(chain):
    result = run("fixpoint(toggle-operators)", chain, verify="structure")
    assert "goes in circles" in result.ledger.notes[0]
    assert len(result.ledger.entries) == 5


def test_idempotent_pass_is_skipped_on_an_unchanged_model(chain, feeds):
    twice = "relabel-operators{old=Relu},relabel-operators{old=Relu}"
    result = run(twice, chain, feeds=feeds)
    assert [entry.status for entry in result.ledger.entries] == ["applied", "skipped"]


def test_guilty_pass_is_dropped_from_every_round_of_a_fixpoint(chain, feeds):
    text = "fixpoint(relabel-operators{old=Relu},relabel-operators{reverse=true})"
    result = run(text, chain, feeds=feeds, on_error="drop")
    assert operators(chain) == ["Abs", "Abs", "Identity", "Abs", "Abs", "Abs"]
    assert len(result.ledger.rolled_back()) == 1


def test_facts_are_handed_out(chain):
    target = TargetFacts(name="board")
    asked = []

    def statistics(model, names, method):
        asked.append((names, method))
        return {name: ValueRange(-1.0, 1.0) for name in names}

    run(
        "ask-for-facts{names=[a,b] needs_target=true}",
        chain,
        target=target,
        statistics_provider=statistics,
        verify="off",
    )
    (facts,) = AskForFacts.seen
    assert facts.target is target
    assert facts.ranges["a"] == ValueRange(-1.0, 1.0)
    assert facts.shapes.of(chain.graph.inputs[0]).dims == ("N",)
    assert asked == [(("a", "b"), RangeMethod())]


@pytest.mark.parametrize(
    ("text", "what", "hint"),
    [
        ("ask-for-facts{names=[a]}", "needs calibration samples", "--calibration"),
        ("ask-for-facts{needs_target=true}", "needs a target", "--target"),
    ],
)
@pytest.mark.parametrize("on_error", ["raise", "drop"])
def test_missing_facts_are_the_callers_affair(chain, text, what, hint, on_error):
    with pytest.raises(PreconditionError, match=what) as caught:
        run(text, chain, on_error=on_error)
    assert hint in caught.value.hint


def test_progress_has_one_event_for_each_run_of_a_pass(chain, feeds):
    events = []
    run(
        "relabel-operators{old=Relu},raise-error",
        chain,
        feeds=feeds,
        progress=events.append,
        on_error="drop",
    )
    assert [(event.name, event.status, event.edits) for event in events] == [
        ("relabel-operators", "applied", 1),
        ("raise-error", "rolled-back", 0),
        ("relabel-operators", "applied", 1),
    ]


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        (["all"], ["relabel-operators", "raise-error", "relabel-operators"]),
        (["changed"], ["relabel-operators", "relabel-operators"]),
        (["failure"], ["raise-error"]),
        (["raise-error"], ["raise-error"]),
        (["other"], []),
    ],
)
def test_model_is_printed_after_chosen_passes(chain, when, expected):
    printed = []
    watch = PrintAfter(when=when, sink=lambda event, text: printed.append((event.name, text)))
    run(
        "relabel-operators{old=Relu},raise-error",
        chain,
        verify="off",
        print_after=watch,
        on_error="drop",
    )
    assert [name for name, _ in printed] == expected
    assert all("=> (float[N] y)" in text for _, text in printed)


def test_ledger_is_json_and_the_same_twice(chain, feeds):
    def record(model):
        ledger = run(
            "relabel-operators{old=Relu},raise-error", model, feeds=feeds, on_error="drop"
        ).ledger
        table = json.loads(json.dumps(ledger.to_dict()))
        del table["timing"]
        for entry in table["passes"]:
            del entry["seconds"], entry["facts_seconds"]
        return table

    twin = clone(chain)
    table = record(chain)
    assert table == record(twin)
    assert table["pipeline"] == "relabel-operators{old=Relu},raise-error"
    assert table["journal"]["edits"][0]["because"] == "relabelled"
    assert model_digest(chain) == model_digest(twin)


def test_times_form_a_tree_that_names_verification(chain, feeds):
    timing = run("relabel-operators{old=Relu}", chain, feeds=feeds).ledger.timing
    text = "\n".join(timing.lines())
    for name in ("total", "group 1", "passes", "relabel-operators{old=Relu}", "verify numerics"):
        assert f"  {name}" in text
    assert timing.to_dict()["parts"][0]["name"] == "group 1"


def test_times_of_the_search_for_the_guilty_are_its_own(chain, feeds):
    ledger = run("relabel-operators", chain, feeds=feeds, on_error="drop").ledger
    group = ledger.timing.part("group 1")
    assert group.part("bisection").part("verify numerics").seconds > 0.0
    assert sum(part.seconds for part in group.parts.values()) <= group.seconds * 1.001


def test_facts_have_their_own_time(chain):
    ledger = run("ask-for-facts", chain, verify="off").ledger
    part = ledger.timing.part("group 1").part("passes").part("ask-for-facts")
    assert 0.0 < part.part("facts").seconds <= part.seconds


def test_input_clone_is_untouched(chain, feeds):
    twin = clone(chain)
    before = model_digest(twin)
    run("relabel-operators{old=Relu}", chain, feeds=feeds)
    assert model_digest(twin) == before != model_digest(chain)


class Functional(ir.passes.FunctionalPass):
    """Return another model, in which every Relu is an Identity; say nothing has changed."""

    def call(self, model):
        copy = model.clone()
        for node in copy.graph:
            if node.op_type == "Relu":
                node.op_type = "Identity"
        return ir.passes.PassResult(copy, modified=False)


def test_foreign_functional_pass_changes_the_model_in_place(chain, feeds):
    result = Pipeline.of(Functional()).run(chain, feeds=feeds, reproducer_dir=None)
    assert result.model is chain
    assert "Relu" not in operators(chain)
    (edit,) = result.ledger.journal.edits
    assert "Functional" in edit.because


def test_foreign_pass_that_changes_nothing_has_no_edit(chain, feeds):
    result = Pipeline.of(RemoveUnusedNodesPass()).run(chain, feeds=feeds)
    assert result.ledger.entries[0].status == "unchanged"


def test_foreign_pass_that_is_wrong_is_dropped(chain, feeds):
    class Wrong(ir.passes.InPlacePass):
        def call(self, model):
            next(iter(model.graph)).op_type = "Ceil"
            return ir.passes.PassResult(model, modified=True)

    result = Pipeline.of(Wrong()).run(chain, feeds=feeds, reproducer_dir=None, on_error="drop")
    assert operators(chain)[0] == "Abs"
    assert result.ledger.rolled_back()[0].pass_name == "external-onnx-ir"
