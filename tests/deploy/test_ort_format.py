"""Bundles in ONNX Runtime's own format, with what a reduced build must hold."""

import json

import pytest

from graphopt import api
from graphopt.deploy import Bundle, convert_to_ort, validate
from graphopt.errors import TargetError
from graphopt.ir import from_text, save
from graphopt.runtime import SessionOptions, shared_worker
from graphopt.targets import load_target

TEXT = """
<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
net (float[N, 3] x) => (float[N, 2] y)
<float[3, 2] weight = {1, 2, 3, 4, 5, 6}>
{ product = MatMul(x, weight)  y = com.microsoft.Gelu(product) }
"""


@pytest.fixture
def target(tmp_path):
    (tmp_path / "tiny.toml").write_text(
        'name = "tiny"\nsummary = "small"\nextends = "cpu-fp32"\n[package]\nformat = "ort"\n'
    )
    return load_target(tmp_path / "tiny.toml")


@pytest.fixture
def model(tmp_path):
    return save(from_text(TEXT), tmp_path / "net.onnx")[0]


def test_a_bundle_in_the_runtimes_own_format(model, target, tmp_path):
    made = api.optimize(model, target=target, output=tmp_path / "out", latency_budget_s=None)
    manifest = made.bundle.manifest
    assert manifest["model"]["file"] == "model.ort"
    assert manifest["model"]["format"] == "ort"
    assert (tmp_path / "out/required_operators.config").read_text() == (
        "ai.onnx;17;MatMul\ncom.microsoft;1;Gelu\n"
    )
    assert manifest["device"]["operators"] == {"": ["MatMul"], "com.microsoft": ["Gelu"]}
    assert manifest["device"]["opsets"] == {"": 17, "com.microsoft": 1}
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert any("gates and times are those of the ONNX file" in note for note in report["notes"])
    assert validate(tmp_path / "out").exit_code == 0
    Bundle.load(tmp_path / "out").save(tmp_path / "out.zip")
    assert validate(tmp_path / "out.zip").exit_code == 0
    content = bytearray((tmp_path / "out/model.ort").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "out/model.ort").write_bytes(content)
    assert validate(tmp_path / "out").exit_code == 2


def test_other_providers_are_refused(model):
    options = SessionOptions(providers=(("CUDAExecutionProvider", {}),))
    with pytest.raises(TargetError, match="for the CPU provider"):
        convert_to_ort(model, options, shared_worker())


def test_what_the_runtime_cannot_convert_is_an_error(tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"nothing")
    with pytest.raises(TargetError, match="cannot be written in the format"):
        convert_to_ort(tmp_path / "net.onnx", SessionOptions(), shared_worker())
