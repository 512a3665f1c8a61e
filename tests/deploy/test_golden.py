"""What is recorded for the device, and how tolerances are chosen."""

import json

import numpy as np
import pytest

import graphopt
from graphopt.deploy import Golden, GoldenSample, OutputRule, record_golden
from graphopt.deploy.agreement import difference
from graphopt.deploy.golden import FLOORS, SPREAD_FACTOR
from graphopt.ir import from_text, save
from graphopt.runtime import SessionOptions, shared_worker
from graphopt.verification import compare_outputs


def record(models, feeds, **settings):
    return record_golden(
        models.original,
        models.candidate,
        feeds,
        options=SessionOptions(),
        worker=shared_worker(),
        **settings,
    )


def test_records_both_models(models, feeds):
    golden = record(models, feeds)
    assert len(golden.samples) == 3
    for sample, fed in zip(golden.samples, feeds, strict=True):
        assert sample.inputs["x"] is fed["x"]
        difference = np.abs(sample.original["y"] - sample.model["y"]).max()
        assert 0 < difference < 0.02
    assert golden.note is None


def test_tolerances_never_fall_below_the_floor_of_the_type(models, feeds):
    rules = record(models, feeds).outputs
    assert rules["y"].bound == FLOORS["float32"]
    assert rules["label"].bound == 0.0


def test_tolerances_grow_with_what_other_kernels_do_to_the_model(tmp_path, models):
    # Rounding of a sum of many terms of very different size depends on the order.
    text = """
        <ir_version: 8, opset_import: ["" : 17]>
        rough (float[N, 3] x, int64[N] row) => (float[N, 1] y, int64[N] label)
        <float[1] huge = {3e7}, int64[1] axes = {1}>
        {
          large = Add(x, huge)
          small = Sub(large, huge)
          y = ReduceSum(small, axes)
          label = ArgMax<axis = 1, keepdims = 0>(x)
        }
    """
    save(from_text(text), tmp_path / "rough.onnx")
    models = type(models)(original=tmp_path / "rough.onnx", candidate=tmp_path / "rough.onnx")
    feeds = [{"x": np.float32([[0.4, 1.3, 2.2]]), "row": np.int64([0])}]

    class Worker:
        """Runs the model, and lets the kernels of the optimized session be off by 1 %."""

        def load(self, path, options):
            session = shared_worker().load(path, options)
            if options.optimization == "all":
                plain = session.run
                session.run = lambda fed: {
                    name: value * np.asarray(1.01, value.dtype)
                    if value.dtype.kind == "f"
                    else value
                    for name, value in plain(fed).items()
                }
            return session

    golden = record_golden(
        models.original, models.candidate, feeds, options=SessionOptions(), worker=Worker()
    )
    assert golden.outputs["y"].bound == pytest.approx(SPREAD_FACTOR * 0.01 / 1.01, rel=1e-3)
    assert golden.outputs["y"].same_kernels_bound == FLOORS["float32"]


def test_an_output_that_other_kernels_change_in_kind_is_not_compared(models, feeds):
    class Worker:
        """Lets the kernels of the optimized session return a NaN in the place of a number."""

        def load(self, path, options):
            session = shared_worker().load(path, options)
            if options.optimization == "all":
                plain = session.run

                def run(fed):
                    found = plain(fed)
                    return {**found, "y": np.where(found["y"] < np.inf, np.nan, found["y"])}

                session.run = run
            return session

    golden = record_golden(
        models.original, models.candidate, feeds, options=SessionOptions(), worker=Worker()
    )
    assert golden.outputs["y"].compare == "nothing"
    assert golden.outputs["label"].compare == "values"
    json.dumps(golden.to_dict(), allow_nan=False)


def test_large_outputs_are_thinned_out_and_samples_left_out(models, feeds):
    golden = record(models, feeds, limit_bytes=200)
    assert golden.outputs["y"].stride == 1
    assert 0 < len(golden.samples) < 3
    assert "left out for their size" in golden.note
    golden = record(models, feeds[1:], limit_bytes=40)
    stride = golden.outputs["y"].stride
    assert stride > 1
    assert golden.outputs["y"].note == f"one element of {stride} is recorded"
    whole = record(models, feeds[1:]).samples[0]
    np.testing.assert_array_equal(
        golden.samples[0].model["y"], whole.model["y"].reshape(-1)[::stride]
    )


def test_outputs_that_depend_on_random_operators_keep_their_shape_only(models, feeds):
    rule = record(models, feeds, random_outputs=frozenset({"y"})).outputs["y"]
    assert (rule.compare, rule.note) == ("shape", "it depends on random operators")


def test_a_model_that_cannot_run_here_is_recorded_without_outputs(models, feeds):
    golden = record(models, feeds, is_verified=False)
    assert all(sample.model is None for sample in golden.samples)
    assert set(golden.files()) == {
        f"golden/{kind}/{index}.npz" for kind in ("inputs", "original") for index in range(3)
    }


def test_files_take_every_name_and_are_the_same_twice(tmp_path):
    arrays = {"file": np.arange(3), "a/b:0": np.float32([1]), "text": np.array(["ä", "b"])}
    sample = GoldenSample(inputs=arrays, original={}, model=None)
    golden = Golden(samples=(sample,), outputs={"y": OutputRule()})
    assert golden.files() == golden.files()
    (tmp_path / "0.npz").write_bytes(golden.files()["golden/inputs/0.npz"])
    with np.load(tmp_path / "0.npz", allow_pickle=False) as found:
        assert set(found) == set(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[name], array)


PAIRS = {
    "equal": ([1.0, -2.0], [1.0, -2.0]),
    "close": ([1.0, -2.0, 0.5], [1.0, -2.001, 0.5]),
    "opposite": ([1.0, -2.0], [-1.0, 2.0]),
    "zero reference": ([0.0, 0.0], [0.0, 1.0]),
    "zero candidate": ([0.0, 1.0], [0.0, 0.0]),
    "nan and inf": ([np.nan, np.inf, 1.0], [np.nan, np.inf, 1.5]),
    "tiny": ([1e-40, 2e-40], [1e-40, 1e-40]),
    "huge": ([3e38, -1e38], [3e38, 1e38]),
    "empty": ([], []),
}


@pytest.mark.parametrize("name", PAIRS)
def test_numbers_on_the_device_are_those_of_the_gates(name):
    reference, values = (np.array(part, dtype=np.float32) for part in PAIRS[name])
    ours = difference(reference, values)
    theirs = compare_outputs({"y": reference}, {"y": values})["y"]
    assert ours["mismatch"] is None
    assert ours["error"] == pytest.approx(theirs.max_rel, rel=1e-9)
    assert ours["cosine"] == pytest.approx(theirs.cosine, rel=1e-9)
    assert ours["sqnr_db"] == pytest.approx(theirs.sqnr_db, rel=1e-9)


@pytest.mark.parametrize(
    ("reference", "values", "found"),
    [
        (np.zeros(2, np.float32), np.zeros(3, np.float32), "shape (3,), expected (2,)"),
        (np.float32([1, 2]), np.float32([1, np.nan]), "NaN at other positions"),
        (np.float32([np.inf, 2]), np.float32([-np.inf, 2]), "+inf at other positions"),
    ],
)
def test_what_cannot_be_compared_is_the_worst_of_everything(reference, values, found):
    result = difference(reference, values)
    assert result["mismatch"] == found
    assert (result["error"], result["cosine"]) == (np.inf, -1.0)
    assert compare_outputs({"y": reference}, {"y": values})["y"].mismatch is not None


@pytest.mark.parametrize("kind", [np.int64, bool, str, object])
def test_discrete_values_are_compared_one_by_one(kind):
    reference, values = np.array([0, 1, 1, 0]).astype(kind), np.array([0, 1, 0, 0]).astype(kind)
    assert difference(reference, values)["error"] == 0.25
    assert difference(reference, values)["cosine"] == 0.75
    assert difference(reference, reference)["error"] == 0.0


@pytest.mark.parametrize(
    "text",
    [
        "(bfloat16[N,4] x) => (bfloat16[N,4] y) { c = Cast<to=1>(x)  y = Cast<to=16>(c) }",
        """<ir_version: 8, opset_import: ["" : 18]> g (optional(float[N]) x, float[N] z)
        => (bool y) { y = OptionalHasElement(x) }""",
    ],
)
def test_what_no_device_can_be_fed_is_not_recorded(tmp_path, text):
    """`numpy` reads bfloat16 as bytes of no type, and a bundle that holds some is broken there."""
    save(from_text(text), tmp_path / "m.onnx")
    bundle = graphopt.optimize(
        tmp_path / "m.onnx", target="cpu-fp32", output=tmp_path / "bundle", latency_budget_s=None
    ).bundle
    golden = bundle.manifest["golden"]
    assert golden["samples"] == 0
    assert golden["note"] == "no samples: input `x` is no tensor of a type that numpy has"
    assert graphopt.validate(bundle.path).exit_code == 0
