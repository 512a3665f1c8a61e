"""`optimize` for several sizes."""

import json

import pytest

from graphopt import api
from graphopt.cli.main import main
from graphopt.errors import OptionError
from graphopt.ir import from_text, save

TEXT = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[N, 4] x) => (float[N, 4] y) { b = Shape(x) c = ConstantOfShape(b) d = Add(x, c) y = Relu(d) }
"""


@pytest.fixture
def model(tmp_path):
    save(from_text(TEXT), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def test_a_variant_for_each_dims(model, tmp_path, capsys):
    command = ["optimize", str(model), "--target", "cpu-fp32", "--latency", "off", "--json"]
    command += ["--dims", "N=1", "--dims", "N=8", "-o", str(tmp_path / "both")]
    assert main(command) == 0
    told = json.loads(capsys.readouterr().out)
    assert list(told["variants"]) == ["n-1", "n-8"]
    manifest = json.loads((tmp_path / "both" / "manifest.json").read_text())
    assert [entry["name"] for entry in manifest["variants"]] == ["n-1", "n-8"]
    assert manifest["variants"][1]["recipe"]["pipeline"].startswith(
        'specialize-shapes{dims=["N=8"]}'
    )
    assert main(["validate", str(tmp_path / "both")]) == 0


def test_no_bundle_where_a_variant_has_none(model, tmp_path):
    found = api.optimize_variants(
        model,
        variants=[("N=1",), ("N=2",)],
        output=tmp_path / "both",
        target="cpu-int8",
        stages={"float": False, "weights": False},
        latency_budget_s=None,
        repair_budget_s=None,
    )
    assert (found.bundle, found.exit_code) == (None, 1)
    assert "no bundle was written: nothing is right for n-1, n-2" in str(found)
    assert not (tmp_path / "both").exists()


def test_the_same_sizes_twice(model, tmp_path):
    with pytest.raises(OptionError, match="the same sizes"):
        api.optimize_variants(model, variants=[("N=1",), ("N=1",)], output=tmp_path / "both")
