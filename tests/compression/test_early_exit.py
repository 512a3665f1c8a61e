"""Exits of models: who leaves, what they get, and what is refused."""

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.calibration import SampleMeasure, load_samples
from graphopt.compression import early_exit, exit_proof
from graphopt.ir import clone, from_text, save
from graphopt.pipeline import Pipeline
from graphopt.runtime import SessionOptions, shared_worker

TEXT = """(float[B,4] x) => (float[B,3] y)
<float[4,4] u = {1,0,0,0, 0,1,0,0, 0,0,1,0, 0,0,0,1}, float[4,4] v = {0,1,0,0, 0,0,1,0, 0,0,0,1, 1,0,0,0},
 float[4,4] w = {0,0,0.5,0, 0,0.2,0,0, 0.3,0,0,0.1, 0,0,0,0.4}, float[4,3] c = {2,0,0, 0,2,0, 0,0,2, 1,1,0}>
{ a = MatMul(x, u)  b = Tanh(a)  p = Add(x, b)
  d = MatMul(p, v)  e = Tanh(d)  f = MatMul(e, w)  q = Add(p, f)  y = MatMul(q, c) }"""
PLAIN = SessionOptions(optimization="disabled")


class Provider:
    def __init__(self, feeds):
        self.measure = SampleMeasure(samples=load_samples(feeds))

    def __call__(self, *_):
        return {}

    def moments(self, *_):
        return {}


def feeds(count=8, rows=64, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return [{"x": (3 * rng.normal(size=(rows, 4))).astype(dtype)} for _ in range(count)]


def exited(text=TEXT, options="after=block-0 agreement=0.9", given=None):
    model = from_text(text) if isinstance(text, str) else text
    provider = Provider(feeds() if given is None else given)
    pipeline = Pipeline.parse(f"exit-early{{{options}}}")
    ledger = pipeline.run(model, statistics_provider=provider).ledger
    return model, ledger


def outputs(model, x, folder, threshold=None):
    copy = clone(model)
    if threshold is not None:
        held = copy.graph.initializers["exit_threshold"]
        held.const_value = ir.tensor(np.array(threshold, np.float32), name=held.name)
    path = save(copy, folder / f"{threshold}.onnx")[0]
    with shared_worker().load(path, PLAIN) as session:
        return session.run({"x": x})["y"]


@pytest.fixture(scope="module")
def made():
    model, ledger = exited()
    assert len(ledger.journal.edits) == 1
    return model, ledger


def test_nobody_and_everybody(made, tmp_path):
    model, _ = made
    (feed,) = feeds(1, seed=5)
    x = feed["x"]
    original = outputs(from_text(TEXT), x, tmp_path)
    assert np.array_equal(outputs(model, x, tmp_path, threshold=2.0), original)
    stream = x + np.tanh(x)
    held = {name: v.const_value.numpy() for name, v in model.graph.initializers.items()}
    head = stream @ held["exit_weight"] + held["exit_bias"]
    assert np.allclose(outputs(model, x, tmp_path, threshold=-1.0), head, atol=1e-5)


def test_the_record_tells_who_leaves_and_what_is_spared(made):
    (record,) = made[1].journal.exits
    assert record.block == "block-0"
    assert record.rows == 128  # a quarter of the samples
    assert 0.9 * record.rows <= record.agreeing <= record.rows
    assert record.bound < record.agreeing / record.rows
    (place,) = record.places
    assert record.mean_work == 1.0 - record.leaving * place.spared
    assert made[1].to_dict()["journal"]["exits"] == [record.to_dict()]


def test_the_mean_time_is_that_of_those_that_leave_and_stay(made, monkeypatch):
    (record,) = made[1].journal.exits
    assert record.mean_time is None  # a clock is asked on request
    times = iter((0.25, 1.5))
    monkeypatch.setattr(exit_proof, "latency_share", lambda *_: next(times))
    _, ledger = exited(options="after=block-0 agreement=0.9 timed=true")
    (timed,) = ledger.journal.exits
    assert timed.mean_time == timed.leaving * 0.25 + (1.0 - timed.leaving) * 1.5
    assert any("0.25 where it leaves, 1.50 where it stays" in note for note in ledger.notes)


def test_one_row_that_is_not_sure_keeps_the_batch(made, tmp_path):
    model, _ = made
    (feed,) = feeds(1, rows=200, seed=6)
    late = outputs(from_text(TEXT), feed["x"], tmp_path)
    level = 0.8
    alone = [outputs(model, row[None], tmp_path, level)[0] for row in feed["x"][:40]]
    stays = np.array([np.array_equal(a, b) for a, b in zip(alone, late, strict=False)])
    assert 0 < stays.sum() < len(stays)
    sure, unsure = feed["x"][:40][~stays][:2], feed["x"][:40][stays][:1]
    assert not np.array_equal(
        outputs(model, sure, tmp_path, level), outputs(from_text(TEXT), sure, tmp_path)
    )
    both = np.concatenate([sure, unsure])
    assert np.array_equal(
        outputs(model, both, tmp_path, level), outputs(from_text(TEXT), both, tmp_path)
    )


def test_what_is_claimed_holds_on_other_inputs(made, tmp_path):
    model, ledger = made
    (feed,) = feeds(1, rows=400, seed=9)
    late = outputs(from_text(TEXT), feed["x"], tmp_path).argmax(1)
    own = [outputs(model, row[None], tmp_path).argmax() for row in feed["x"]]
    assert (own == late).mean() > 0.9
    assert "of 128 inputs held out" in ledger.notes[-1]


def test_a_second_exit_is_refused(made):
    _, ledger = exited(clone(made[0]))
    assert {refusal.slug for refusal in ledger.journal.refusals} == {"already-exits"}


def refused(**arguments):
    _, ledger = exited(**arguments)
    assert not ledger.journal.edits
    return {refusal.slug for refusal in ledger.journal.refusals}


def test_head_that_does_not_agree_on_what_it_has_not_seen(monkeypatch):
    real = early_exit.choose_exit

    def careless(*arguments, **settings):
        return real(*arguments, **{**settings, "agreement": 0.0})

    monkeypatch.setattr(early_exit, "choose_exit", careless)
    assert refused(options="after=block-0 agreement=0.98") == {"agreement-missed"}


def test_wrong_exit_is_noticed(monkeypatch):
    def scrambled(self, array, mask):
        return np.asarray(array, np.float64)[:, ::-1]

    monkeypatch.setattr(early_exit.Pooling, "of", scrambled)
    assert refused(options="after=block-0 agreement=0.0") == {"self-test-failed"}


def test_samples_that_are_not_finite():
    given = feeds()
    given[3]["x"][0, 0] = np.nan
    with np.errstate(invalid="ignore"):
        assert refused(given=given) == {"not-measured"}


def test_nobody_is_sure():
    text = TEXT.replace("y = MatMul(q, c)", "z = MatMul(q, c)  y = Mul(z, o)")
    text = text.replace("float[4,3] c", "float o = {0}, float[4,3] c")
    assert refused(text=text, options="after=block-0 agreement=0.999") <= {
        "not-worthwhile",
        "too-few-samples",
    }


def test_half_precision_keeps_its_type(tmp_path):
    model = from_text(TEXT)
    for value in model.graph.initializers.values():
        array = value.const_value.numpy().astype(np.float16)
        value.const_value, value.dtype = ir.tensor(array, name=value.name), ir.DataType.FLOAT16
    for value in (*model.graph.inputs, *model.graph.outputs):
        value.dtype = ir.DataType.FLOAT16
    model, ledger = exited(model, given=feeds(dtype=np.float16))
    assert ledger.journal.edits
    (feed,) = feeds(1, dtype=np.float16)
    assert outputs(model, feed["x"], tmp_path, threshold=-1.0).dtype == np.float16


def test_the_same_command_gives_the_same_exit(made):
    again, _ = exited()
    for name, value in made[0].graph.initializers.items():
        assert np.array_equal(
            value.const_value.numpy(), again.graph.initializers[name].const_value.numpy()
        )
