"""Counting values over samples: chunks, padding, resuming, the cache."""

import json
import os
import signal
import weakref

import numpy as np
import pytest

from graphopt.calibration import Calibrator, load_samples
from graphopt.calibration.cache import CalibrationCache
from graphopt.calibration.observing import Observation, Observer
from graphopt.calibration.padding import is_padded, padding_of
from graphopt.errors import OutputError, RunError, WorkerCrash
from graphopt.ir import from_text
from graphopt.rewrite import RangeMethod, ValueRange
from graphopt.runtime import Histogram, Padding, Session, Worker, shared_worker

CHAIN = """(float[B,S,2] x) => (float[B,S,2] d)
{ a = Neg(x)  b = Exp(a)  c = Mul(b, x)  d = Tanh(c) }"""

TEXT = """(int64[B,S] ids, int64[B,S] attention_mask) => (float[B,S,3] y, float[T,3] merged)
<float[9,3] table = {0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26},
 int64[2] rows = {-1, 3}>
{ e = Gather(table, ids)  t = Transpose<perm = [0, 2, 1]>(e)  scores = MatMul(e, t)
  merged = Reshape(e, rows)  m = Cast<to = 1>(attention_mask)  y = Neg(e) }"""


def chain_feeds(count=6):
    rng = np.random.default_rng(3)
    sizes = [(1, 4), (2, 3), (1, 7)]
    return [
        {"x": rng.standard_normal((*sizes[index % 3], 2)).astype(np.float32)}
        for index in range(count)
    ]


def observed(feeds=None, known=None, names=("x", "a", "b", "c", "d"), **settings):
    samples = load_samples(feeds or chain_feeds())
    settings = {"worker": shared_worker(), **settings}
    observer = Observer(model=from_text(CHAIN), samples=samples, **settings)
    return whole(observer.run(names, known).histograms)


def whole(histograms):
    return {name: (item.state(), item.counts.tolist()) for name, item in histograms.items()}


def test_memory_limit_divides_the_work_and_changes_nothing():
    told = []
    limited = observed(memory_bytes=100, progress=lambda *numbers: told.append(numbers))
    assert limited == observed()
    assert told[-1] == (24, 24)  # x and a, b, c, d: four runs of six samples


def test_counts_are_those_of_the_values():
    feeds = chain_feeds()
    expected = Histogram()
    for feed in feeds:
        expected.add(np.exp(-feed["x"]))
    found = observed(feeds, names=["b"])["b"]
    assert found[0]["elements"] == expected.elements == 68
    assert abs(found[0]["maximum"] - expected.maximum) < 1e-5


def test_interrupted_observation_goes_on_where_it_was():
    """Every state that a checkpoint can hold leads to the same result."""
    states = []

    def remember(state):
        copy = Observation(seen=dict(state.seen))
        for name, item in state.histograms.items():
            copy.histograms[name] = Histogram.of_state(item.state(), item.counts)
        states.append(copy)

    complete = observed(memory_bytes=100, checkpoint=remember, checkpoint_s=0.0)
    assert len(states) == 24
    runs = []
    for state in states:
        told = []
        again = observed(known=state, progress=lambda *numbers, told=told: told.append(numbers))
        assert again == complete
        runs.append(len(told))
    assert runs[-1] == 0
    assert all(count <= 11 for count in runs)  # one group that was begun, and one that was not


def test_sample_that_fails_is_named():
    bad = [*chain_feeds(2), {"x": np.zeros(3, np.float32)}]
    with pytest.raises(RunError) as caught:
        observed(bad)
    assert caught.value.where == "sample 3 of `list of feeds`"


def test_sample_that_ends_the_worker_is_named():
    with Worker() as worker:

        def kill(done, _total):
            if done == 2:
                os.kill(worker.pid, signal.SIGKILL)

        with pytest.raises(WorkerCrash) as caught:
            observed(worker=worker, progress=kill)
    assert caught.value.where == "sample 3 of `list of feeds`"


CONVOLUTION = """(float[B,1,H,4] x) => (float[B,2,H2,W2] c)
<float[2,1,2,2] w = {1,2,3,4,-1,-2,-3,-4}> { c = Conv(x, w) }"""


def extremes_at_once(monkeypatch, feeds, cores, **settings):
    """Return what extremes of `CONVOLUTION` are observed on so many cores."""
    monkeypatch.setattr("graphopt.calibration.observing.usable_cores", lambda: cores)
    settings = {"worker": shared_worker(), "is_counted": False, **settings}
    settings.setdefault("model", from_text(CONVOLUTION))
    observer = Observer(samples=load_samples(feeds), **settings)
    found = observer.run(["x", "c"]).histograms
    return {name: (item.minimum, item.maximum) for name, item in found.items()}


def image_feeds(count):
    rng = np.random.default_rng(5)
    shapes = ((1 + index % 2, 1, 3 + index, 4) for index in range(count))
    return [{"x": rng.standard_normal(shape).astype(np.float32)} for shape in shapes]


def runs_together(monkeypatch):
    """Return a list to which each run of samples adds how many they are."""
    together = []
    run = Session.run_scalars

    def watched(session, feeds, outputs):
        together.append(len(feeds))
        return run(session, feeds, outputs)

    monkeypatch.setattr(Session, "run_scalars", watched)
    return together


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_convolutions_run_on_two_samples_at_once(monkeypatch, count):
    together = runs_together(monkeypatch)
    told = []
    alone = extremes_at_once(monkeypatch, image_feeds(count), cores=1)
    assert together == [1] * count
    together.clear()
    both = extremes_at_once(
        monkeypatch, image_feeds(count), cores=2, progress=lambda *numbers: told.append(numbers)
    )
    assert both == alone
    assert together == [2] * (count // 2) + [1] * (count % 2)
    assert told == [(number, count) for number in range(1, count + 1)]


def test_samples_may_come_in_one_array_again_and_again(monkeypatch):
    def refilled():
        array = np.empty((1, 1, 3, 4), np.float32)
        for value in (100.0, 1.0, -50.0, 2.0):
            array[:] = value
            yield {"x": array}

    alone = extremes_at_once(monkeypatch, refilled, cores=1)
    assert alone["x"] == (-50.0, 100.0)
    assert extremes_at_once(monkeypatch, refilled, cores=2) == alone


def test_random_numbers_are_drawn_sample_by_sample(monkeypatch):
    """With a seed they are the same each time, but for the order in which samples draw."""
    together = runs_together(monkeypatch)
    noise = CONVOLUTION.replace("c = ", "n = RandomNormalLike<seed = 1.0>(x)  s = Add(x, n)  c = ")
    extremes_at_once(
        monkeypatch, image_feeds(3), 2, model=from_text(noise.replace("(x, w)", "(s, w)"))
    )
    assert together == [1, 1, 1]


@pytest.mark.parametrize("cores", [1, 2])
def test_no_sample_is_held_while_others_are_read(monkeypatch, cores):
    """Of two that run at once a copy of the first is."""
    seen = []

    def images():
        for feed in image_feeds(4):
            assert not [True for known in seen if known() is not None]
            array = feed.pop("x").copy()
            seen.append(weakref.ref(array))
            feed["x"] = array
            del array
            yield feed
            feed.clear()

    extremes_at_once(monkeypatch, images, cores)
    assert len(seen) == 8  # they are counted before


def test_large_samples_run_one_by_one(monkeypatch):
    monkeypatch.setattr("graphopt.calibration.observing._SMALL_BYTES", 4 * 4 * 3)
    together = runs_together(monkeypatch)
    feeds = image_feeds(1) * 2 + image_feeds(3)[2:] + image_feeds(1)
    extremes_at_once(monkeypatch, feeds, cores=2)
    assert together == [2, 1, 1]


@pytest.mark.parametrize("bad", [0, 1, 3])
def test_the_one_of_two_samples_that_fails_is_named(monkeypatch, bad):
    feeds = image_feeds(4)
    feeds[bad] = {"x": np.zeros((1, 3, 3, 4), np.float32)}  # of three channels
    with pytest.raises(RunError) as caught:
        extremes_at_once(monkeypatch, feeds, cores=2)
    assert caught.value.where == f"sample {bad + 1} of `list of feeds`"


def test_what_is_too_large_for_two_runs_alone(monkeypatch):
    run = Session.run_scalars

    def small(session, feeds, outputs):
        if len(feeds) > 1:
            raise RunError("out of memory")
        return run(session, feeds, outputs)

    alone = extremes_at_once(monkeypatch, image_feeds(4), cores=1)
    monkeypatch.setattr(Session, "run_scalars", small)
    assert extremes_at_once(monkeypatch, image_feeds(4), cores=2) == alone


def test_samples_that_end_the_worker_are_named(monkeypatch):
    with Worker() as worker:

        def kill(done, _total):
            if done == 2:
                os.kill(worker.pid, signal.SIGKILL)

        with pytest.raises(WorkerCrash) as caught:
            extremes_at_once(monkeypatch, image_feeds(4), 2, worker=worker, progress=kill)
    assert caught.value.where == "sample 3 or 4 of `list of feeds`"


def test_weight_that_may_be_overridden_is_no_sample():
    text = "(float[N] x, float[1] w) => (float[N] y) <float[1] w = {2.0}> { y = Mul(x, w) }"
    samples = load_samples([{"x": np.array([1.0, 3.0], np.float32)}])
    for name in ("minmax", "percentile"):
        found = Calibrator(samples=samples)(from_text(text), ["w", "y"], RangeMethod(name=name))
        assert found == {"y": ValueRange(2.0, 6.0)}


# -- padding ------------------------------------------------------------------------------------


def text_feed(ids, mask):
    return {"ids": np.array(ids), "attention_mask": np.array(mask)}


def test_values_that_have_the_positions_of_a_mask_are_found():
    found = padding_of(from_text(TEXT), ["ids", "e", "t", "scores", "merged", "y"])
    assert found == {
        "ids": Padding("attention_mask", (0, 1)),
        "e": Padding("attention_mask", (0, 1)),
        "t": Padding("attention_mask", (0, 2)),
        "merged": Padding("attention_mask", (0,)),
        "y": Padding("attention_mask", (0, 1)),
    }


def test_equal_fixed_sizes_tell_nothing():
    fixed = TEXT.replace("B,S", "1,3").replace("float[T,3] merged", "float[3,3] merged")
    assert set(padding_of(from_text(fixed), ["ids", "e", "y", "merged"])) == {"ids"}


def test_model_without_mask_has_no_padding():
    assert padding_of(from_text(CHAIN), ["x", "a"]) == {}


@pytest.mark.parametrize(
    ("ids", "mask", "expected"),
    [
        ([[4, 5, 0, 0]], [[1, 1, 0, 0]], True),
        ([[0, 0, 4, 5]], [[0, 0, 1, 1]], True),
        ([[4, 5, 0, 0]], [[0, 0, 1, 1]], False),  # 1 means padding: what is 0 differs
        ([[4, 5, 6, 7]], [[1, 1, 0, 0]], False),  # not padding, but something hidden
        ([[4, 5, 0, 0]], [[1, 1, 1, 1]], False),
        ([[4, 5, 0, 0]], [[0, 0, 0, 0]], False),
        ([[4, 4, 0, 0]], [[1, 1, 0, 0]], False),  # no telling which is which
    ],
)
def test_padding_is_told_from_other_masks(ids, mask, expected):
    assert is_padded(text_feed(ids, mask), "attention_mask") is expected


@pytest.mark.parametrize("name", ["minmax", "percentile", "entropy", "mse"])
def test_padded_positions_are_left_out(name):
    samples = load_samples(
        [
            text_feed([[1, 2, 8, 8], [2, 1, 2, 8]], [[1, 1, 0, 0], [1, 1, 1, 0]]),
            text_feed([[3, 1]], [[1, 1]]),
        ]
    )
    calibrate = Calibrator(samples=samples)
    found = calibrate(from_text(TEXT), ["e", "t", "merged", "scores"], RangeMethod(name=name))
    limits = {key: (item.minimum, item.maximum) for key, item in found.items()}
    assert limits["e"][1] <= 11.0
    assert limits["t"] == limits["merged"] == limits["e"]
    if name == "minmax":
        assert limits["e"] == (3.0, 11.0)
        assert limits["scores"][1] == 24**2 + 25**2 + 26**2
    assert calibrate.notes == ["calibration: positions where `attention_mask` is 0 were left out"]


def test_samples_without_padding_are_told_of_nothing():
    calibrate = Calibrator(samples=load_samples([text_feed([[1, 2]], [[1, 1]])]))
    assert calibrate(from_text(TEXT), ["e"]) == {"e": ValueRange(3.0, 8.0)}
    assert calibrate.notes == []


# -- cache --------------------------------------------------------------------------------------


class Runs:
    """Counts runs of the model, through progress."""

    def __init__(self, folder, feeds=None, **settings):
        self.count = 0
        self.samples = load_samples(feeds or chain_feeds())
        self.calibrator = Calibrator(
            samples=self.samples, cache=folder, progress=self.told, **settings
        )

    def told(self, _done, _total):
        self.count += 1

    def __call__(self, model=CHAIN, names=("a", "b"), method="mse"):
        found = self.calibrator(from_text(model), names, RangeMethod(name=method))
        runs, self.count = self.count, 0
        return found, runs


def test_second_time_comes_from_the_cache(tmp_path):
    first, runs = Runs(tmp_path)()
    again = Runs(tmp_path)
    assert runs == 6
    assert again() == (first, 0)
    assert again.calibrator.notes == ["calibration: all of 2 values from the cache"]
    assert len(list(tmp_path.iterdir())) == 1


def test_methods_share_what_was_counted_and_extremes_are_apart(tmp_path):
    assert Runs(tmp_path)(method="entropy")[1] == 6
    assert Runs(tmp_path)(method="percentile")[1] == 0
    assert Runs(tmp_path)(method="minmax")[1] == 6
    assert Runs(tmp_path)(method="minmax")[1] == 0


def test_anything_else_is_a_miss(tmp_path, monkeypatch):
    Runs(tmp_path)()
    changed = chain_feeds()
    changed[3]["x"][0, 0, 0] += 1
    assert Runs(tmp_path)(model=CHAIN.replace("Neg", "Abs"))[1] == 6
    assert Runs(tmp_path, changed)()[1] == 6
    assert Runs(tmp_path, chain_feeds()[::-1])()[1] == 6
    assert Runs(tmp_path)(names=("a", "c"))[1] == 6
    for name, version in (("__version__", "9"), ("runtime_version", lambda: "9")):
        with monkeypatch.context() as patch:
            patch.setattr(f"graphopt.calibration.calibrator.{name}", version)
            assert Runs(tmp_path)()[1] == 6
    assert Runs(tmp_path)()[1] == 0


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: data[:-40] + bytes(40),
        lambda data: b"\x89PNG" + data[4:],
    ],
)
def test_damaged_entry_is_a_miss_and_replaced(tmp_path, damage):
    first, _ = Runs(tmp_path)()
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    assert Runs(tmp_path)() == (first, 6)
    assert Runs(tmp_path)() == (first, 0)


def test_changed_entry_is_a_miss(tmp_path):
    first, _ = Runs(tmp_path)()
    (path,) = tmp_path.iterdir()
    with np.load(path) as held:
        record, counts = json.loads(str(held["record"])), held["counts"]
    counts[np.flatnonzero(counts)[0]] += 1
    np.savez(path, record=np.array(json.dumps(record)), counts=counts)
    assert Runs(tmp_path)() == (first, 6)


def test_entry_under_a_wrong_name_is_a_miss(tmp_path):
    Runs(tmp_path)()
    (path,) = tmp_path.iterdir()
    cache = CalibrationCache(tmp_path)
    path.rename(cache.path({"model": "another"}))
    assert cache.find({"model": "another"}) is None


def test_interrupted_calibration_resumes(tmp_path):
    expected, _ = Runs(tmp_path / "whole")()
    bad = Runs(tmp_path / "cache", checkpoint_s=0.0)

    def interrupt(done, total):
        if done == 4:
            raise KeyboardInterrupt

    bad.calibrator.progress = interrupt
    with pytest.raises(KeyboardInterrupt):
        bad()
    again = Runs(tmp_path / "cache")
    found, runs = again()
    assert found == expected
    assert runs == 3
    assert again.calibrator.notes == [
        "calibration: resumed after 3 of 6 samples, which the cache held"
    ]
    assert Runs(tmp_path / "cache")() == (expected, 0)
    assert not list((tmp_path / "cache").glob("*.tmp"))


def test_cache_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OutputError, match="calibration cache"):
        Runs(tmp_path / "file")()


PIXELS = """(float[1,2,4,4] x) => (float[1,2] z) <float[2,2,1,1] w = {1, 2, 3, 4}, int64[2] flat = {1, -1}>
{ a = Conv(x, w)  b = Conv(a, w)  p = GlobalMaxPool(b)  z = Reshape(p, flat) }"""


@pytest.mark.parametrize(("text", "is_packed"), [(PIXELS, False), (TEXT, True)])
def test_weights_are_packed_where_matrices_are_multiplied(text, is_packed, monkeypatch):
    seen = []
    load = Worker.load

    def watched(worker, model, options=None):
        seen.append(options.config.get("session.disable_prepacking") != "1")
        return load(worker, model, options)

    monkeypatch.setattr(Worker, "load", watched)
    feed = (
        {"x": np.ones((1, 2, 4, 4), np.float32)}
        if text is PIXELS
        else {"ids": np.ones((2, 3), np.int64), "attention_mask": np.ones((2, 3), np.int64)}
    )
    found = Observer(
        model=from_text(text),
        samples=load_samples([feed]),
        worker=shared_worker(),
        is_counted=False,
    ).run(["a" if text is PIXELS else "e"])
    assert found.histograms
    assert seen == [is_packed]
