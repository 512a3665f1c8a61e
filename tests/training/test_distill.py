"""The pass: what is written is better in the runtime, and the same each time."""

import numpy as np
import pytest

from graphopt.calibration import Calibrator, load_samples
from graphopt.errors import PreconditionError
from graphopt.ir import from_text, model_bytes, save
from graphopt.pipeline import Pipeline
from graphopt.runtime import shared_worker
from graphopt.training import has_torch

pytestmark = pytest.mark.skipif(not has_torch(), reason="torch is not installed (extra `torch`)")
CUT = "prune-neurons{ratio=0.5 score=l2 compensation=off}"
TEACH = "distill{steps=80 batch=8 rate=0.02 minutes=0 hidden=0.0}"


def weights(rows, columns, seed):
    numbers = np.random.default_rng(seed).normal(size=rows * columns).round(3)
    return f"float[{rows},{columns}]", "{" + ", ".join(map(str, numbers)) + "}"


def network():
    (one, w), (two, v) = weights(6, 8, 0), weights(8, 6, 1)
    return from_text(
        f"(float[N,6] x) => (float[N,6] y) <{one} w = {w}, {two} v = {v}> "
        "{ h = MatMul(x, w)  r = Relu(h)  s = MatMul(r, v)  y = Add(x, s) }"
    )


def samples(count=40):
    rng = np.random.default_rng(5)
    return [{"x": rng.normal(size=(2, 6)).astype(np.float32)} for _ in range(count)]


def run(text, model=None):
    model = model or network()
    calibrator = Calibrator(samples=load_samples(samples()))
    result = Pipeline.parse(text).run(model, statistics_provider=calibrator, verify="structure")
    return result.model, result.ledger


def error(model):
    feed = {"x": np.random.default_rng(99).normal(size=(64, 6)).astype(np.float32)}
    goal = shared_worker().evaluate(model_bytes(network()), feed)["y"]
    found = shared_worker().evaluate(model_bytes(model), feed)["y"]
    return float(np.square(found - goal).sum())


def test_the_student_is_nearer_to_the_original_on_other_inputs():
    cut, _ = run(CUT)
    learned, ledger = run(f"{CUT},{TEACH}")
    assert error(learned) < 0.5 * error(cut)
    assert [note for note in ledger.notes if note.startswith("distill: ")]
    assert learned.graph.initializers["w"].shape == cut.graph.initializers["w"].shape


def test_the_same_command_gives_the_same_file():
    assert model_bytes(run(f"{CUT},{TEACH}")[0]) == model_bytes(run(f"{CUT},{TEACH}")[0])


def test_a_model_that_was_cut_before_learns_from_a_file(tmp_path):
    (path,) = save(network(), tmp_path / "teacher.onnx")
    cut, _ = run(CUT)
    before = error(cut)
    teach = TEACH.replace("distill{", f'distill{{teacher="{path}" ')
    learned, _ = run(teach, cut)
    assert error(learned) < 0.5 * before


def test_it_wants_samples():
    with pytest.raises(PreconditionError, match="samples"):
        Pipeline.parse(TEACH).run(network())
