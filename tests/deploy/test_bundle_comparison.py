"""Bundles side by side, and the page of one."""

import json
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from graphopt.cli.main import main
from graphopt.deploy import Bundle, BundleComparison


@pytest.fixture(scope="module")
def missed(parts, gate, tmp_path_factory):
    """A bundle of the same model that misses a goal."""
    gates = [gate("max_size_ratio", 0.5, 0.75, passed=False, kind="goal")]
    made = replace(parts, gates=gates, source_sha256="1" * 64, candidate="<other>")
    return Bundle.build(made, tmp_path_factory.mktemp("missed") / "tiny.other")


def test_a_row_for_every_figure(bundle, missed):
    rows = {row[0]: row[1:] for row in BundleComparison([bundle, missed], ["a", "b"]).rows()}
    assert rows["verdict"] == ("meets every gate", "MISSES A GOAL")
    assert rows["max_size_ratio"] == ("-", "0.75, limit 0.5 FAILS")
    assert rows["candidate"] == ("dynamic", "<other>")
    size = (bundle.path / "model.onnx").stat().st_size
    assert rows["model"][0] == f"{size} B"


def test_what_cannot_be_compared_is_said(bundle, missed):
    assert BundleComparison([bundle, missed], ["a", "b"]).warnings() == [
        "they come from different originals"
    ]
    assert BundleComparison([bundle, bundle], ["a", "b"]).warnings() == []


def test_the_page_is_escaped_and_needs_nothing(bundle, missed):
    page = BundleComparison([bundle, missed], ["<a>", "b"]).to_html()
    assert "&lt;other&gt;" in page
    assert "<other>" not in page
    assert "http" not in page.replace("http-equiv", "")
    HTMLParser().feed(page)


def test_compare_on_the_command_line(bundle, missed, tmp_path, capsys):
    words = ["compare", str(bundle.path), str(missed.path), "-o", str(tmp_path / "all.html")]
    assert main(words) == 0
    assert "MISSES A GOAL" in capsys.readouterr().out
    assert "MISSES A GOAL" in (tmp_path / "all.html").read_text()
    assert main(words) == 2
    assert main([*words, "--force", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [item["gates_met"] for item in document["bundles"]] == [True, False]


def test_compare_refuses_what_is_no_bundle(bundle, tmp_path):
    assert main(["compare", str(bundle.path), str(tmp_path)]) == 2
    assert main(["compare"]) == 2


def test_a_page_that_nothing_opens(bundle, capsys, monkeypatch):
    monkeypatch.setattr("click.launch", lambda _: 1)
    assert main(["report", str(bundle.path), "--open"]) == 2
    error = capsys.readouterr().err
    assert "no browser can be started" in error
    assert str(bundle.path / "report.html") in error


def test_report_shows_the_page_of_a_whole_bundle(bundle, tmp_path, monkeypatch, capsys):
    shown = []
    monkeypatch.setattr("click.launch", shown.append)
    assert main(["report", str(bundle.path), "--open"]) == 0
    assert shown == [(bundle.path / "report.html").as_uri()]
    assert "meets every gate" in capsys.readouterr().out


def test_report_of_an_archive_is_written_first(bundle, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr("click.launch", shown.append)
    bundle.save(tmp_path / "tiny.zip")
    assert main(["report", str(tmp_path / "tiny.zip"), "--open"]) == 2
    page = tmp_path / "page.html"
    assert main(["report", str(tmp_path / "tiny.zip"), "--open", "-o", str(page)]) == 0
    assert shown == [page.as_uri()]
    assert page.read_bytes() == (bundle.path / "report.html").read_bytes()
    assert main(["report", str(tmp_path / "tiny.zip"), "-o", str(page)]) == 2


def test_report_of_a_changed_bundle_is_not_shown(copy, monkeypatch):
    monkeypatch.setattr("click.launch", pytest.fail)
    (copy / "report.html").write_text("<script>")
    assert main(["report", str(copy), "--open"]) == 2
