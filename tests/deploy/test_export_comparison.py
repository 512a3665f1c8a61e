"""How exported files are compared: a framework that is made up leaves files and results."""

import json

import numpy as np
import pytest

from graphopt.deploy import exporting
from graphopt.errors import InputError, NumericMismatch
from graphopt.ir import from_text, save

MODEL = """
<ir_version: 8, opset_import: ["" : 17]>
file (%s float[N] x) => (float[N] y%s)
{
  c = Constant<value = float {%s}>()
  y = Mul(x, c)%s
}
"""
SOURCE = exporting.ExportSource(kind="hf", place="folder")
NAMES = {"input": ["x"], "output": ["y"], "implied": ["position"]}


def leave(out, exporter, *, factor=2.0, before="", outputs="", more="", names=None):
    """Write what the exporting process leaves: a file that doubles, and what it should give."""
    save(from_text(MODEL % (before, outputs, factor, more)), out)
    for number, size in enumerate((2, 3, 5)):
        x = np.arange(size, dtype=np.float32) + 1
        arrays = {"input_0": x, "output_0": 2 * x, "implied_0": 3 * x}
        np.savez(f"{out}.case{number}.npz", **arrays)
    record = {"exporter": exporter, "file": str(out), "names": NAMES if names is None else names}
    record |= {"failures": {}, "doubts": [], "origin": {}, "versions": {}}
    out.with_name(f"{out.name}.json").write_text(json.dumps(record))


@pytest.fixture
def framework(monkeypatch, tmp_path):
    """Let the exporters that are asked be functions, by name and in order; return what exports."""

    def export(ways, **options):
        asked = []

        def run(_source, out, words, _interpreter, _timeout_s):
            without = json.loads(words[-1])["without"]
            left = [name for name in ways if name not in without]
            asked.append(without)
            if not left:
                raise InputError("cannot be exported", why="nothing is left")
            leave(out, left[0], **ways[left[0]])

        monkeypatch.setattr(exporting, "_run_framework", run)
        monkeypatch.setattr(exporting, "_checked_place", lambda *_, **__: "folder")
        return exporting.export_model(SOURCE, tmp_path, **options), asked

    return export


def test_where_a_file_is_wrong_the_next_exporter_is_asked(framework):
    report, asked = framework({"optimum": {"factor": 2.5}, "dynamo": {}})
    assert report.exporter == "dynamo"
    assert asked == [[], ["optimum"]]
    assert "0.25 of its largest value" in report.failures["optimum"]
    assert "optimum failed" in str(report)


def test_where_all_files_are_wrong_each_is_told(framework):
    with pytest.raises(NumericMismatch) as caught:
        framework({"dynamo": {"factor": 2.5}, "torchscript": {"factor": 1.0}})
    assert all(
        word in caught.value.why for word in ("dynamo: ", "torchscript: ", "others: nothing")
    )


def test_an_exporter_that_is_named_is_not_followed_by_another(framework):
    with pytest.raises(NumericMismatch, match="does not compute"):
        framework({"dynamo": {"factor": 2.5}, "torchscript": {}}, exporter="dynamo")


def test_how_far_is_too_far_is_the_callers(framework):
    report, _ = framework({"dynamo": {"factor": 2.1}}, max_rel=0.06)
    assert report.largest_difference() == pytest.approx(0.05, rel=1e-3)


def test_what_a_file_asks_for_beside_the_inputs_is_what_the_framework_takes_for_granted(framework):
    report, _ = framework({"optimum": {"before": "float[N] position,"}})
    assert list(report.cases[0].shapes) == ["position", "x"]


@pytest.mark.parametrize("names", [NAMES, {}])
def test_inputs_that_nobody_knows_are_told(framework, names):
    with pytest.raises(InputError, match="has 2 inputs, the framework took 1"):
        framework({"optimum": {"before": "float[N] other,", "names": names}}, exporter="optimum")


def test_a_file_that_asks_for_something_else_is_followed_by_the_next_exporter(framework):
    report, _ = framework({"optimum": {"before": "float[N] other,"}, "dynamo": {}})
    assert report.exporter == "dynamo"
    assert "has 2 inputs, the framework took 1" in report.failures["optimum"]


def test_outputs_that_the_framework_did_not_give_are_told(framework):
    report, _ = framework({"optimum": {"outputs": ", float[N] z", "more": " z = Neg(y)"}})
    assert report.doubts == ("output `z` was not compared",)
    assert all(list(case.outputs) == ["y"] for case in report.cases)


def test_an_output_that_is_missing_is_a_fault(framework):
    names = NAMES | {"output": ["other"]}
    with pytest.raises(NumericMismatch) as caught:
        framework({"optimum": {"names": names}}, exporter="optimum")
    assert "no such output" in caught.value.why


def test_a_file_that_lost_an_output_is_not_believed(framework, monkeypatch):
    def leave_two_results(out, exporter, **_):
        leave_one(out, exporter, names={})
        for number, size in enumerate((2, 3, 5)):
            x = np.arange(size, dtype=np.float32) + 1
            np.savez(f"{out}.case{number}.npz", input_0=x, output_0=2 * x, output_1=3 * x)

    leave_one = leave
    monkeypatch.setitem(globals(), "leave", leave_two_results)
    with pytest.raises(InputError, match="has 1 outputs, the framework gave 2"):
        framework({"dynamo": {}}, exporter="dynamo")
