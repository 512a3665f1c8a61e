"""Models that other tools quantized are recognised, left as they are, and verified."""

from collections import Counter

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from graphopt import api
from graphopt.analysis.quantized_forms import quantized_forms
from graphopt.demo import demo_files
from graphopt.ir import from_text, load

QUANTIZERS = "quantize-static,quantize-dynamic,quantize-linear-layers,quantize-weights,pack-weights"


class Images(CalibrationDataReader):
    def __init__(self):
        with np.load(demo_files().calibration) as held:
            self.rest = iter([{"image": held["image"][:8]}])

    def get_next(self):
        return next(self.rest, None)


@pytest.fixture(scope="module", params=["qdq", "qoperator", "dynamic"])
def quantized(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("quantized") / f"{request.param}.onnx"
    if request.param == "dynamic":
        quantize_dynamic(demo_files().model, path)
    else:
        quantize_static(
            demo_files().model,
            path,
            Images(),
            quant_format=QuantFormat.QDQ if request.param == "qdq" else QuantFormat.QOperator,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    return path, request.param


def weights(path):
    """Return the bytes of the large weights."""
    held = [onnx.numpy_helper.to_array(item) for item in onnx.load(path).graph.initializer]
    return Counter(array.tobytes() for array in held if array.size > 64)


@pytest.mark.filterwarnings("ignore")
def test_it_is_not_quantized_twice(quantized, tmp_path):
    path, form = quantized
    assert quantized_forms(load(path)) == {form: 10}
    report = api.run_pipeline(
        path, QUANTIZERS, tmp_path / "again.onnx", target="cpu-int8", calibration=[feed()]
    )
    assert weights(tmp_path / "again.onnx") == weights(path)
    assert {edit.pass_name for edit in report.ledger.journal.edits} <= {"clear-value-info"}
    assert api.verify(path, tmp_path / "again.onnx").verdict == "equal"


def test_optimize_says_so_and_ships_what_it_is(quantized):
    path, form = quantized
    made = api.optimize(path, calibration=[feed()], latency_budget_s=None)
    assert made.report.gates_met
    assert any("came quantized: 10 layers" in note for note in made.report.notes)
    assert quantized_forms(load(made.bundle.model_path)) == {form: 10}


def feed():
    with np.load(demo_files().calibration) as held:
        return {"image": held["image"][:4]}


def test_weights_of_integers_under_floats_are_counted_apart():
    model = from_text(
        "(float[N,2] x, float[N] s) => (float[N,2] y, float[N,2] z)"
        "<int8[2,2] w = {1,2,3,4}, float d = {0.5}>"
        "{ v = DequantizeLinear(w, d)  y = MatMul(x, v)  z = MatMul(x, v) }"
    )
    assert quantized_forms(model) == {"weights-only": 2}
    assert quantized_forms(load(demo_files().model)) == {}
