"""What is prepared before anything is measured."""

import numpy as np
import pytest

from graphopt import ir as gir
from graphopt.calibration import SamplePart, load_samples
from graphopt.errors import MetricError
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

    def run(calibration=None, evaluation=None, target=None):
        bench = prepare(
            path,
            target or load_target("cpu-fp32"),
            calibration=calibration,
            evaluation=evaluation,
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


def numbered(numbers, rows=1):
    return [{"x": np.full((rows, 4), number, np.float32)} for number in numbers]


def numbers_of(feeds):
    return [int(feed["x"][0, 0]) for feed in feeds]


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, [0]),
        (8, [0, 1, 2, 3, 4, 5, 6, 7]),
        (9, [0, 1, 2, 3, 4, 5, 6, 7]),
        (20, [0, 2, 5, 7, 10, 12, 15, 17]),
    ],
)
def test_numbers_are_compared_on_samples_spread_over_all(prepared, count, expected):
    """Folders are often in the order of their classes, and the first eight of one."""
    bench, _ = prepared(numbered(range(count)))
    assert numbers_of(bench.feeds) == expected
    assert len(bench.calibration) == count


def test_numbers_are_compared_on_samples_for_evaluation_where_there_are_any(prepared):
    """What calibration has seen says too little of weights that were fitted to it."""
    bench, _ = prepared(numbered(range(4), rows=3), evaluation=numbered(range(50, 66)))
    assert numbers_of(bench.feeds) == [50, 52, 54, 56, 58, 60, 62, 64]
    assert numbers_of(bench.calibration) == [0, 1, 2, 3]
    assert bench.latency_feed["x"].shape == (3, 4)
    bench, _ = prepared(evaluation=numbered(range(50, 52)))
    assert numbers_of(bench.feeds) == [50, 51]
    assert bench.calibration is None


def test_samples_for_evaluation_may_do_without_labels_until_a_metric_is_asked_for(prepared):
    bench, _ = prepared(evaluation=numbered(range(3)))
    assert bench.metric is None
    demanding = load_target("cpu-fp32").with_gates({"max_metric_drop": 0.01})
    with pytest.raises(MetricError, match="needs labelled samples"):
        prepared(evaluation=numbered(range(3)), target=demanding)


def test_samples_may_come_in_one_array(prepared):
    def feeds():
        array = np.zeros((1, 4), np.float32)
        for number in range(3):
            array[:] = number
            yield {"x": array}

    bench, _ = prepared(feeds)
    assert numbers_of(bench.feeds) == [0, 1, 2]


def test_a_part_of_samples_keeps_labels_and_what_they_were_made_of():
    rows = {"x": np.arange(6, dtype=np.float32).reshape(6, 1), "__labels__": np.arange(6)}
    part = SamplePart(load_samples([rows]), [1, 4])
    assert [feed["x"].item() for feed in part] == [1.0, 4.0]
    assert part.labels.tolist() == [1, 4]
    assert len(part) == 2
    assert list(part.items()) == [None, None]
    assert list(SamplePart(load_samples([rows]), [])) == []


def test_a_part_of_samples_is_not_read_to_the_end():
    read = []

    def feeds():
        for number in range(100):
            read.append(number)
            yield {"x": np.zeros((1, 4), np.float32)}

    assert len(list(SamplePart(load_samples(feeds), [0, 3]))) == 2
    assert max(read) <= 4
