"""Figures of a bundle's page: every one beside its numbers, every name escaped."""

import pytest

from graphopt.report import LayerError, ReportDetails
from graphopt.report.page_figures import changes_by_pass, details_figures

DETAILS = ReportDetails(
    weights_before={"FLOAT": 4096, "INT64": 16},
    weights_after={"INT8": 1024, "FLOAT": 64},
    layers=(
        LayerError(name="<conv>", operator="Conv", cosine=0.9999, sqnr_db=40.0),
        LayerError(name="same", operator="MatMul", cosine=1.0, sqnr_db=None),
        LayerError(name="worse than noise", operator="Gemm", cosine=None, sqnr_db=-3.0),
    ),
    quantiles_before=tuple(10.0 + place for place in range(21)),
    quantiles_after=tuple(5.0 + place for place in range(21)),
)


def test_every_figure_has_its_numbers():
    page = details_figures(DETAILS)
    assert page.count("<h2>") == 3
    assert "<svg" in page
    assert 'role="img"' in page
    for text in ("20.000", "15.000", "4.0 KiB", "-98.4%", "40.0", "equal", "-3.0"):
        assert text in page


def test_names_are_escaped():
    page = details_figures(DETAILS)
    assert "&lt;conv&gt;" in page
    assert "<conv>" not in page
    edits = [{"pass_name": "<p>", "because": "<b>"}]
    assert "<b>" not in changes_by_pass({"edits": edits})


@pytest.mark.parametrize("details", [None, ReportDetails(weights_before={}, weights_after={})])
def test_without_numbers_there_is_no_figure(details):
    assert details_figures(details) == ""


def test_bars_stay_within_the_page():
    import re

    widths = [float(width) for width in re.findall(r"width: ([-0-9.]+)%", details_figures(DETAILS))]
    assert len(widths) >= 7
    assert all(0 <= width <= 100 for width in widths)


def test_changes_are_counted_by_reason():
    edits = [{"pass_name": "fold", "because": "a constant"}] * 3
    edits += [{"pass_name": "fold", "because": f"reason {number}"} for number in range(20)]
    page = changes_by_pass({"edits": edits})
    assert "fold: 23 edits" in page
    assert "<li>a constant (3 times)</li>" in page
    assert "and 13 more, in journal.json" in page
    assert changes_by_pass(None) == changes_by_pass({"edits": []}) == ""


def test_changes_of_large_models_are_counted_to_the_last():
    page = changes_by_pass({"edits": [{"pass_name": "fold", "because": "a constant"}] * 2500})
    assert "fold: 2500 edits" in page
