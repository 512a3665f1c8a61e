from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from jsonschema import Draft202012Validator, ValidationError

from graphopt.analysis.loaded_findings import Finding
from graphopt.pipeline import PassEntry
from graphopt.report import (
    BeforeAfter,
    CandidateResult,
    LatencyResult,
    MetricResult,
    OptimizeResult,
    PassResult,
    closing_line,
    result_schema,
    to_html,
    to_json,
    to_text,
)
from graphopt.runtime import LoadedGraph
from graphopt.targets import Measured, judge
from graphopt.verification import ErrorSummary

REQUIRED_KEYS = [
    "schema_version",
    "source",
    "target",
    "chosen",
    "verdict",
    "gates",
    "size_bytes",
    "nodes",
    "latency",
    "error",
    "metric",
    "candidates",
    "passes",
]


def errors(scale: float) -> dict:
    summary = ErrorSummary()
    reference = np.array([[1.0, 2.0, 4.0]], np.float32)
    summary.update({"y": reference}, {"y": reference * np.float32(scale) + np.float32(0.01)})
    return summary.to_dict()


LATENCY = LatencyResult(
    verdict="faster",
    ratio=0.4,
    ratio_low=0.38,
    ratio_high=0.42,
    p10_ms=BeforeAfter(10.0, 4.0),
    median_ms=BeforeAfter(11.0, 4.5),
)

GATES = tuple(
    judge(
        {
            "min_cosine": 0.99,
            "max_metric_drop": 0.01,
            "max_latency_ratio": 1.0,
            "max_size_ratio": 1.0,
        },
        {
            "min_cosine": 0.9999,
            "max_metric_drop": Measured(None, "not-requested"),
            "max_latency_ratio": Measured.latency(0.4, "faster"),
            "max_size_ratio": 0.25,
        },
    )
)

LOADED = LoadedGraph(
    operators={"MatMulInteger": 2, "Relu": 1},
    findings=(
        Finding("unfused-product", "sums go through memory", "leave it in float", ("a", "b"), 0.25),
        Finding("weights-moved", "a trifle", "fold it", ("c",), 0.001),
    ),
    shares={"integer layers": 0.97, "other": 0.03},
    run_ms=4.0,
    macs=1000,
    floor_ms=1.0,
    floor_ratio=4.0,
)

RESULT = OptimizeResult(
    source="models/net.onnx",
    target="cpu-int8",
    chosen="dynamic",
    verdict="within-budget",
    gates_met=True,
    gates=GATES,
    size_bytes=BeforeAfter(4 << 20, 1 << 20),
    nodes=BeforeAfter(10, 8),
    latency=LATENCY,
    error=errors(1.0),
    candidates=(
        CandidateResult(
            name="static",
            pipeline="@exact,quantize-static",
            status="rejected",
            reason="not built: it needs calibration samples (`--calibration PATH`)",
        ),
        CandidateResult(
            name="dynamic",
            pipeline="@exact,quantize-dynamic",
            status="chosen",
            size_bytes=1 << 20,
            latency=LATENCY,
            error=errors(1.0),
            gates=GATES,
            loaded=LOADED,
        ),
    ),
    passes=(
        PassResult(
            name="quantize-dynamic",
            text="quantize-dynamic",
            status="applied",
            edits=2,
            nodes=BeforeAfter(9, 8),
            size_bytes=BeforeAfter(4 << 20, 1 << 20),
            seconds=0.5,
        ),
    ),
    pipeline="@exact,quantize-dynamic",
    operators=BeforeAfter({"MatMul": 2, "Relu": 1}, {"MatMulInteger": 2, "Relu": 1}),
    samples=2,
    seconds=3.25,
    output="net.cpu-int8",
    notes=("static was not built",),
)

NOTHING = replace(
    RESULT,
    chosen=None,
    verdict="broken",
    gates_met=False,
    gates=(),
    size_bytes=BeforeAfter(4 << 20, None),
    nodes=BeforeAfter(10, None),
    latency=LatencyResult(),
    error={},
    passes=(),
    operators=BeforeAfter({}, {}),
    output=None,
)

MISSED = replace(
    RESULT,
    gates_met=False,
    gates=tuple(judge({"max_latency_ratio": 0.01}, {"max_latency_ratio": 0.4})),
    metric=MetricResult(name="top1", before=0.91, after=0.9, drop=0.01),
)

RESULTS = {"good": RESULT, "nothing": NOTHING, "missed": MISSED}


@pytest.mark.parametrize("name", RESULTS)
def test_json_form_keeps_the_schema(name):
    document = json.loads(to_json(RESULTS[name]))
    Draft202012Validator(result_schema()).validate(document)
    assert set(REQUIRED_KEYS) <= document.keys()
    assert next(iter(document)) == "schema_version"


def test_schema_refuses_a_broken_document():
    Draft202012Validator.check_schema(result_schema())
    document = RESULT.to_dict()
    document["latency"].pop("ratio")
    with pytest.raises(ValidationError):
        Draft202012Validator(result_schema()).validate(document)


def test_every_field_is_in_the_schema():
    for part, described in (
        (RESULT.to_dict(), result_schema()),
        (RESULT.to_dict()["latency"], result_schema()["$defs"]["latency"]),
        (RESULT.to_dict()["candidates"][1], result_schema()["$defs"]["candidate"]),
        (RESULT.to_dict()["candidates"][1]["loaded"], result_schema()["$defs"]["loaded"]),
        (RESULT.to_dict()["passes"][0], result_schema()["$defs"]["pass"]),
        (RESULT.to_dict()["gates"][0], result_schema()["$defs"]["gate"]),
        (
            RESULT.to_dict()["error"]["y"],
            result_schema()["$defs"]["error"]["additionalProperties"],
        ),
    ):
        assert part.keys() == described["properties"].keys()


def test_infinite_figures_become_null():
    result = replace(RESULT, seconds=math.inf, metric=MetricResult(name="m", before=math.nan))
    document = json.loads(to_json(result))
    assert document["seconds"] is None
    assert document["metric"]["before"] is None


def test_keys_of_the_interface():
    document = RESULT.to_dict()
    assert document["latency"]["p10_ms"] == {"before": 10.0, "after": 4.0}
    assert document["size_bytes"] == {"before": 4 << 20, "after": 1 << 20}
    assert document["gates"][1]["passed"] is None
    assert {"max_abs", "cosine", "sqnr_db"} <= document["error"]["y"].keys()
    assert document["metric"] is None


def test_exit_codes():
    assert [RESULTS[name].exit_code for name in ("good", "nothing", "missed")] == [0, 1, 1]


def test_pass_entry_is_taken_over():
    entry = PassEntry(
        pass_text="prune{ratio=0.5}",
        pass_name="prune",
        group=1,
        status="applied",
        edits=3,
        nodes_before=5,
        nodes_after=4,
        bytes_before=20,
        bytes_after=10,
    )
    found = PassResult.of(entry)
    assert (found.name, found.text, found.edits) == ("prune", "prune{ratio=0.5}", 3)
    assert found.nodes == BeforeAfter(5, 4)
    assert found.size_bytes == BeforeAfter(20, 10)


TEXT = """\
pass              status   edits  refusals   nodes  seconds
quantize-dynamic  applied      2         0  9 -> 8     0.50

candidate  status       size  latency    cosine  why
static     rejected        -        -         -  not built: it needs calibration samples (`--calibration PATH`)
dynamic    chosen    1.0 MiB   0.400x  0.999998

candidate  int8 floor  what costs time                       share  remedy
dynamic          4.0x  integer layers 97%
                       sums go through memory: a and 1 more  25.0%  leave it in float

output  max abs  max rel    cosine  SQNR dB  agreement
y          0.01   0.0025  0.999998     48.5     100.0%

gate               kind         limit   value  result
min_cosine         correctness   0.99  0.9999  passes
max_metric_drop    correctness   0.01       -  not measured (no labelled samples (`--eval`) were given)
max_latency_ratio  goal             1     0.4  passes
max_size_ratio     goal             1    0.25  passes

                    before     after          change
size               4.0 MiB   1.0 MiB          -75.0%
nodes                   10         8          -20.0%
latency p10      10.000 ms  4.000 ms  0.400x, faster
  MatMul                 2         0              -2
  MatMulInteger          0         2              +2

note: static was not built

optimized: 10 -> 8 nodes, 4.0 MiB -> 1.0 MiB, 2.50x faster, cosine 0.999998, 3.2 s -> net.cpu-int8"""


def test_text():
    assert to_text(RESULT) == TEXT


def test_large_counts_can_be_read():
    text = to_text(replace(RESULT, macs=BeforeAfter(75645568, 1234)))
    assert re.search(r"(?m)^MACs +75,645,568 +1,234 ", text)


def test_text_where_nothing_was_chosen():
    last = to_text(NOTHING).splitlines()[-1]
    assert last == (
        "nothing written: no candidate for cpu-int8 passes the correctness gates, 3.2 s"
    )


def test_text_where_a_goal_was_missed():
    lines = to_text(MISSED).splitlines()
    assert "dynamic is right and misses a goal for cpu-int8: max_latency_ratio" in lines
    assert lines[-1].startswith("written, gates not met: ")
    assert any(line.split() == ["top1", "0.9100", "0.9000", "drop", "0.01"] for line in lines)
    assert any(line.endswith("FAILS") for line in lines)


@pytest.mark.parametrize(
    ("latency", "text"),
    [
        (LatencyResult(), "latency not measured"),
        (LatencyResult(verdict="same", ratio=1.01), "latency same (1.010x)"),
        (LatencyResult(verdict="too-noisy", ratio=0.5), "latency too-noisy (0.500x)"),
    ],
)
def test_closing_line_never_claims_what_was_not_found(latency, text):
    assert f", {text}, " in closing_line(replace(RESULT, latency=latency))


def test_a_cosine_below_one_never_reads_as_one():
    almost = {"y": {**errors(1.0)["y"], "cosine": 0.99999999}}
    assert "cosine 0.999999," in closing_line(replace(RESULT, error=almost))


def test_equal_outputs_are_said_to_be_equal():
    result = replace(RESULT, verdict="equal", error=errors(1.0))
    assert "outputs equal bit for bit" in closing_line(result)


def test_mismatch_is_shown_in_place_of_numbers():
    summary = ErrorSummary()
    summary.update({"y": np.zeros(2)}, {"y": np.zeros(3)})
    text = to_text(replace(RESULT, error=summary.to_dict()))
    assert "shape [3], expected [2]" in text


class Page(HTMLParser):
    VOID = frozenset({"meta", "link", "br", "img", "input", "hr"})

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.mark.parametrize("name", RESULTS)
def test_page_is_whole_and_needs_nothing_else(name):
    page = Page(to_html(RESULTS[name]))
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "img", "link", "iframe", "object"}
    assert not any("src" in attrs or "href" in attrs for _, attrs in page.tags)
    assert closing_line(RESULTS[name]) in page.words


def test_page_shows_every_table():
    page = Page(to_html(RESULT))
    text = "".join(page.words)
    for word in ("min_cosine", "quantize-dynamic", "MatMulInteger", "48.5", "static was not built"):
        assert word in text
    assert [tag for tag, _ in page.tags].count("table") == 6


def test_page_escapes_what_comes_from_the_model():
    evil = "<script>alert(1)</script>$headline"
    result = replace(
        RESULT,
        source=f"{evil}.onnx",
        error={evil: errors(1.0)["y"]},
        operators=BeforeAfter({evil: 1}, {"Relu": 1}),
        notes=(evil,),
        versions={evil: evil},
    )
    page = Page(to_html(result))
    assert "script" not in {tag for tag, _ in page.tags}
    assert evil in page.words


@pytest.mark.parametrize("form", [to_text, to_html])
def test_what_costs_time_in_the_runtime_is_told_with_the_remedy(form):
    shown = form(RESULT)
    assert "4.0x" in shown
    assert "integer layers 97%" in shown
    assert "sums go through memory: a and 1 more" in shown
    assert "leave it in float" in shown
    assert "a trifle" not in shown  # less than a hundredth of the run
