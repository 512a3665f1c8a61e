"""Targets that are not on this machine, and targets that take no open sizes."""

import numpy as np
import pytest

import graphopt
from graphopt.errors import OptionError, TargetError
from graphopt.ir import from_text, load, save
from graphopt.runtime import architecture
from graphopt.search.absence import stand_in, why_absent
from graphopt.search.fixed_sizes import with_fixed_sizes
from graphopt.targets import load_target

TEXT = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[N, T, 8] x) => (float[N, T, 8] y) <float[8, 8] w = {%s}>
{ a = MatMul(x, w) b = Gelu(a) c = Add(b, x) y = Softmax<axis = -1>(c) }
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    weights = np.random.default_rng(0).standard_normal(64)
    text = TEXT % ", ".join(f"{weight:.4f}" for weight in weights)
    path = tmp_path_factory.mktemp("absent") / "m.onnx"
    save(from_text(text), path)
    return path


def samples(rows=2, tokens=3):
    generator = np.random.default_rng(1)
    return [{"x": generator.standard_normal((rows, tokens, 8)).astype(np.float32)} for _ in "abcd"]


def test_why_a_target_is_absent():
    assert why_absent(load_target("cpu-int8")) is None
    assert why_absent(load_target("cuda-fp32")) == "this machine has no CUDAExecutionProvider"
    wasm = why_absent(load_target("web-wasm-int8"))
    assert wasm == f"it is for wasm32, and this machine is {architecture()}"


def test_the_stand_in_computes_as_onnx_says():
    options = stand_in(load_target("tensorrt-int8").session_options())
    assert options.providers == (("CPUExecutionProvider", {}),)
    assert options.optimization == "disabled"


@pytest.mark.parametrize("name", ["cuda-fp16", "web-webgpu-fp16"])
def test_an_absent_target_is_built_and_marked(model, tmp_path, name):
    result = graphopt.optimize(
        model, target=name, calibration=samples(), output=tmp_path / "bundle", repair_budget_s=None
    )
    assert result.report.not_verified is not None
    assert any(note.startswith("not verified here: ") for note in result.report.notes)
    assert "half" in result.report.chosen
    bundle = result.bundle
    assert bundle.manifest["verified_on"] is None
    assert bundle.manifest["measured"]["placement"] == "estimated"
    gates = {gate.name: gate for gate in result.report.gates}
    assert gates["max_latency_ratio"].passed is None
    assert "estimated" in gates["max_partitions"].reason
    assert graphopt.validate(bundle.path).exit_code == 2  # its provider is not here


def test_an_old_runtime_gets_what_it_loads(model, tmp_path):
    result = graphopt.optimize(
        model,
        target="edge-arm64",
        output=tmp_path / "bundle",
        repair_budget_s=None,
        gates={"max_size_ratio": None},
        stages=dict.fromkeys(("static", "unsigned", "dynamic", "tuned-weights"), False),
    )
    shipped = load(result.bundle.model_path)
    assert (shipped.opset_imports[""], shipped.ir_version) == (19, 9)
    assert result.bundle.manifest["device"]["minimum_onnxruntime"] == "1.16"
    assert "Gelu" not in {node.op_type for node in shipped.graph}


def test_open_sizes_are_refused_with_a_hint_where_the_target_takes_none(model):
    with pytest.raises(TargetError, match="takes no open sizes") as caught:
        graphopt.optimize(model, target="edge-coreml")
    assert caught.value.hint == "fix them, for example with `--dims N=1,T=1`"


def test_fixed_sizes_hold_for_the_candidate_and_for_the_samples(model, tmp_path):
    result = graphopt.optimize(
        model,
        target="edge-coreml",
        dims=("N=2", "T=3"),
        calibration=samples(),
        output=tmp_path / "bundle",
        repair_budget_s=None,
    )
    (tensor,) = result.bundle.manifest["model"]["inputs"]
    assert tensor["dims"] == [2, 3, 8]
    assert result.report.pipeline.startswith('specialize-shapes{dims=["N=2","T=3"]},')


def test_samples_of_other_sizes_are_refused(model):
    with pytest.raises(graphopt.errors.CalibrationDataError):
        graphopt.optimize(
            model, target="edge-coreml", dims=("N=2", "T=4"), calibration=samples(tokens=3)
        )


def test_sizes_that_cannot_be_set_are_named(model):
    target = load_target("cpu-int8").with_dims(("M=1",))
    with pytest.raises(OptionError, match="cannot be set"):
        with_fixed_sizes(load(model), target)
    plain = load_target("cpu-int8")
    original = load(model)
    assert with_fixed_sizes(original, plain) is original
