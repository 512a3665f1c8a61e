"""What is prepared before anything is measured."""

import numpy as np
import pytest

from graphopt import ir as gir
from graphopt.runtime import Worker
from graphopt.search import Reporter, prepare
from graphopt.targets import load_target

OPEN = """<ir_version: 10, opset_import: ["": 17]>
g (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }"""


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """Prepare a model with an open dimension; also return what was loaded meanwhile."""
    path = tmp_path / "open.onnx"
    gir.save(gir.from_text(OPEN), path)
    loaded, load = [], Worker.load

    def recording_load(worker, model, *rest):
        loaded.append(model)
        return load(worker, model, *rest)

    monkeypatch.setattr(Worker, "load", recording_load)

    def run(calibration=None):
        bench = prepare(
            path,
            load_target("cpu-fp32"),
            calibration=calibration,
            evaluation=None,
            metric=None,
            latency_budget_s=None,
            seed=0,
            report=Reporter(),
        )
        return bench, loaded

    return run


def test_inputs_are_tried_on_the_original_file_loaded_once(prepared):
    bench, loaded = prepared()
    assert loaded == [bench.source]
    assert len({feed["x"].shape for feed in bench.feeds}) > 1
    assert not bench.feeds_are_real


def test_the_middle_sample_by_size_is_timed(prepared):
    sizes = (5, 1, 3)
    bench, _ = prepared([{"x": np.zeros((size, 4), np.float32)} for size in sizes])
    assert bench.feeds_are_real
    assert bench.latency_feed["x"].shape == (3, 4)
