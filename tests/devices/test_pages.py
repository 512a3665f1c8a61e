"""Pages are read by everybody: rules of accessibility, narrow and wide, on paper."""

import json
import re
from dataclasses import replace

import pytest
from device_bundles import make_bundle, make_variants
from report_samples import DECIDED

from graphopt.deploy import Bundle, BundleComparison
from graphopt.deploy.variants_page import page_with_variants
from graphopt.report import to_html
from graphopt.rewrite import GroupDecision

WIDTHS = (400, 1400)


@pytest.fixture(scope="module")
def axe(device):
    return (device("node") / "node_modules/axe-core/axe.min.js").read_text()


@pytest.fixture
def faults(browser, axe):
    """Open a page and return the rules of axe-core that it breaks, at both widths."""

    def find(address):
        browser.ask("Page.enable")
        browser.ask("Page.setBypassCSP", enabled=True)
        found = []
        for width in WIDTHS:
            browser.size(width)
            browser.open(address)
            browser.wait_for(f"location.href === '{address}' && document.readyState === 'complete'")
            browser.run(f"{axe};0")
            broken = "axe.run().then(found => found.violations.map(one => one.id))"
            found += [f"{width}: {rule}" for rule in browser.run(broken)]
            if browser.run("document.documentElement.scrollWidth") > width:
                found.append(f"{width}: wider than the screen")
            assert len(browser.screenshot()) > 10_000
        return found

    return find


@pytest.fixture
def report(tmp_path):
    path = tmp_path / "report.html"
    journal = {"edits": [{"pass_name": "fold-constants", "because": "all inputs are known"}]}
    path.write_text(to_html(DECIDED, journal))
    return path


def test_the_report(faults, report):
    assert faults(report.as_uri()) == []


def test_the_report_of_a_failure(faults, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(to_html(replace(DECIDED, gates_met=False, chosen=None)))
    assert faults(path.as_uri()) == []


def test_the_report_of_a_pruned_model_with_names_that_do_not_fit(faults, tmp_path):
    heads = GroupDecision(
        pass_name="prune-heads",
        group="/model/encoder/layers.0/attention/self/query/MatMul",
        kind="heads",
        where="MatMul `q`",
        score="obs",
        scores=tuple(range(1, 25)),
        removed=(0, 3),
        predicted=0.1,
        reason="by obs",
        curve=((0.25, 0.1), (0.5, 0.2), (0.75, 0.5)),
    )
    path = tmp_path / "report.html"
    path.write_text(to_html(replace(DECIDED, decisions=(heads,))))
    assert faults(path.as_uri()) == []


def test_the_report_of_several_variants(faults, tmp_path):
    page = to_html(DECIDED)
    variants = json.loads((make_variants(tmp_path) / "manifest.json").read_text())["variants"]
    path = tmp_path / "report.html"
    path.write_text(page_with_variants(page, variants))
    assert "<h2>Variants</h2>" in path.read_text()
    assert faults(path.as_uri()) == []


def test_bundles_side_by_side(faults, tmp_path):
    bundle = Bundle.load(make_bundle(tmp_path))
    path = tmp_path / "compare.html"
    path.write_text(BundleComparison([bundle, bundle], ["one", "two"]).to_html())
    assert faults(path.as_uri()) == []


def test_the_page_that_checks_a_bundle(faults, browser, bundle, serve):
    assert faults(f"{serve(bundle)}/validate.html") == []


def test_a_page_with_faults_is_noticed(faults, report):
    page = re.sub(r"<html lang=\"en\">", "<html>", report.read_text())
    report.write_text(page.replace("<main>", '<main style="width: 3000px; color: #ddd">'))
    assert {fault.split(": ")[1] for fault in faults(report.as_uri())} >= {
        "html-has-lang", "color-contrast", "wider than the screen",
    }  # fmt: skip


@pytest.mark.parametrize("query", [{"name": "forced-colors", "value": "active"}])
def test_without_colours_bars_keep_their_numbers(browser, report, query):
    browser.ask("Emulation.setEmulatedMedia", media="screen", features=[query])
    browser.open(report.as_uri())
    browser.wait_for("document.readyState === 'complete'")
    text = browser.run("document.querySelector('.bars').innerText")
    browser.ask("Emulation.setEmulatedMedia", media="", features=[])
    for number in ("4.0 MiB", "1.0 MiB", "10.000 ms", "4.000 ms"):
        assert number in text


def test_on_paper_nothing_is_cut_off(browser, report):
    browser.ask("Emulation.setEmulatedMedia", media="print")
    browser.size(700)
    browser.open(report.as_uri())
    browser.wait_for("document.readyState === 'complete'")
    hidden = "[...document.querySelectorAll('.scroll')].map(one => getComputedStyle(one).overflowX)"
    styles = set(browser.run(hidden))
    browser.ask("Emulation.setEmulatedMedia", media="")
    assert styles == {"visible"}
