"""Latency on a device: alone or beside the original, and what drifts."""

import itertools
import json

import pytest

from graphopt.deploy import validate
from graphopt.deploy.agreement import Validation
from graphopt.deploy.on_device import OnnxRuntime
from graphopt.deploy.stopwatch import measure


def steady(milliseconds):
    times = itertools.cycle([milliseconds, milliseconds * 1.01])
    return lambda: (next(times), milliseconds)


def test_a_model_that_takes_half_the_time():
    found, text = measure(steady(5.0), steady(10.0), threads=1)
    assert found["reference"]["verdict"] == "faster"
    assert found["reference"]["ratio"] == pytest.approx(0.5, rel=0.02)
    assert found["reference"]["ratio_low"] <= 0.5 <= found["reference"]["ratio_high"]
    assert found["median_ms"] == pytest.approx(5.0, rel=0.02)
    assert "faster than the original" in text


@pytest.mark.parametrize(
    ("milliseconds", "text"), [(10.0, "same as the original"), (20.0, "slower than the original")]
)
def test_a_model_that_is_not_faster(milliseconds, text):
    assert text in measure(steady(milliseconds), steady(10.0), threads=1)[1]


def test_cpu_time_that_says_otherwise_is_not_hidden():
    found, text = measure(lambda: (5.0, 20.0), lambda: (10.0, 10.0), threads=1)
    assert found["reference"]["verdict"] == "too-noisy"
    assert "too noisy beside the original" in text


def test_of_several_threads_only_the_wall_clock_counts():
    found, _ = measure(lambda: (5.0, 20.0), lambda: (10.0, 10.0), threads=2)
    assert found["reference"]["verdict"] == "faster"


def test_a_clock_of_cpu_time_that_stands_still():
    found, _ = measure(lambda: (5.0, 0.0), lambda: (10.0, 0.0), threads=1)
    assert (found["reference"]["cpu_ratio"], found["reference"]["verdict"]) == (None, "faster")


def test_a_device_that_grows_hot_is_told():
    times = (10.0 + 0.01 * number for number in itertools.count())
    found, text = measure(lambda: (next(times), 1.0), None, threads=1)
    assert found["drift_ratio"] > 1.3
    assert "the last tenth took" in text
    assert measure(steady(10.0), None, threads=1)[0]["drift_ratio"] < 1.02


def test_short_runs_are_timed_together():
    calls = []
    measure(lambda: calls.append(1) or (0.25, 0.25), None, threads=1)
    found, _ = measure(lambda: (0.25, 0.25), None, threads=1)
    assert found["runs"] % 4 == 0


def test_the_original_is_timed_beside(bundle, models):
    report = validate(bundle.path, reference=models.original).to_dict()
    assert report["exit_code"] == 0
    beside = report["latency"]["reference"]
    assert beside["ratio_low"] <= beside["ratio"] <= beside["ratio_high"]
    assert "another digest than the one recorded" in report["checks"][-1]["detail"]
    json.dumps(report, allow_nan=False)


def test_without_room_the_original_is_left_out(bundle, models, monkeypatch):
    monkeypatch.setattr(OnnxRuntime, "available_bytes", lambda self: 10)
    report = Validation(bundle.path, OnnxRuntime(), True, None, models.original).run()
    assert report["exit_code"] == 0
    assert report["latency"]["reference"] is None
    assert "no room for the original" in report["checks"][-1]["detail"]


def test_an_original_with_weights_outside_counts_with_them(copy, models, monkeypatch):
    path = copy / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["source"]["size_bytes"] = 10**12
    path.write_text(json.dumps(manifest))
    monkeypatch.setattr(OnnxRuntime, "available_bytes", lambda self: 10**12)
    detail = Validation(copy, OnnxRuntime(), True, None, models.original).run()["checks"][-1]
    assert "it may need 3000000000000" in detail["detail"]
    monkeypatch.setattr(OnnxRuntime, "available_bytes", lambda self: None)
    detail = Validation(copy, OnnxRuntime(), True, None, models.original).run()["checks"][-1]
    assert "another digest" not in detail["detail"]  # what was recorded is of the loaded model
