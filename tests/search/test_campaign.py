"""Candidates, from a prepared workbench to a choice."""

import numpy as np
import onnx_ir as ir
import pytest

import graphopt
from graphopt import ir as gir
from graphopt.search import Reporter, explore, prepare
from graphopt.targets import load_target


class ReluToAbs(ir.passes.InPlacePass):
    """A pass of somebody else that is wrong."""

    def call(self, model):
        for node in model.graph:
            if node.op_type == "Relu":
                node.op_type = "Abs"
                return ir.passes.PassResult(model, modified=True)
        return ir.passes.PassResult(model, modified=False)


DECLARED = """<ir_version: 10, opset_import: ["": 17]>
g (float[N, 4] x) => (float[N, 4] y) <float[N, 4] a> { a = Exp(x)  y = Relu(a) }"""

TARGET = """name = "twice"
summary = "four candidates, of which two are the same and one has nothing to fuse"
extends = "cpu-fp32"

[pipeline]
exact = "@lossless"  # `@exact` leaves no declarations for the candidates to differ in

[candidates.bare]
summary = "no declared types of intermediate values"
pipeline = "clear-value-info"

[candidates.again]
summary = "the same in other words"
pipeline = "eliminate-identities,clear-value-info"
"""


def test_only_what_differs_and_is_what_it_says_is_measured(tmp_path):
    path, target = tmp_path / "declared.onnx", tmp_path / "twice.toml"
    gir.save(gir.from_text(DECLARED), path)
    target.write_text(TARGET, encoding="utf-8")
    bench = prepare(
        path,
        load_target(target),
        calibration=None,
        evaluation=None,
        metric=None,
        latency_budget_s=None,
        seed=0,
        report=Reporter(),
    )
    outcome = explore(bench, tmp_path)
    assert [item.built.candidate.name for item in outcome.measured] == ["exact", "bare"]
    assert {item.candidate.name: item.reason for item in outcome.rejected} == {
        "fused": "its passes found nothing to change",
        "again": "the same model as `bare`",
    }


def test_weights_beside_the_file_count_as_bytes_of_the_original(tmp_path):
    path = tmp_path / "beside.onnx"
    rows = ", ".join(["1"] * 4096)
    text = (
        f"(float[N,64] x) => (float[N,64] y) <float[64,64] w = {{{rows}}}> {{ y = MatMul(x, w) }}"
    )
    gir.save(gir.from_text(text), path, external_data=True)
    bench = prepare(
        path,
        load_target("cpu-fp32"),
        calibration=None,
        evaluation=None,
        metric=None,
        latency_budget_s=None,
        seed=0,
        report=Reporter(),
    )
    outcome = explore(bench, tmp_path)
    files = [file for file in tmp_path.iterdir() if file.name.startswith("beside")]
    assert len(files) > 1
    assert outcome.original_bytes == sum(file.stat().st_size for file in files)


def test_a_stage_that_fails_is_told_with_its_reason_and_its_reproducer(tmp_path, monkeypatch):
    """It is left out, and the rest is shipped: nobody would look for it in a table of passes."""
    monkeypatch.chdir(tmp_path)
    gir.save(gir.from_text("(float[N,4] x) => (float[N,4] y) { y = Relu(x) }"), "m.onnx")
    text = """name = "board"
summary = "a stage that is wrong"
extends = "cpu-fp32"
[pipeline]
wrong = 'external-onnx-ir{factory="PLACE:ReluToAbs"}'
""".replace("PLACE", __name__)
    (tmp_path / "board.toml").write_text(text, encoding="utf-8")
    report = graphopt.optimize("m.onnx", target="board.toml", latency_budget_s=None).report
    (note,) = (note for note in report.notes if note.startswith("left out of every candidate"))
    (folder,) = tmp_path.glob("graphopt-repro-*")
    assert "external-onnx-ir: changed an output by more than its contract allows" in note
    assert note.endswith(f"`graphopt reproduce {folder.name}`")


DETECTIONS = """(float[N,4] x) => (int64[2,K] found)
{ i = Identity(x)  m = IsNaN(i)  found = NonZero(m) }"""


@pytest.mark.parametrize(("sees", "chosen"), [(False, None), (True, "exact")])
def test_two_empty_outputs_hold_no_gate(tmp_path, sees, chosen):
    """Where nothing is detected on any input, nothing is known of a candidate."""
    gir.save(gir.from_text(DETECTIONS), tmp_path / "m.onnx")
    if sees:
        text = DETECTIONS.replace("IsNaN(i)", "Cast<to=9>(i)")
        gir.save(gir.from_text(text), tmp_path / "m.onnx")
    report = graphopt.optimize(tmp_path / "m.onnx", target="cpu-fp32", latency_budget_s=None).report
    assert report.chosen == chosen
    reasons = {gate.name: gate.reason for gate in report.gates if gate.passed is False}
    assert set(reasons) == (set() if sees else {"max_rel_error", "min_cosine"})
    assert all("no output held any finite element" in reason for reason in reasons.values())
    assert any("held no element, or no finite one" in note for note in report.notes) is not sees


FAR_OFF = """(float[N,64] x) => (float[N,64] y) <float[1] far = {1000.0}>
{ big = ReduceMax<keepdims=0>(x)  is_far = Greater(big, far)
  z = MatMul(x, x)  y = Where(is_far, z, x) }"""


@pytest.mark.parametrize("reaches", [False, True])
def test_inputs_that_never_reach_what_was_approximated_hold_no_gate(tmp_path, reaches):
    """As of a detector of speech, whose generated inputs were too short for its recurrent layer."""
    rng = np.random.default_rng(0)
    model = gir.from_text(FAR_OFF)
    weight = ir.tensor(rng.standard_normal((64, 64)).astype(np.float32), name="w")
    value = ir.Value(name="w", type=ir.TensorType(weight.dtype), shape=weight.shape)
    value.const_value = weight
    model.graph.register_initializer(value)
    (product,) = (node for node in model.graph if node.op_type == "MatMul")
    product.replace_input_with(1, value)
    gir.save(model, tmp_path / "m.onnx")
    samples = None
    if reaches:
        samples = tmp_path / "samples"
        samples.mkdir()
        np.savez(samples / "0.npz", x=2000 * rng.random((2, 64), np.float32) + 1000)
    report = graphopt.optimize(
        tmp_path / "m.onnx", target="cpu-int8", calibration=samples, latency_budget_s=None
    ).report
    (weights,) = (item for item in report.candidates if item.name == "weights")
    assert (weights.status == "broken") is not reaches
    assert any("show nothing" in (gate.reason or "") for gate in weights.gates) is not reaches
    # Nor is it mended, which would take minutes: no inputs tell when it is.
    assert not any("could stay in float" in note for note in report.notes)
    assert (report.chosen == "float") is not reaches


def test_the_original_itself_needs_no_comparison(tmp_path):
    text = DETECTIONS.replace("i = Identity(x)  m = IsNaN(i)", "m = IsNaN(x)")
    gir.save(gir.from_text(text), tmp_path / "m.onnx")
    report = graphopt.optimize(tmp_path / "m.onnx", target="cpu-fp32", latency_budget_s=None).report
    assert report.gates_met


def test_what_stages_were_checked_on_says_nothing_of_the_samples(tmp_path):
    """Stages are checked on generated inputs, where nothing is found, and gates on real ones."""
    text = """(float[N,4] x) => (int64[2,K] found) <float c = {100.0}>
    { i = Identity(x)  m = Greater(i, c)  found = NonZero(m) }"""
    gir.save(gir.from_text(text), tmp_path / "m.onnx")
    report = graphopt.optimize(
        tmp_path / "m.onnx",
        target="cpu-fp32",
        latency_budget_s=None,
        calibration=[{"x": np.float32([[1.0, 200.0, 2.0, 300.0]])}],
    ).report
    assert report.chosen == "exact"
    assert not any("held no element" in note for note in report.notes)
