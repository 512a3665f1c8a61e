"""`inspect --placement`."""

import json

import pytest

from graphopt import api
from graphopt.cli.main import main
from graphopt.errors import OptionError, TargetError
from graphopt.ir import from_text, save


@pytest.fixture
def model(tmp_path):
    text = "(float[N, 4] x) => (float[N, 4] y) { a = Sin(x) b = Relu(a) y = Sinh(b) }"
    save(from_text(text), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def test_measured_where_the_target_is_here(model):
    found = api.inspect_placement(model, "cpu-fp32")
    assert (found.is_estimate, found.partitions) == (False, 1)


def test_estimated_where_it_is_not(model, capsys):
    assert main(["inspect", str(model), "--placement", "cuda-fp32", "--json"]) == 0
    placement = json.loads(capsys.readouterr().out)["placement"]
    assert placement["is_estimate"] is True
    assert placement["operators_off"] == {"Sinh": 1}
    assert main(["inspect", str(model), "--placement", "cuda-fp32"]) == 0
    assert "placement estimated: 1 partition on CUDAExecutionProvider" in capsys.readouterr().out


def test_sizes_for_providers_that_take_no_open_ones(model):
    with pytest.raises(TargetError, match="takes no open sizes"):
        api.inspect_placement(model, "edge-nnapi")
    assert api.inspect_placement(model, "edge-nnapi", dims=["N=1"]).partitions == 1


def test_sizes_alone_are_not_passed_over_in_silence(model, capsys):
    assert main(["inspect", str(model), "--dims", "N=1"]) == 2
    assert "`--dims` has nothing to fix sizes for" in capsys.readouterr().err


def test_a_provider_of_which_nothing_is_known(model, tmp_path):
    text = """name = "made-up"
summary = "made up"
[[runtime.providers]]
name = "MadeUpExecutionProvider"
[candidates.plain]
pipeline = ""
"""
    (tmp_path / "made-up.toml").write_text(text)
    with pytest.raises(OptionError, match="nothing is known of what MadeUpExecutionProvider runs"):
        api.inspect_placement(model, tmp_path / "made-up.toml")
