"""What the page of a bundle shows of the insides of a model."""

import numpy as np
import pytest

from graphopt.errors import RunError
from graphopt.ir import from_text, save
from graphopt.runtime import shared_worker
from graphopt.search import report_details as module
from graphopt.search.report_details import report_details

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[2, 4] x) => (float[2, 3] y)
<float[4, 4] a = {%s}, float[4, 3] b = {1,2,3,4,5,6,7,8,9,10,11,12}>
{ inner = MatMul(x, a)  shifted = Relu(inner)  y = MatMul(shifted, b) }
"""
ONES, ALMOST = ", ".join(["1"] * 16), ", ".join(["1"] * 15 + ["1.5"])
FEED = {"x": np.arange(8, dtype=np.float32).reshape(2, 4)}


def details(first, second, tmp_path):
    path = save(from_text(TEXT % second), tmp_path / "second.onnx")[0]
    return report_details(from_text(TEXT % first), path, FEED, None, shared_worker())


def test_a_layer_that_differs_is_measured(tmp_path):
    found = details(ONES, ALMOST, tmp_path)
    (layer,) = found.layers
    assert (layer.name, layer.operator) == ("inner", "MatMul")
    assert 5 < layer.sqnr_db < 30
    assert found.weights_before == {"FLOAT": 4 * (16 + 12)}
    assert (found.quantiles_before, found.notes) == ((), ())


def test_equal_layers_have_no_noise(tmp_path):
    assert details(ONES, ONES, tmp_path).layers[0].sqnr_db is None


def test_what_does_not_run_is_noted(tmp_path, monkeypatch):
    def fail(*_):
        raise RunError("it does not run", why="no memory")

    monkeypatch.setattr(module, "_run", fail)
    found = details(ONES, ALMOST, tmp_path)
    assert found.layers == ()
    assert found.notes == ("errors by layer could not be measured: no memory",)


def test_large_models_are_not_written_again(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_LARGEST_BYTES", 0)
    monkeypatch.setattr(module, "_run", lambda *_: pytest.fail("it ran"))
    assert "were not measured" in details(ONES, ALMOST, tmp_path).notes[0]
