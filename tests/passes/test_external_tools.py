"""Other optimizers behind the gate: what they get wrong is rolled back, and told."""

import importlib.util
import sys

import numpy as np
import onnx
import pytest

from graphopt import api
from graphopt.errors import MissingExtraError
from graphopt.ir import load
from graphopt.pipeline import PassManager, Pipeline
from graphopt.runtime import foreign_process, shared_worker

HEAD = '<ir_version: {}, opset_import: ["" : {}{}]>\nagraph {}'
NOISE = '\n<domain: "local", opset_import: ["" : 17]> Noise (v) => (w) { w = RandomUniformLike(v) }'


def text(body, *, ir=10, opset=17, local=False):
    return HEAD.format(ir, opset, ', "local" : 1' if local else "", body) + (NOISE if local else "")


CASES = {
    "an unused input": text(
        "(float[2] x, float[2] u) => (float[2] y) { a = Identity(x)  y = Relu(a) }"
    ),
    "a weight that callers may replace": text(
        "(float[2] x, float[2] w) => (float[2] y) <float[2] w = {1.0, 2.0}>"
        "{ a = Identity(w)  y = Add(x, a) }"
    ),
    "a bound that callers may replace": text(
        "(float[4] x, float b) => (float[4] y) <float b = {0.5}, float d = {0.25}>"
        "{ a = Min(x, b)  y = Min(a, d) }"
    ),
    "a condition that callers may replace": text(
        "(float[2] x, bool c) => (float[2] y) <bool c = {1}> { y = If(c) <"
        "then_branch = t () => (float[2] o) { o = Relu(x) },"
        "else_branch = e () => (float[2] p) { p = Neg(x) }> }"
    ),
    "two draws": text(
        "(float[99] x) => (float[99] y) { a = Bernoulli(x)  b = Bernoulli(x)  y = Sub(a, b) }"
    ),
    "two Dropouts in training": text(
        "(float[99] x) => (float[99] y) <float r = {0.5}, bool t = {1}>"
        "{ a = Dropout(x, r, t)  b = Dropout(x, r, t)  y = Sub(a, b) }"
    ),
    "a random constant": text(
        "(float[99] x) => (float[99] y) { a = RandomNormal<shape = [99]>()  y = Add(x, a) }"
    ),
    "a random function called twice": text(
        "(float[99] x) => (float[99] y) { a = local.Noise(x)  b = local.Noise(x)  y = Sub(a, b) }",
        local=True,
    ),
    "BatchNormalization in training": text(
        "(float[2,1,8,8] x) => (float[2,1,8,8] y) <float[1,1,1,1] w = {1.0}, float[1] s = {1.0},"
        "float[1] b = {0.0}, float[1] m = {5.0}, float[1] v = {4.0}>"
        "{ c = Conv(x, w)  y, m2, v2 = BatchNormalization<training_mode = 1>(c, s, b, m, v) }"
    ),
    "constants of 0 and -0": text(
        "(float[2] x) => (float[2] y, float[2] z)"
        "<float[2] p = {0.0, 0.0}, float[2] n = {-0.0, -0.0}> { y = Div(x, p)  z = Div(x, n) }"
    ),
    "0 added to -0": text(
        "(float[4] x) => (float[4] y) <float o = {0.0}, float i = {1.0}>"
        "{ s = Relu(x)  n = Neg(s)  a = Add(n, o)  y = Div(i, a) }"
    ),
    "a shape that the file declares wrongly": text(
        "(float[N, 3] x) => (int64[1] y) <int64[1] i = {0}, float[7, 3] a>"
        "{ a = Relu(x)  s = Shape(a)  y = Gather(s, i) }"
    ),
    "Clip as it was in opset 10": text(
        "(float[4] x) => (float[4] y)"
        "{ a = Clip<min = 0.0, max = 6.0>(x)  y = Clip<min = 1.0, max = 5.0>(a) }",
        ir=5,
        opset=10,
    ),
    "inputs of IR version 3": text(
        "(float[2] x, float[2] w, float[2] u) => (float[2] y)"
        "<float[2] w = {1.0, 2.0}, float[2] u = {1.0, 2.0}> { y = Add(x, w) }",
        ir=3,
        opset=9,
    ),
    "a text that is not ASCII": text(
        '(float[2] x) => (string[1] y, float[2] z) { y = Constant<value_string = "über">()'
        "  z = Relu(x) }"
    ),
}
WRONG = {
    "an unused input": ["onnxslim"],
    "a weight that callers may replace": ["onnxsim", "onnxslim"],
    "a bound that callers may replace": ["onnxsim"],
    "a condition that callers may replace": ["onnxscript", "onnxslim"],
    "two draws": ["onnxsim", "onnxscript", "onnxruntime"],
    "two Dropouts in training": ["onnxslim"],
    "a random constant": ["onnxslim"],
    "a random function called twice": ["onnxsim"],
    "BatchNormalization in training": ["onnxscript"],
    "constants of 0 and -0": ["onnxslim"],
    "0 added to -0": ["onnxsim", "onnxruntime"],
    "a shape that the file declares wrongly": ["onnxscript", "onnxruntime"],
    "Clip as it was in opset 10": ["onnxscript"],
    "inputs of IR version 3": ["onnxruntime"],
    "a text that is not ASCII": ["onnxscript"],
}
PAIRS = [(case, tool) for case, tools in WRONG.items() for tool in tools]


def have(tool):
    if importlib.util.find_spec(tool) is None:
        pytest.skip(f"{tool} is not installed (extra `tools`)")


def write(tmp_path, body):
    path = tmp_path / "model.onnx"
    onnx.save(onnx.parser.parse_model(body), path)
    return path


@pytest.mark.parametrize(("case", "tool"), PAIRS)
def test_what_a_tool_gets_wrong_is_rolled_back(case, tool, tmp_path):
    have(tool)
    path = write(tmp_path, CASES[case])
    model = load(path)
    before = onnx.load(path)
    manager = PassManager(reproducer_dir=tmp_path)
    pipeline = Pipeline.parse(f"external-{tool},eliminate-identities")
    ledger = manager.run(model, pipeline, source=path).ledger
    (entry,) = ledger.rolled_back()
    assert entry.pass_name == f"external-{tool}"
    assert entry.reason
    assert "model.onnx" in {item.name for item in (tmp_path / entry.reproducer).iterdir()}
    assert [value.name for value in model.graph.inputs] == [i.name for i in before.graph.input]


def test_what_a_tool_gets_right_is_taken_over(tmp_path):
    path = write(tmp_path, text("(float[N] x) => (float[N] y) { a = Identity(x)  y = Relu(a) }"))
    report = api.run_pipeline(path, "external-onnxruntime", tmp_path / "out.onnx")
    assert report.ledger.edits == 1
    with shared_worker().load(tmp_path / "out.onnx") as session:
        found = session.run({"x": np.array([-1.0, 2.0], np.float32)})
    assert found["y"].tolist() == [0.0, 2.0]


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("import time; time.sleep(60)", "took more than 1.5 s"),
        ("import os; os.abort()", "ended by SIGABRT"),
        ("raise ValueError('no such thing')", "ValueError: no such thing"),
        ("print('x' * 10_000_000)", "wrote nothing"),
    ],
)
def test_a_tool_that_fails_is_no_failure_of_the_run(script, reason, tmp_path, monkeypatch):
    path = write(tmp_path, text("(float[N] x) => (float[N] y) { a = Identity(x)  y = Relu(a) }"))
    (tmp_path / "tool.py").write_text(script)
    monkeypatch.setattr(foreign_process, "_SCRIPT", tmp_path / "tool.py")
    monkeypatch.chdir(tmp_path)
    pipeline = "external-onnxruntime{timeout_s=1.5},eliminate-identities"
    report = api.run_pipeline(path, pipeline, tmp_path / "out.onnx")
    (entry,) = report.ledger.rolled_back()
    assert reason in entry.reason
    assert reason in str(report)
    assert report.ledger.edits == 1
    assert [node.op_type for node in onnx.load(tmp_path / "out.onnx").graph.node] == ["Relu"]


def test_a_tool_that_is_not_there_is_an_error(tmp_path):
    path = write(tmp_path, text("(float[N] x) => (float[N] y) { y = Relu(x) }"))
    bare = tmp_path / "bare"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "$@"\n')
    bare.chmod(0o755)
    with pytest.raises(MissingExtraError, match="onnxslim is not installed"):
        api.run_pipeline(path, f'external-onnxslim{{interpreter="{bare}"}}', tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


def test_race_tells_of_all(tmp_path):
    path = write(tmp_path, CASES["0 added to -0"])
    names = ["graphopt @exact", "onnxruntime basic"]
    report = api.race(path, only=names, latency_budget_s=None, keep=tmp_path / "kept")
    ours, theirs = report.entries
    assert (ours.verdict, theirs.verdict) == ("equal", "broken")
    assert "`y`" in theirs.reason
    assert ours.seconds > 0
    assert {item.name for item in (tmp_path / "kept").iterdir()} == {
        "graphopt_@exact",
        "onnxruntime_basic",
    }
    assert report.to_dict()["entries"][0]["nodes"] == ours.nodes
    assert "onnxruntime basic" in str(report)


def test_race_says_what_it_could_not_compare(tmp_path):
    drawn = "(float[2] x) => (float[2] y, float[2] z) { y = RandomNormalLike(x)  z = Identity(x) }"
    path = write(tmp_path, text(drawn, opset=18))
    report = api.race(path, only=["graphopt @exact"], latency_budget_s=None)
    assert report.entries[0].verdict == "equal"
    assert report.entries[0].reason == "`y` depend on random numbers: compared by type and shape only"


def test_race_tells_who_is_not_here_who_fails_and_what_is_no_valid_onnx(tmp_path, monkeypatch):
    norm = (
        "(float[2,4] x) => (float[2,4] y) <float[4] w = {1.0, 2.0, 3.0, 4.0}, float p = {2.0},"
        "float e = {1e-5}, int64[1] a = {-1}>"
        "{ s = Pow(x, p)  m = ReduceMean(s, a)  v = Add(m, e)  r = Sqrt(v)  d = Div(x, r)"
        "  y = Mul(d, w) }"
    )
    path = write(tmp_path, text(norm, opset=18))
    report = api.race(path, only=["onnxruntime extended"], latency_budget_s=None)
    (theirs,) = report.entries
    assert theirs.verdict in ("equal", "within-budget")
    assert theirs.reason.startswith("no valid ONNX: node")
    bare = tmp_path / "bare"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "$@"\n')
    bare.chmod(0o755)
    report = api.race(
        path, only=["ort-transformers", "onnxslim"], interpreter=str(bare), latency_budget_s=None
    )
    assert [entry.verdict for entry in report.entries] == ["not-installed"] * 2
    (tmp_path / "tool.py").write_text("raise ValueError('no such thing')")
    monkeypatch.setattr(foreign_process, "_SCRIPT", tmp_path / "tool.py")
    report = api.race(path, latency_budget_s=None, only=["graphopt @exact"])
    assert report.entries[0].verdict == "failed"
    assert "no such thing" in str(report)


def test_weights_beside_the_original_count_whatever_their_file_is_called(tmp_path):
    values = ", ".join(["1"] * 4096)
    model = onnx.parser.parse_model(
        text(f"(float[N,64] x) => (float[N,64] y) <float[64,64] w = {{{values}}}>"
             "{ a = Identity(x)  y = MatMul(a, w) }")
    )  # fmt: skip
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="some.bin")
    report = api.race(tmp_path / "m.onnx", latency_budget_s=None, only=["graphopt @exact"])
    assert report.file_bytes > 4 * 4096
    assert report.entries[0].file_bytes > 4 * 4096
