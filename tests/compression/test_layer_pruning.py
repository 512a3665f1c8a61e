"""What removing layers leaves, and what is fitted in their place."""

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.analysis import infer_shapes
from graphopt.analysis.blocks import find_blocks
from graphopt.analysis.symbolic_table import SymbolicTable
from graphopt.calibration import SampleMeasure, load_samples
from graphopt.compression.layer_removal import Candidate, candidates, obstacle, removal_fault
from graphopt.compression.layer_scores import output_error, stream_scores
from graphopt.compression.stream_fit import fit_stream, stream_errors
from graphopt.ir import from_text
from graphopt.pipeline import Pipeline
from graphopt.rewrite import ChannelMoments, CrossMoments

TWO = """(float[B,3] x) => (float[B,3] y)
<float[3,3] v = {1,0,2,1,0,1,0,0.5,1}, float[3,3] w = {0.1,0,0,0.1,0,0,0,0,0.1}>
{ a = MatMul(x, v)  b = Tanh(a)  c = Add(x, b)  d = MatMul(c, w)  e = Tanh(d)  f = Add(c, e)
  y = Neg(f) }"""


def feeds(count=4, rows=64):
    rng = np.random.default_rng(0)
    return [{"x": rng.normal(size=(rows, 3)).astype(np.float32)} for _ in range(count)]


def measure():
    return SampleMeasure(samples=load_samples(feeds()))


def crossed(x, y):
    gram = x.T @ x / len(x)
    first = ChannelMoments(len(x), x.mean(0), (x**2).mean(0), np.abs(x).max(0), gram)
    second = ChannelMoments(len(y), y.mean(0), (y**2).mean(0), np.abs(y).max(0))
    return CrossMoments(first, second, x.T @ y / len(x), (y - x).mean(0), ((y - x) ** 2).mean(0))


@pytest.fixture
def rows():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(500, 4)) * [1, 100, 0.1, 1] + [0, 3, 0, 1]
    return x, x @ (np.eye(4) + 0.2 * rng.normal(size=(4, 4))) + 0.5


@pytest.mark.parametrize("replacement", ["bias", "scale", "affine"])
def test_errors_are_those_of_the_rows(rows, replacement):
    x, y = rows
    moments = crossed(x, y)
    found = fit_stream(moments, replacement, 1e-9)
    fitted = x * found.matrix if found.matrix.ndim == 1 else x @ found.matrix
    before, after = stream_errors(moments, found)
    energy = (y**2).sum()
    assert before == pytest.approx(((x - y) ** 2).sum() / energy)
    assert after == pytest.approx(((fitted + found.bias - y) ** 2).sum() / energy, abs=1e-9)
    assert after <= before


def test_affine_map_is_found_again(rows):
    x, y = rows
    assert stream_errors(crossed(x, y), fit_stream(crossed(x, y), "affine", 0.0))[1] < 1e-9


def test_strong_pull_leaves_the_stream(rows):
    moments = crossed(*rows)
    found = fit_stream(moments, "affine", 1e9)
    assert np.allclose(found.matrix, np.eye(4), atol=1e-6)


def test_fit_of_what_is_not_finite_is_none(rows):
    x, y = rows
    y[0, 0] = np.nan
    assert fit_stream(crossed(x, y), "scale", 0.01) is None


@pytest.mark.parametrize("replacement", ["bias", "scale", "affine"])
def test_what_stands_in_makes_outputs_better(replacement):
    original = from_text(TWO)
    errors = []
    for how in ("off", replacement):
        model = from_text(TWO)
        text = f"prune-layers{{layers=[block-0] score=random replacement={how}}}"
        provider = _Provider(measure())
        Pipeline.parse(text).run(model, verify="numerics", statistics_provider=provider)
        errors.append(output_error(measure(), model, original))
    assert errors[1] < errors[0]


def test_behind_a_normalization_that_stays():
    text = TWO.replace("c = Add(x, b)", "n = Add(x, b)  c = LayerNormalization(n, g)")
    text = text.replace("f = Add(c, e)", "k = Add(c, e)  f = LayerNormalization(k, g)")
    text = text.replace("float[3,3] w", "float[3] g = {1,2,1}, float[3,3] w")
    errors = []
    for how in ("off", "affine"):
        model = from_text(text)
        options = f"layers=[block-0] score=random replacement={how} ridge=0.0001"
        pipeline = Pipeline.parse(f"prune-layers{{{options}}}")
        pipeline.run(model, statistics_provider=_Provider(measure()))
        errors.append(output_error(measure(), model, from_text(text)))
    assert [node.op_type for node in model.graph][:3] == ["LayerNormalization", "MatMul", "Add"]
    assert errors[1] < errors[0]


class _Provider:
    def __init__(self, measure):
        self.measure = measure

    def __call__(self, *_):
        return {}

    def moments(self, *_):
        return {}


@pytest.mark.parametrize("score", ["cosine", "change"])
def test_scores_are_those_of_the_rows(score):
    model = from_text(TWO)
    asked = candidates(find_blocks(model.graph), is_by_part=False)
    x = np.concatenate([feed["x"] for feed in feeds()]).astype(np.float64)
    y = x + np.tanh(x @ np.array([[1, 0, 2], [1, 0, 1], [0, 0.5, 1]]))
    cosine = (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
    wanted = {"cosine": 1 - cosine.mean(), "change": ((y - x) ** 2).sum() / (x**2).sum()}
    found = stream_scores(model, measure(), asked, score)
    assert found[0] == pytest.approx(wanted[score], rel=1e-4)
    assert found[1] < found[0]


def test_trial_removes_what_outputs_miss_least():
    model = from_text(TWO)
    pipeline = Pipeline.parse("prune-layers{score=trial}")
    result = pipeline.run(model, statistics_provider=_Provider(measure()))
    assert result.ledger.journal.edits[0].because.startswith("block-1 ")


def test_self_test_notices_a_wrong_cut(monkeypatch):
    from graphopt.compression import layer_removal

    model = from_text(TWO)
    (first, _) = candidates(find_blocks(model.graph), is_by_part=False)
    given = [{"x": feeds()[0]["x"]}]
    assert removal_fault(model, [first], given, is_normalized=True) is None
    wrong = lambda layer, leave, is_normalized: (layer.node.outputs[0], layer.branch)  # noqa: E731
    real = layer_removal._edited

    def edited(model, chosen, *, is_normalized, is_masked):
        with monkeypatch.context() as patch:
            if not is_masked:
                patch.setattr(layer_removal, "_ends", wrong)
            return real(model, chosen, is_normalized=is_normalized, is_masked=is_masked)

    monkeypatch.setattr(layer_removal, "_edited", edited)
    assert "is off by" in removal_fault(model, [first], given, is_normalized=True)


@pytest.mark.parametrize("dtype", [ir.DataType.DOUBLE, ir.DataType.FLOAT16])
def test_streams_of_other_precision_keep_their_type(dtype):
    model = from_text(TWO)
    for value in model.graph.initializers.values():
        array = value.const_value.numpy().astype(dtype.numpy())
        value.const_value = ir.tensor(array, name=value.name)
        value.dtype = dtype
    for value in (*model.graph.inputs, *model.graph.outputs):
        value.dtype = dtype
    given = [{"x": feed["x"].astype(dtype.numpy())} for feed in feeds()]
    provider = _Provider(SampleMeasure(samples=load_samples(given)))
    text = "prune-layers{layers=[block-0] score=random replacement=affine}"
    Pipeline.parse(text).run(model, verify="numerics", statistics_provider=provider)
    fitted = [v for key, v in model.graph.initializers.items() if key.startswith("stream")]
    assert {value.dtype for value in fitted} == {dtype}


def test_broadcast_sum_is_an_obstacle():
    model = from_text(
        """(float[1,2] x) => (float[3,2] y) <float[2,2] v = {1,0,2,1}, float[3,1] s = {1,1,2}>
        { a = MatMul(x, v)  b = Mul(a, s)  y = Add(x, b) }"""
    )
    (block,) = find_blocks(model.graph)
    shapes = SymbolicTable(model, infer_shapes(model))
    slug, why = obstacle(Candidate(block.name, block, (0,)), shapes)
    assert slug == "changes-shape"
    assert "(1, 2)" in why


class Provider:
    def __init__(self):
        self.measure = measure()

    def __call__(self, *_):
        return {}

    def moments(self, *_):
        return {}


@pytest.mark.parametrize("score", ["cosine", "trial"])
def test_what_went_is_recorded_with_its_scores_and_how_it_was_made_up_for(score):
    text = f"prune-layers{{score={score} replacement=affine}}"
    ledger = Pipeline.parse(text).run(from_text(TWO), statistics_provider=Provider()).ledger
    (record,) = ledger.journal.decisions
    assert record.kind == "blocks"
    assert record.names == ("block-0", "block-1")
    assert record.removed == (1,)  # the weak one
    assert record.scores[1] < record.scores[0]
    (fit,) = record.fits
    assert (fit.layer, fit.compensation, fit.rows) == ("block-1", "affine", 256)
    assert fit.after < fit.before


def test_layers_that_were_named_are_recorded_without_scores():
    text = "prune-layers{layers=[block-0]}"
    (record,) = Pipeline.parse(text).run(from_text(TWO)).ledger.journal.decisions
    assert (record.names, record.scores, record.predicted) == (("block-0",), (), None)


def test_an_output_of_zeros_does_not_keep_trials_from_being_judged():
    text = TWO.replace("=> (float[B,3] y)", "=> (float[B,3] y, float[B,3] z)")
    text = text.replace("y = Neg(f)", "y = Neg(f)  z = Sub(x, x)")
    pipeline = Pipeline.parse("prune-layers{score=trial}")
    ledger = pipeline.run(from_text(text), statistics_provider=Provider()).ledger
    assert ledger.journal.decisions[0].removed == (1,)
