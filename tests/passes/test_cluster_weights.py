"""Clustered models compute what their codebooks say, and are the same twice."""

import numpy as np
import pytest

from graphopt.calibration import Calibrator, load_samples
from graphopt.ir import as_tensor, from_text, model_bytes, model_digest
from graphopt.pipeline import Pipeline
from graphopt.runtime import SessionOptions, shared_worker

MODEL = """
<ir_version: 8, opset_import: ["" : 11]>
g (int64[B,S] ids, float[B,C,H,W] image) => (float[B,S,D] rows, float[B,S,N] scores, float[B,K,P,Q] seen)
<float[200,64] table, float[64,96] dense, float[64,12,3,3] kernel>
{ rows = Gather(table, ids)
  tied = Transpose<perm = [1, 0]>(table)
  scores = MatMul(rows, tied)
  hidden = MatMul(rows, dense)
  seen = Conv<group = 2>(image, kernel) }
"""


def model():
    text = MODEL
    rng = np.random.default_rng(0)
    for name, shape in (("table", "200,64"), ("dense", "64,96"), ("kernel", "64,12,3,3")):
        size = int(np.prod([int(part) for part in shape.split(",")]))
        text = text.replace(
            f"[{shape}] {name}", f"[{shape}] {name} = {{{','.join(['0.0'] * size)}}}"
        )
    found = from_text(text)
    for value in found.graph.initializers.values():
        array = rng.laplace(size=value.shape.numpy()).astype(np.float32)
        value.const_value = as_tensor(array, value.name)
    return found


def feeds():
    rng = np.random.default_rng(1)
    return {
        "ids": rng.integers(0, 200, (2, 5)),
        "image": rng.standard_normal((2, 24, 6, 6)).astype(np.float32),
    }


def outputs(model, optimization):
    options = SessionOptions(optimization=optimization)
    with shared_worker().load(model_bytes(model), options) as session:
        return session.run(feeds())


@pytest.mark.parametrize("text", ["bits=4 table_bits=4", "bits=8", "bits=4 block_size=0 runs=1"])
def test_clustered_model_is_smaller_and_near(text):
    before, after = model(), model()
    Pipeline.parse(f"cluster-weights{{{text} minimum_elements=1}}").run(after)
    assert len(model_bytes(after)) < 0.4 * len(model_bytes(before))
    exact, disabled = outputs(before, "disabled"), outputs(after, "disabled")
    for name, found in outputs(after, "all").items():
        np.testing.assert_allclose(found, disabled[name], rtol=1e-4, atol=1e-4)
        noise = np.square(found - exact[name]).mean() / np.square(exact[name]).mean()
        assert 0.0 < noise < (0.04 if "bits=4" in text else 2e-3)


@pytest.mark.parametrize("method", ["plain", "weighted", "compensated"])
def test_the_same_command_gives_the_same_model(method):
    digests = set()
    for _ in range(2):
        found = model()
        provider = Calibrator(samples=load_samples([feeds()]), worker=shared_worker())
        pipeline = Pipeline.parse(f"cluster-weights{{method={method} minimum_elements=1}}")
        pipeline.run(found, statistics_provider=provider)
        digests.add(model_digest(found))
    assert len(digests) == 1
