"""Why units went: tables, figures, and the JSON form."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jsonschema
import pytest

from graphopt.report import result_schema
from graphopt.report.decision_figures import heat_map, sensitivity_curves
from graphopt.report.decision_tables import (
    comparison_headers,
    comparison_rows,
    comparison_text,
    decision_rows,
    exit_rows,
)
from graphopt.rewrite import ExitDecision, ExitPlace, GroupDecision, LayerFit

HEADS = GroupDecision(
    pass_name="prune-heads",
    group="layer<0>",
    kind="heads",
    where="MatMul `q`",
    score="wanda",
    scores=(4.0, 1.0, 3.0, 2.0),
    removed=(1,),
    predicted=0.1,
    reason="by wanda",
    fits=(
        LayerFit(layer="o", compensation="least-squares", before=0.5, after=0.25, rows=64),
        LayerFit(layer="p", compensation="least-squares", before=None, after=None, rows=64),
    ),
)


BLOCKS = replace(
    HEADS,
    pass_name="prune-layers",
    kind="blocks",
    names=("block-0", "block-1", "block-2", "block-3"),
    reason="by cosine",
)
EXIT = ExitDecision(
    pass_name="exit-early",
    where="Add `sum`",
    block="block-1",
    certainty="entropy",
    threshold=-0.25,
    rows=200,
    leaving=0.5,
    agreeing=199,
    bound=0.97,
    mean_work=0.7,
    reason="spares the most",
    places=(ExitPlace("block-0", 0.25, 0.8), ExitPlace("block-1", 0.4, 0.6)),
)


def test_ranks_count_from_the_unit_that_is_missed_least() -> None:
    assert HEADS.ranks == (4, 1, 3, 2)


def test_a_row_tells_what_went_and_how_well_it_was_made_up_for() -> None:
    assert decision_rows([HEADS]) == [
        ("layer<0>", "heads", "1 of 4", "by wanda", "1", "2", "10.0%", "0.5", "0.25")
    ]


def test_a_row_without_measurements_has_dashes() -> None:
    bare = replace(HEADS, scores=(0.1, 0.2), removed=(0, 1), predicted=None, fits=())
    assert decision_rows([bare])[0][4:] == ("0.2", "-", "-", "-", "-")


def test_units_that_have_names_are_named() -> None:
    assert decision_rows([BLOCKS])[0][2:4] == ("1 of 4", "by cosine: block-1")
    named = replace(BLOCKS, names=("block-7",), scores=(), removed=(0,), reason="by name")
    assert decision_rows([named])[0][2:6] == ("1 of 1", "by name: block-7", "-", "-")


def test_other_scores_have_a_column_each_and_share_what_they_would_have_taken() -> None:
    others = (("l2", (4.0, 1.0, 3.0, 2.0)), ("random", (0.1, 0.2, 0.3, 0.4)))
    first = replace(HEADS, removed=(1, 3), others=others)
    second = replace(HEADS, group="other", others=(("flap", (1.0, 1.0, 1.0, 1.0)),))
    decisions = [first, second, HEADS]  # of the last none was asked for
    assert comparison_headers(decisions) == ("group", "gone by", "l2", "random", "flap")
    assert comparison_rows(decisions) == [
        ("layer<0>", "wanda", "100%", "50%", "-"),
        ("other", "wanda", "-", "-", "0%"),  # of equals the first goes
    ]
    assert "would have chosen" in comparison_text(decisions)
    assert comparison_text([HEADS]) == ""


def test_of_an_exit_held_out_rows_are_told_and_of_other_places_what_chose_them() -> None:
    assert exit_rows([EXIT]) == [
        ("block-0", "25.0%", "80.0%", "80.0%", "-", "-"),
        ("block-1 (chosen)", "50.0%", "60.0%", "70.0%", "99.50%", "97.00%"),
    ]


def test_the_json_form_of_an_exit_is_what_the_schema_says() -> None:
    schema = result_schema()
    only = {"$defs": schema["$defs"], **schema["$defs"]["exit"]}
    jsonschema.validate(EXIT.to_dict(), only)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**EXIT.to_dict(), "rows": 0}, only)


def test_the_json_form_is_what_the_schema_says() -> None:
    schema = result_schema()
    only = {"$defs": schema["$defs"], **schema["$defs"]["decision"]}
    others = (("l2", (4.0, 1.0, 3.0, 2.0)),)
    document = replace(HEADS, curve=((0.25, 0.125), (0.5, None)), others=others).to_dict()
    jsonschema.validate(document, only)
    assert document["ranks"] == [4, 1, 3, 2]
    assert document["names"] == []
    assert document["others"] == {"l2": [4.0, 1.0, 3.0, 2.0]}
    assert document["agreements"] == {"l2": 1.0}
    assert document["fits"][0]["before"] == 0.5
    assert document["curve"] == [{"ratio": 0.25, "error": 0.125}, {"ratio": 0.5, "error": None}]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**document, "ranks": [0]}, only)


def test_heads_that_went_are_told_without_colour() -> None:
    page = heat_map([HEADS])
    assert page.count("<s>") == 1
    assert "<s>1</s><span> gone</span>" in page
    assert "layer&lt;0&gt;" in page  # escaped
    assert "score 4, rank 4" in page


@pytest.mark.parametrize("decisions", [[], [replace(HEADS, kind="neurons")]])
def test_without_heads_there_is_no_map(decisions: list[Any]) -> None:
    assert heat_map(decisions) == ""


def test_curves_have_their_numbers_in_a_table() -> None:
    drawn = replace(HEADS, curve=((0.25, 0.125), (0.5, 0.5), (0.75, None)))
    page = sensitivity_curves([drawn, HEADS])
    assert page.count("<polyline") == 1
    assert '<td class="number">0.125</td><td class="number">0.5</td>' in page
    assert '<td class="number">-</td>' in page
    # The largest error is at the top of the plot, half of the ratio in the middle.
    assert "320.0,40.0" in page


def test_without_curves_nothing_is_drawn() -> None:
    assert sensitivity_curves([HEADS]) == ""


def test_what_scrolls_can_be_reached_without_a_mouse() -> None:
    curve = replace(HEADS, curve=((0.25, 0.1), (0.5, 0.2)))
    for figure in (heat_map([HEADS]), sensitivity_curves([curve])):
        assert '<div class="scroll" tabindex="0" role="region" aria-label="' in figure
