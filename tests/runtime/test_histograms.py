"""Histograms that grow, and sessions that fill them."""

import numpy as np
import pytest

from graphopt.errors import RunError
from graphopt.ir import from_text, model_bytes
from graphopt.runtime import CELLS, Histogram, Padding, Worker

MODEL = """(float[B,S] x, int64[B,S] m, string[B] t) =>
(float[B,S] y, float[N] flat, float[S,B] turned, string[B] t2)
<int64[1] s = {-1}> { y = Mul(x, x) flat = Reshape(x, s) turned = Transpose(y) t2 = Identity(t) }"""


def histogram(*parts, **settings):
    made = Histogram(**settings)
    for part in parts:
        made.add(part)
    return made


def whole(made):
    return made.state(), made.counts.tolist()


def parts_of(seed):
    """Batches of very different sizes and scales, so that the grid grows several times."""
    rng = np.random.default_rng(seed)
    kind = np.float32 if seed % 2 else np.float64
    scales = 10.0 ** rng.uniform(-30, 30 if seed % 3 else -28, size=5)
    parts = [(rng.standard_normal(rng.integers(1, 900)) * scale).astype(kind) for scale in scales]
    return [np.abs(part) for part in parts] if seed % 5 == 0 else parts


@pytest.mark.parametrize("seed", range(40))
def test_counts_depend_on_the_values_alone(seed):
    parts = parts_of(seed)
    forward, backward = histogram(*parts), histogram(*parts[::-1])
    merged = Histogram()
    for part in parts:
        merged.merge(histogram(part))
    assert whole(forward) == whole(backward) == whole(merged)


@pytest.mark.parametrize("seed", range(40))
def test_every_value_lies_in_its_cell_and_cells_are_narrow(seed):
    parts = parts_of(seed)
    found, values = histogram(*parts), np.concatenate([part.astype(float) for part in parts])
    cells = np.floor(np.ldexp(values, -found.exponent)).astype(int) - found.first
    assert np.bincount(cells, minlength=len(found.counts)).tolist() == found.counts.tolist()
    assert len(found.counts) <= CELLS
    assert found.width <= (max(values.max(), 0) - min(values.min(), 0)) / (CELLS / 2 - 1)
    assert (found.minimum, found.maximum) == (values.min(), values.max())


def test_what_is_not_finite_is_told_apart_and_zeros_are_counted():
    found = histogram(np.array([np.nan, 1.0, np.inf, 0.0, -2.0], np.float32))
    assert (found.elements, found.nonfinite, found.zeros, found.counts.sum()) == (5, 2, 1, 3)
    assert (found.minimum, found.maximum) == (-2.0, 1.0)
    assert histogram(np.array([np.nan])).minimum == np.inf
    assert histogram(np.zeros(0)).elements == 0


def test_extreme_magnitudes_and_other_types():
    largest = float(np.finfo(np.float32).max)
    assert histogram(np.array([-largest, largest], np.float32)).counts.sum() == 2
    assert histogram(np.array([-1e308, 1e308])).counts.sum() == 2
    assert histogram(np.array([0.0, 1e-44], np.float32)).counts.tolist() == [2]
    assert histogram(np.arange(5, dtype=np.int64)).maximum == 4.0
    assert histogram(np.array([True, False])).maximum == 1.0
    assert histogram(np.array([60000, 1], np.float16)).maximum == 60000.0


def test_coarser_merges_pairs_and_keeps_the_original():
    fine = histogram(np.linspace(-1, 3, 5000))
    before = whole(fine)
    coarse = fine.coarser(64)
    assert len(coarse.counts) <= 64
    assert coarse.counts.sum() == 5000
    assert whole(fine) == before
    assert np.histogram(np.linspace(-1, 3, 5000), coarse.edges)[0].tolist() == list(coarse.counts)


def test_extremes_alone_count_no_cells():
    found = histogram(np.array([1.0, -3.0]), is_counted=False)
    assert (found.minimum, found.maximum, len(found.counts)) == (-3.0, 1.0, 0)


@pytest.fixture(scope="module")
def session():
    with Worker() as worker, worker.load(model_bytes(from_text(MODEL))) as loaded:
        yield loaded


def feed(x, m):
    return {
        "x": np.array(x, np.float32),
        "m": np.array(m),
        "t": np.array(["text"] * len(x), dtype=object),
    }


def test_a_session_counts_in_its_worker(session):
    padding = {
        "x": Padding("m", (0, 1)),
        "flat": Padding("m", (0,)),
        "turned": Padding("m", (1, 0)),
        "y": Padding("m", (0, 2)),  # no such axis
    }
    first = feed([[1, 2, 90], [3, 4, 5]], [[1, 1, 0], [1, 1, 1]])
    second = feed([[-1, 80]], [[1, 0]])
    for item in (first, second):
        session.collect(item, ["y", "flat", "turned"], inputs=["x"], padding=padding)
    found = session.collected()
    spans = {name: (item.minimum, item.maximum, item.elements) for name, item in found.items()}
    assert spans == {
        "x": (-1.0, 5.0, 6),
        "flat": (-1.0, 5.0, 6),
        "turned": (1.0, 25.0, 6),
        "y": (1.0, 8100.0, 8),
    }
    assert whole(found["x"]) == whole(histogram(np.array([1, 2, 3, 4, 5, -1], np.float32)))


def test_text_cannot_be_counted(session):
    with pytest.raises(RunError, match="no real numbers"):
        session.collect(feed([[1]], [[1]]), ["t2"])
