"""`optimize` on the demo model: what is chosen, what is written, what is refused."""

import importlib
import json
import math
from dataclasses import replace

import numpy as np
import onnx
import pytest

import graphopt
from graphopt import ir as gir
from graphopt.demo import demo_files
from graphopt.errors import (
    BudgetExceeded,
    CalibrationDataError,
    MetricError,
    OutputError,
    TargetError,
    UnknownNameError,
    UnsupportedModelError,
)

DEMO = demo_files()
LABELLED = {"evaluation": DEMO.evaluation, "metric": "top1"}


@pytest.fixture(scope="module")
def quantized(tmp_path_factory):
    """The demo model, optimized with everything but timing."""
    place = tmp_path_factory.mktemp("bundles") / "demo.cpu-int8"
    result = graphopt.optimize(
        DEMO.model, calibration=DEMO.calibration, output=place, latency_budget_s=None, **LABELLED
    )
    return result, place


def status_of(result):
    return {item.name: item.status for item in result.report.candidates}


def test_the_smallest_right_candidate_is_chosen_and_the_rest_is_accounted_for(quantized):
    result, _ = quantized
    assert result.report.chosen == "static"
    assert result.gates_met
    assert result.exit_code == 0
    assert status_of(result) == {
        "static": "chosen",
        "dynamic": "rejected",
        "fused": "rejected",
        "outliers": "rejected",
        "outliers-static": "rejected",  # the same model as `static`
        "outliers-fused": "rejected",
        "tuned-weights": "passed",
        "weights": "passed",
        "float": "passed",
    }
    assert result.report.size_bytes.after < 0.3 * result.report.size_bytes.before
    assert abs(result.report.metric.drop) <= 0.01


def test_latency_that_was_not_measured_is_said_so(quantized):
    result, _ = quantized
    gates = {gate.name: gate for gate in result.report.gates}
    assert gates["max_latency_ratio"].status == "not-measured"
    assert gates["max_latency_ratio"].passed is None
    assert "not measured" in str(result)


def test_the_bundle_validates_and_tells_its_recipe(quantized):
    result, place = quantized
    assert graphopt.validate(place).exit_code == 0
    bundle = graphopt.Bundle.load(place)
    recipe = bundle.manifest["recipe"]["pipeline"]
    assert recipe.startswith("freeze-initializers,@exact,")
    assert ",quantize-static" in recipe
    model = gir.load(bundle.model_path)
    assert model.metadata_props["graphopt.recipe"] == recipe
    report = json.loads((place / "report.json").read_text())
    told = json.loads(json.dumps(result.report.to_dict()))
    local = {"source": "model.onnx", "output": None}  # no path of this machine is shipped
    assert report["details"]["weights_after"]["INT8"] > 0  # what pages show, of the bundle alone
    assert report | {"details": None} == told | local
    edits = json.loads((place / "journal.json").read_text())["edits"]
    assert any(edit["pass_name"] == "quantize-static" for edit in edits)


def test_the_same_call_gives_the_same_model(quantized, tmp_path):
    _, place = quantized
    again = tmp_path / "again"
    graphopt.optimize(
        DEMO.model, calibration=DEMO.calibration, output=again, latency_budget_s=None, **LABELLED
    )
    assert (again / "model.onnx").read_bytes() == (place / "model.onnx").read_bytes()


def test_without_samples_nothing_static_is_built(tmp_path):
    result = graphopt.optimize(DEMO.model, output=tmp_path / "a", latency_budget_s=None)
    assert status_of(result)["static"] == "rejected"
    assert any("--calibration" in note for note in result.report.notes)
    assert result.report.chosen == "weights"
    assert result.report.size_bytes.after < 0.3 * result.report.size_bytes.before


def test_where_nothing_else_is_wanted_the_original_is_kept(tmp_path):
    result = graphopt.optimize(
        DEMO.model, output=tmp_path / "b", stages={"weights": False}, latency_budget_s=None
    )
    assert result.report.chosen == "float"
    assert (tmp_path / "b" / "model.onnx").read_bytes() == DEMO.model.read_bytes()
    # `@exact` leaves shapes open for the runtime's speed alone: neither that nor its recipe is shipped.
    assert result.report.pipeline == ""
    assert json.loads((tmp_path / "b" / "journal.json").read_text())["edits"] == []
    assert any("which was not measured" in note for note in result.report.notes)
    assert graphopt.validate(tmp_path / "b").exit_code == 0


@pytest.mark.parametrize("verdict", ["faster", "same", "slower", "too-noisy"])
def test_shapes_are_left_open_alone_only_where_that_is_faster(tmp_path, monkeypatch, verdict):
    measure = importlib.import_module("graphopt.search.measure")  # hidden by the function
    timed = measure.measure_latency
    monkeypatch.setattr(
        measure,
        "measure_latency",
        lambda *args, **options: replace(timed(*args, **options), verdict=verdict),
    )
    text = "g (float[N, 4] x) => (float[N, 4] y) <float[N, 4] a> { a = Exp(x) y = Relu(a) }"
    path, place = saved(tmp_path, text), tmp_path / "b"
    result = graphopt.optimize(path, output=place, target="cpu-fp32", latency_budget_s=0.1)
    assert result.report.chosen == "exact"
    is_original = (place / "model.onnx").read_bytes() == path.read_bytes()
    assert is_original == (verdict != "faster")
    assert any(f"timing was `{verdict}`" in note for note in result.report.notes) == is_original
    edits = json.loads((place / "journal.json").read_text())["edits"]
    assert [edit["pass_name"] for edit in edits] == ["clear-value-info"] * (not is_original)
    assert result.report.pipeline == ("" if is_original else "@exact")


def test_a_goal_out_of_reach_is_written_and_marked(tmp_path):
    result = graphopt.optimize(
        DEMO.model,
        calibration=DEMO.calibration,
        output=tmp_path / "b",
        gates={"max_size_ratio": 0.01},
        latency_budget_s=None,
    )
    assert (result.exit_code, result.gates_met) == (1, False)
    assert result.report.chosen == "static"
    assert graphopt.Bundle.load(tmp_path / "b").manifest["gates_met"] is False
    assert graphopt.validate(tmp_path / "b").exit_code == 1
    with pytest.raises(BudgetExceeded):
        result.bundle.save(tmp_path / "shipped")
    assert not (tmp_path / "shipped").exists()


def test_without_a_right_candidate_nothing_is_written(tmp_path):
    result = graphopt.optimize(
        DEMO.model,
        calibration=DEMO.calibration,
        output=tmp_path / "b",
        gates={"min_sqnr_db": 1000.0},
        stages={"float": False},
        latency_budget_s=None,
    )
    assert (result.exit_code, result.report.chosen) == (1, None)
    assert status_of(result)["static"] == "broken"
    with pytest.raises(BudgetExceeded, match="no candidate passes"):
        result.bundle  # noqa: B018
    assert not list(tmp_path.iterdir())


def test_the_original_is_known_again_by_its_file(quantized):
    _, place = quantized
    report = graphopt.validate(place, reference=DEMO.model).to_dict()
    assert report["exit_code"] == 0
    assert "another digest" not in report["checks"][-1]["detail"]


def test_in_python_the_bundle_is_saved_where_the_caller_wants(tmp_path):
    samples = [
        {"image": np.zeros((2, 1, 32, 32), np.float32)},
        {"image": np.ones((1, 1, 32, 32), np.float32)},
    ]
    # What holds the bundle is gone before the bundle is read.
    bundle = graphopt.optimize(DEMO.model, calibration=samples, latency_budget_s=None).bundle
    bundle.save(tmp_path / "shipped")
    place = bundle.path
    del bundle
    assert not place.exists()
    assert graphopt.validate(tmp_path / "shipped").exit_code == 0


def test_a_metric_function_gets_a_predictor(tmp_path):
    seen = []

    def largest(predict):
        outputs = predict({"image": np.zeros((1, 1, 32, 32), np.float32)})
        seen.append(outputs["logits"].shape)
        return 1.0

    result = graphopt.optimize(DEMO.model, metric=largest, latency_budget_s=None)
    assert result.report.metric.name == "largest"
    assert set(seen) == {(1, 10)}


def test_a_candidate_that_the_metric_cannot_take_is_rejected_alone():
    values = iter([1.0, math.nan])

    def once_well(predict):
        predict({"image": np.zeros((1, 1, 32, 32), np.float32)})
        return next(values, 1.0)

    result = graphopt.optimize(DEMO.model, metric=once_well, latency_budget_s=None)
    rejected = [item for item in result.report.candidates if "metric" in (item.reason or "")]
    assert [item.status for item in rejected] == ["rejected"]
    assert result.report.chosen not in (None, rejected[0].name)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"target": "cpu-int9"}, UnknownNameError),
        ({"gates": {"max_latency": 1.0}}, UnknownNameError),
        ({"stages": {"nothing": True}}, UnknownNameError),
        ({"metric": "accuracy"}, UnknownNameError),
        ({"metric": "top1"}, MetricError),
        (
            {"calibration": [{"picture": np.zeros((1, 1, 32, 32), np.float32)}]},
            CalibrationDataError,
        ),
        ({"calibration": [{"image": np.zeros((1, 1, 32, 32), np.float64)}]}, CalibrationDataError),
        ({"calibration": [{"image": np.zeros((1, 3, 32, 32), np.float32)}]}, CalibrationDataError),
        (
            {"calibration": [{"image": np.full((1, 1, 32, 32), np.nan, np.float32)}]},
            CalibrationDataError,
        ),
        ({"calibration": []}, CalibrationDataError),
    ],
)
def test_what_cannot_be_used_is_refused_before_any_work(options, error, tmp_path):
    with pytest.raises(error):
        graphopt.optimize(DEMO.model, output=tmp_path / "b", **options)
    assert not list(tmp_path.iterdir())


def test_an_existing_output_is_kept_unless_forced(quantized):
    _, place = quantized
    before = (place / "manifest.json").read_bytes()
    with pytest.raises(OutputError, match="exists"):
        graphopt.optimize(DEMO.model, output=place)
    assert (place / "manifest.json").read_bytes() == before


def test_a_model_with_custom_operators_is_refused(tmp_path):
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20, "acme" : 1]> '
        "g (float[1] x) => (float[1] z) { z = acme.Secret(x) }"
    )
    onnx.save(model, tmp_path / "custom.onnx")
    with pytest.raises(UnsupportedModelError, match="cannot load") as caught:
        graphopt.optimize(tmp_path / "custom.onnx", output=tmp_path / "b")
    assert "Secret" in caught.value.why
    assert not (tmp_path / "b").exists()


def saved(tmp_path, graph, **weights):
    model = gir.from_text(f'<ir_version: 10, opset_import: ["": 17]> {graph}')
    for name, array in weights.items():
        model.graph.initializers[name].const_value = gir.as_tensor(array, name)
    path = tmp_path / "made.onnx"
    gir.save(model, path)
    return path


def test_an_output_that_turns_infinite_is_wrong_whatever_the_gates(tmp_path):
    ones = np.ones((64, 64), np.float32)
    path = saved(
        tmp_path,
        "g (float[1, 64] x) => (float[1, 64] y) <float[64, 64] w = {0}>"
        " { h = MatMul(x, w) y = Log(h) }".replace("{0}", "{" + ",".join(["0"] * 4096) + "}"),
        w=ones,
    )
    # The last one is lost in the first step of the integers: only the third sample shows it.
    samples = [{"x": np.full((1, 64), value, np.float32)} for value in (1.0, 0.5, 1e-4)]
    result = graphopt.optimize(
        path,
        calibration=samples,
        gates={"min_cosine": None},
        stages=dict.fromkeys(
            (
                "outliers",
                "outliers-static",
                "outliers-fused",
                "dynamic",
                "tuned-weights",
                "weights",
                "float",
            ),
            False,
        ),
        latency_budget_s=None,
    )
    static = result.report.candidates[0]
    assert (static.name, static.status, result.exit_code) == ("static", "broken", 1)
    assert "output `y`: -inf at 64 of 64 positions" in static.reason
    assert result.report.chosen is None


def test_what_depends_on_random_numbers_alone_is_only_left_as_it_is(tmp_path):
    graph = "g (float[64, 64] x) => (float[64, 64] y) { n = RandomNormalLike(x) y = MatMul(x, n) }"
    result = graphopt.optimize(saved(tmp_path, graph), target="cpu-fp32", latency_budget_s=None)
    assert (result.report.chosen, result.exit_code) == ("exact", 0)
    assert any("depend on random numbers" in note for note in result.report.notes)
    graph = graph.replace("{ n =", "{ i = Identity(x) n =").replace("MatMul(x, n)", "MatMul(i, n)")
    result = graphopt.optimize(saved(tmp_path, graph), target="cpu-fp32", latency_budget_s=None)
    assert (result.report.chosen, result.exit_code) == (None, 1)
    assert "nothing to compare" in result.report.candidates[0].reason
    assert any("depend on random numbers" in note for note in result.report.notes)


def test_names_and_a_recipe_do_not_make_a_small_model_larger(tmp_path):
    graph = "g (float[4, 4] x) => (float[4, 4] y) { a = Relu(x) b = Relu(x) y = Add(a, b) }"
    path = saved(tmp_path, graph)
    result = graphopt.optimize(path, output=tmp_path / "b", latency_budget_s=None)
    (size,) = (gate for gate in result.report.gates if gate.name == "max_size_ratio")
    assert (result.exit_code, result.report.chosen) == (0, "float")
    assert size.passed
    growth = (tmp_path / "b" / "model.onnx").stat().st_size - path.stat().st_size
    assert growth > 0
    assert size.value == (path.stat().st_size + growth) / path.stat().st_size
    assert f"{growth} bytes" in size.reason
    limit = {"max_size_ratio": 0.999}
    result = graphopt.optimize(path, gates=limit, latency_budget_s=None)
    assert (result.exit_code, result.gates_met) == (1, False)


def test_a_file_that_a_bundle_is_to_hold_is_missed_before_any_work(tmp_path):
    text = (
        'name = "board"\nsummary = "x"\nextends = "cpu-fp32"\n[package]\ninclude = ["labels.txt"]\n'
    )
    (tmp_path / "board.toml").write_text(text)
    with pytest.raises(TargetError, match="is not a file"):  # and not: no such model
        graphopt.optimize(
            tmp_path / "none.onnx", target=tmp_path / "board.toml", output=tmp_path / "made"
        )
