"""Packing with samples: what must stay wide is measured."""

import numpy as np

from graphopt.calibration import Calibrator, load_samples
from graphopt.ir import as_tensor, from_text
from graphopt.pipeline import Pipeline
from graphopt.runtime import shared_worker

LENGTH = 64


def model():
    """Two layers of equal size; what the first one loses is magnified."""
    text = f"""(float[N,{LENGTH}] x) => (float[N,{LENGTH}] y)
    <float[{LENGTH},{LENGTH}] w, float[{LENGTH},{LENGTH}] v>
    {{ a = MatMul(x, w)  b = MatMul(x, v)  y = Add(a, b) }}"""
    filled = ", ".join(["0.0"] * LENGTH * LENGTH)
    for name in "wv":
        text = text.replace(f"] {name}", f"] {name} = {{{filled}}}")
    found = from_text(text)
    rng = np.random.default_rng(0)
    for name, factor in (("w", 100.0), ("v", 1.0)):
        array = (factor * rng.standard_normal((LENGTH, LENGTH))).astype(np.float32)
        found.graph.initializers[name].const_value = as_tensor(array, name)
    return found


def packed(pipeline, rows=400):
    rng = np.random.default_rng(1)
    samples = load_samples([{"x": rng.standard_normal((rows, LENGTH)).astype(np.float32)}])
    result = model()
    Pipeline.parse(pipeline).run(
        result, statistics_provider=Calibrator(samples=samples, worker=shared_worker())
    )
    return {value.name: value.const_value.numpy() for value in result.graph.initializers.values()}


def test_only_what_costs_too_much_is_wide():
    found = packed("pack-weights{min_sqnr_db=60}")
    assert found["w_16bit"].dtype == np.int16
    assert found["v_8bit"].dtype == np.int8


def test_all_is_narrow_where_that_is_good_enough():
    assert {"w_8bit", "v_8bit"} <= packed("pack-weights{min_sqnr_db=20}").keys()


def test_all_is_wide_where_nothing_less_will_do():
    assert {"w_16bit", "v_16bit"} <= packed("pack-weights{min_sqnr_db=120}").keys()


def test_too_few_rows_are_not_fitted():
    sums = packed("pack-weights{wide_below=1}")
    samples = packed("pack-weights{min_sqnr_db=20}", rows=100)
    assert np.array_equal(sums["w_8bit"], samples["w_8bit"])


def test_integers_are_chosen_for_what_they_are_multiplied_by():
    sums, samples = packed("pack-weights{wide_below=1}"), packed("pack-weights{min_sqnr_db=20}")
    assert not np.array_equal(sums["w_8bit"], samples["w_8bit"])
    assert np.abs(sums["w_8bit"].astype(int) - samples["w_8bit"]).max() <= 3
