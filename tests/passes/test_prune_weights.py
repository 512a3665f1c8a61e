"""What pruning of weights hands on, says and repeats."""

import numpy as np
import pytest

from graphopt.calibration import Calibrator, load_samples
from graphopt.ir import as_tensor, from_text, model_digest
from graphopt.pipeline import Pipeline
from graphopt.runtime import shared_worker

INPUTS, NEURONS = 8, 16


def model(convolution=False):
    """Two layers; a quarter of the rows of the second are small in all places."""
    sizes = (",1", ",L", ",L") if convolution else ("", "", "")
    first, second = (
        (f"{NEURONS},{INPUTS},1", f"{INPUTS},{NEURONS},1")
        if convolution
        else (f"{INPUTS},{NEURONS}", f"{NEURONS},{INPUTS}")
    )
    op = "Conv" if convolution else "MatMul"
    filled = ",".join(["0.0"] * INPUTS * NEURONS)
    found = from_text(
        f"""(float[N,{INPUTS}{sizes[1]}] x) => (float[N,{INPUTS}{sizes[2]}] y)
        <float[{first}] w1 = {{{filled}}}, float[{second}] w2 = {{{filled}}}>
        {{ h = {op}(x, w1)  a = Relu(h)  y = {op}(a, w2) }}"""
    )
    rng = np.random.default_rng(0)
    for name, axis in (("w1", None), ("w2", 1 if convolution else 0)):
        value = found.graph.initializers[name]
        array = np.sign(rng.standard_normal(value.shape.numpy())) * rng.uniform(
            1, 2, value.shape.numpy()
        )
        if axis is not None:
            np.moveaxis(array, axis, 0)[[1, 5, 6, 11]] *= 0.01
        value.const_value = as_tensor(array.astype(np.float32), name)
    return found


def weights(model):
    return {value.name: value.const_value.numpy() for value in model.graph.initializers.values()}


@pytest.mark.parametrize("convolution", [False, True])
def test_zero_units_are_exactly_what_structural_pruning_then_removes(convolution):
    found = model(convolution)
    pruning = "prune-weights{threshold=0.5 score=magnitude minimum_elements=1}"
    ledger = Pipeline.parse(pruning).run(found).ledger
    (handed,) = [one for one in ledger.journal.refusals if one.slug == "all-zero-units"]
    assert "4 inputs (1, 5, 6, 11)" in handed.why
    sparse = weights(found)
    kind = "channels" if convolution else "neurons"
    removal = f"prune-{kind}{{ratio=0.25 multiple=1 score=l2 compensation=off}}"
    Pipeline.parse(removal).run(found)
    kept = [unit for unit in range(NEURONS) if unit not in (1, 5, 6, 11)]
    after, axis = weights(found), 0 if convolution else 1
    assert np.array_equal(after["w1"], sparse["w1"].take(kept, axis))
    assert np.array_equal(after["w2"], sparse["w2"].take(kept, 1 - axis))


def test_compressed_sizes_are_noted_and_no_speed_is_claimed():
    (note,) = (
        Pipeline.parse("prune-weights{score=magnitude minimum_elements=1}")
        .run(model())
        .ledger.notes
    )
    assert "zlib (level 6)" in note
    assert "gain nothing" in note


def test_random_zeros_follow_their_seed():
    found = {}
    for seed in (0, 0, 1):
        pruned = model()
        Pipeline.parse(f"prune-weights{{score=random seed={seed} minimum_elements=1}}").run(pruned)
        found.setdefault(seed, set()).add(model_digest(pruned))
    assert len(found[0]) == 1
    assert found[0].isdisjoint(found[1])


def test_layers_are_pruned_by_what_pruned_layers_before_them_make():
    rng = np.random.default_rng(3)
    x = rng.standard_normal((500, INPUTS)) @ rng.standard_normal((INPUTS, INPUTS))
    samples = load_samples([{"x": x.astype(np.float32)}])
    results = {}
    for text in ("prune-weights{minimum_elements=1}", "prune-weights{minimum_elements=1 runs=1}"):
        pruned = model()
        provider = Calibrator(samples=samples, worker=shared_worker())
        Pipeline.parse(text).run(pruned, statistics_provider=provider)
        results[text] = weights(pruned)
    (step_by_step, at_once) = results.values()
    assert np.array_equal(step_by_step["w1"], at_once["w1"])
    assert not np.array_equal(step_by_step["w2"], at_once["w2"])
