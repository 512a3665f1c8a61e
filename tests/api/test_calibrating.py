"""Samples and the calibration cache, seen from `optimize` and `run_pipeline`."""

import numpy as np
import onnx
import pytest
from jsonschema import Draft202012Validator
from onnx import TensorProto, helper, numpy_helper

import graphopt
from graphopt import api
from graphopt.ir import load, model_digest
from graphopt.report import result_schema, to_html

ROWS = np.random.default_rng(0).standard_normal((40, 8, 16, 16)).astype(np.float32)
FEEDS = [{"x": row[None]} for row in ROWS]


@pytest.fixture
def model(tmp_path):
    weight = np.random.default_rng(1).standard_normal((32, 8, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Relu", ["c"], ["y"])],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 8, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", 32, 14, 14])],
        [numpy_helper.from_array(weight, "w")],
    )
    path = tmp_path / "model.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path
    )
    return path


def test_optimize_says_what_is_doubtful_and_what_the_cache_held(model, tmp_path):
    def run():
        return graphopt.optimize(
            model,
            target="cpu-int8",
            calibration=FEEDS,
            evaluation=[{"x": row["x"] + 5} for row in FEEDS],
            metric=lambda _predict: 1.0,
            gates={"min_cosine": None},
            stages={"tuned-weights": False, "weights": False},  # smaller on so small a model
            latency_budget_s=None,
            calibration_cache=tmp_path / "cache",
        ).report

    first, second = run(), run()
    slugs = [warning.slug for warning in first.sample_warnings]
    assert slugs == ["looks-random", "differs-from-evaluation"]
    assert "warning: samples: looks-random" in str(to_html(first))
    document = first.to_dict()
    Draft202012Validator(result_schema()).validate(document)
    assert document["sample_warnings"][0]["evidence"]["correlation"] < 0.1
    chosen = [report.chosen for report in (first, second)]
    assert chosen == ["static", "static"], first.to_dict()["candidates"]
    note = "calibration: all of 2 values from the cache"
    assert note not in first.notes
    assert note in second.notes


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy", "mse"])
def test_method_reaches_the_model_and_a_hit_changes_nothing(model, tmp_path, method):
    digests = []
    for name in ("first", "second"):
        report = api.run_pipeline(
            model,
            f"quantize-static{{method={method} percentile=90.0}}",
            tmp_path / f"{name}.onnx",
            target="cpu-int8",
            calibration=FEEDS,
            calibration_cache=tmp_path / "cache",
        )
        digests.append(model_digest(load(tmp_path / f"{name}.onnx")))
    assert digests[0] == digests[1]
    assert any("from the cache" in note for note in report.ledger.notes)
    assert [warning.slug for warning in report.sample_warnings] == ["looks-random"]
    scales = {
        item.name: numpy_helper.to_array(item).item()
        for item in onnx.load(tmp_path / "first.onnx").graph.initializer
        if item.name == "x_scale"
    }
    span = {"minmax": np.ptp(ROWS), "percentile": np.ptp(np.quantile(ROWS, [0.05, 0.95]))}
    if method in span:
        assert abs(scales["x_scale"] * 255 / span[method] - 1) < 0.01
    else:
        assert scales["x_scale"] * 255 <= np.ptp(ROWS) * 1.0001


def test_samples_are_inspected(model):
    report = api.inspect_samples(model, FEEDS, evaluation=FEEDS[:35])
    assert [warning.slug for warning in report.warnings] == ["looks-random"]
    assert "40 samples, 40 rows" in str(report)
    assert report.to_dict()["inputs"][0]["shapes"] == [{"shape": [1, 8, 16, 16], "samples": 40}]
