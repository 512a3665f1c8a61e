"""Factored layers: what they follow, and that factors which do not pay are left."""

import numpy as np
import pytest

from graphopt.calibration import Calibrator, load_samples
from graphopt.ir import as_tensor, from_text, model_bytes, model_digest
from graphopt.passes import factorize_weights
from graphopt.pipeline import Pipeline
from graphopt.runtime import SessionOptions, shared_worker

WIDTH = 24
MODEL = """(float[N,24] x, float[N,8,H,W] image) => (float[N,24] y, float[N,16,P,Q] seen)
<float[24,24] a, float[24] b, float[24,24] c, float[16,8,3,3] k, float[16] d>
{ h = Gemm(x, a, b)  r = Relu(h)  m = MatMul(r, c)  y = Add(m, b)
  seen = Conv<strides = [2, 1], pads = [1, 0, 1, 2]>(image, k, d) }"""


def model():
    text = MODEL
    rng = np.random.default_rng(0)
    for part in ("24,24] a", "24] b", "24,24] c", "16,8,3,3] k", "16] d"):
        size = int(np.prod([int(one) for one in part.split("]")[0].split(",")]))
        text = text.replace(f"float[{part}", f"float[{part} = {{{','.join(['0.0'] * size)}}}")
    found = from_text(text)
    for value in found.graph.initializers.values():
        array = rng.standard_normal(value.shape.numpy())
        if value.name == "k":  # of rank 5
            array = (rng.standard_normal((16, 5)) @ rng.standard_normal((5, 72))).reshape(
                array.shape
            )
        array = array.astype(np.float32)
        value.const_value = as_tensor(array, value.name)
    return found


def feed(seed=1, rows=2000):
    rng = np.random.default_rng(seed)
    mixed = np.random.default_rng(5).standard_normal((WIDTH, WIDTH)) * np.geomspace(4, 0.1, WIDTH)
    return {
        "x": (rng.standard_normal((rows, WIDTH)) @ mixed.T + 1.0).astype(np.float32),
        "image": rng.standard_normal((rows, 8, 5, 6)).astype(np.float32),
    }


def factored(options):
    found = model()
    provider = Calibrator(samples=load_samples([feed()]), worker=shared_worker())
    pipeline = Pipeline.parse(f"factorize-weights{{minimum_elements=100 {options}}}")
    ledger = pipeline.run(found, statistics_provider=provider).ledger
    return found, ledger


def outputs(model):
    with shared_worker().load(model_bytes(model), SessionOptions(optimization="disabled")) as one:
        return one.run(feed(seed=2))


def noise(model, name="y"):
    exact = outputs(globals()["model"]())[name]
    return np.square(outputs(model)[name] - exact).mean() / np.square(exact - exact.mean(0)).mean()


def test_full_rank_computes_the_same():
    found, _ = factored("method=plain energy=0.9999999 multiple=1 ops=[Conv]")
    assert found.graph.initializers["k_first"].shape == (5, 8, 3, 3)
    assert noise(found, "seen") < 1e-9


def test_each_method_is_nearer_than_the_one_before():
    plain, whitened, fitted = (
        noise(factored(f"method={method} ratio=0.6 multiple=1")[0])
        for method in ("plain", "whitened", "fitted")
    )
    assert whitened < 0.8 * plain
    assert fitted < whitened


def test_a_bias_keeps_the_mean_and_the_old_one_goes():
    found, _ = factored("method=whitened ratio=0.4 multiple=1 ops=[Gemm]")
    names = set(found.graph.initializers)
    assert "b" in names  # another layer adds it, too
    assert "a" not in names
    found, _ = factored("method=whitened ratio=0.4 multiple=1 ops=[Conv]")
    assert "d" not in found.graph.initializers
    x = feed()
    with shared_worker().load(model_bytes(found), SessionOptions(optimization="disabled")) as one:
        after = one.run(x)["seen"]
    with shared_worker().load(model_bytes(model()), SessionOptions(optimization="disabled")) as one:
        before = one.run(x)["seen"]
    shift = np.abs((after - before).mean(axis=(0, 2, 3))).max()
    assert shift < 0.02 * np.abs(before).mean()


def test_convolutions_are_factored_by_what_their_windows_see():
    for method in ("whitened", "fitted"):
        found, _ = factored(f"method={method} ratio=0.3 multiple=1 ops=[Conv]")
        assert found.graph.initializers["k_first"].shape == (3, 8, 3, 3)
        assert 0.0 < noise(found, "seen") < 0.4


@pytest.mark.parametrize(("ratio", "kept"), [(0.5, True), (1.0, False), (2.0, False)])
def test_factors_stay_only_where_they_are_measured_to_be_faster(monkeypatch, ratio, kept):
    asked = []

    def race(node, shapes, rows):
        asked.append((node.op_type, tuple(shapes), rows))
        return ratio

    monkeypatch.setattr(factorize_weights, "ratio_of_factors", race)
    _, ledger = factored("method=plain ratio=0.6 multiple=1 faster_at=32")
    refused = [refusal.where for refusal in ledger.journal.refusals if refusal.slug == "not-faster"]
    assert bool(refused) is not kept
    assert ("Conv", ((16, 8, 3, 3), (7, 8, 3, 3), (16, 7, 1, 1)), 32) in asked
    assert len(asked) == len(set(asked))


def test_two_products_are_raced_against_one():
    shapes = [(64, 64), (64, 4), (4, 64)]
    node = model().graph[2]
    assert node.op_type == "MatMul"
    assert factorize_weights.ratio_of_factors(node, shapes, 16) > 0.0


def test_the_same_command_gives_the_same_model():
    assert model_digest(factored("ratio=0.6")[0]) == model_digest(factored("ratio=0.6")[0])
