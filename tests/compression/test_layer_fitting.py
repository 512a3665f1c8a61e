"""What layers are fitted to: measured against rows, streams included, and held to what it is for."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.analysis import infer_shapes
from graphopt.analysis.coupling import couple
from graphopt.calibration import Calibrator, SampleMeasure, load_samples
from graphopt.compression.compensation import Affine
from graphopt.compression.contractions import Contraction, contraction_of
from graphopt.compression.fit_moments import FitQuestion, normal_equations
from graphopt.compression.fit_targets import fit_target
from graphopt.ir import clone, from_text, model_bytes
from graphopt.pipeline import Pipeline, PipelineResult
from graphopt.runtime import shared_worker

BLOCKS = """g (float[B,S,4] x) => (float[B,S,4] y) <{weights}> {
  h1 = MatMul(x, a1)  r1 = Relu(h1)  f1 = MatMul(r1, b1)  s1 = Add(f1, x)
  h2 = MatMul(s1, a2)  r2 = Relu(h2)  f2 = MatMul(r2, b2)  z2 = Add(f2, c2)  y = Add(s1, z2) }"""
IMAGES = """g (float[B,3,6,6] x) => (float[B,3,6,6] y) <{weights}> {
  h = Conv<pads = [1, 1, 1, 1]>(x, a)  r = Relu(h)
  f = Conv<pads = [1, 1, 1, 1]>(r, b)  y = Add(f, x) }"""
BROADCAST = """g (float[B,S,4] x, float[1,1,4] m) => (float[B,S,4] y) <{weights}> {
  h1 = MatMul(x, a1)  r1 = Relu(h1)  f1 = MatMul(r1, b1)  y = Add(f1, m) }"""
WEIGHTS = {
    BLOCKS: {"a1": (4, 16), "b1": (16, 4), "a2": (4, 16), "b2": (16, 4), "c2": (4,)},
    IMAGES: {"a": (8, 3, 3, 3), "b": (3, 8, 3, 3)},
    BROADCAST: {"a1": (4, 16), "b1": (16, 4)},
}
Feeds = list[dict[str, Any]]


def made(text: str, seed: int = 0) -> ir.Model:
    rng = np.random.default_rng(seed)
    parts = []
    for name, shape in WEIGHTS[text].items():
        numbers = rng.normal(size=shape).reshape(-1) * 0.5
        dims = ",".join(map(str, shape))
        parts.append(f"float[{dims}] {name} = {{{', '.join(f'{one:.4f}' for one in numbers)}}}")
    return from_text(text.replace("{weights}", ", ".join(parts)))


def feeds(shape: tuple[int, ...], count: int = 10, seed: int = 1) -> Feeds:
    rng = np.random.default_rng(seed)
    return [{"x": rng.normal(size=shape).astype(np.float32)} for _ in range(count)]


def layer_of(model: ir.Model, output: str) -> Contraction:
    uses = couple(model, infer_shapes(model)).uses
    found = (contraction_of(use) for use in uses if use.node.outputs[0].name == output)
    return next(item for item in found if item is not None)


def values(model: ir.Model, samples: Feeds, name: str) -> Any:
    """Return a value over all samples, channels last, as rows."""
    measure = SampleMeasure(samples=load_samples(samples))
    found = [item[name] for item in measure.outputs(model, [name])]
    moved = [np.moveaxis(item, 1, -1) if item.ndim == 4 else item for item in found]
    return np.concatenate([item.reshape(-1, item.shape[-1]) for item in moved]).astype(np.float64)


def question(model: ir.Model, teacher: ir.Model, output: str, *, joined: bool) -> FitQuestion:
    layer = layer_of(model, output)
    target = fit_target(layer, infer_shapes(model))
    produced = {item.name: item for node in teacher.graph for item in node.outputs}
    wanted = produced[target.value.name]
    return FitQuestion(model, layer, target.stream, teacher, wanted, slice(None), joined)


@pytest.mark.parametrize("joined", [True, False])
def test_equations_of_a_layer_beside_a_stream_are_those_of_the_rows(joined: bool) -> None:
    teacher, student = made(BLOCKS), made(BLOCKS, seed=7)
    samples = feeds((2, 5, 4))
    found = normal_equations(
        question(student, teacher, "f2", joined=joined),
        SampleMeasure(samples=load_samples(samples)),
    )
    rows = values(student, samples, "r2")
    wanted = values(teacher, samples, "y") - values(student, samples, "s1")
    ones = np.hstack([rows, np.ones((len(rows), 1))])
    assert found is not None
    assert found.count == len(rows)
    np.testing.assert_allclose(found.system, ones.T @ ones / len(rows), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.target, ones.T @ wanted / len(rows), rtol=1e-4, atol=1e-3)
    assert found.energy == pytest.approx(np.square(wanted).sum() / len(rows), rel=1e-4)


def test_equations_of_a_convolution_beside_a_stream_are_those_of_the_pixels() -> None:
    teacher, student = made(IMAGES), made(IMAGES, seed=7)
    samples = feeds((2, 3, 6, 6))
    measure = SampleMeasure(samples=load_samples(samples))
    found = normal_equations(question(student, teacher, "f", joined=False), measure)
    stream = np.concatenate([np.moveaxis(feed["x"], 1, -1).reshape(-1, 3) for feed in samples])
    wanted = values(teacher, samples, "y") - stream
    assert found is not None
    assert found.count == len(wanted)
    assert found.energy == pytest.approx(np.square(wanted).sum() / len(wanted), rel=1e-4)
    np.testing.assert_allclose(found.target[-1], wanted.mean(0), atol=1e-5)
    layer = layer_of(student, "f")  # what it computes now is off by what the rows say
    off = values(student, samples, "f") - wanted
    variance = np.square(wanted - wanted.mean(0)).sum()
    now = Affine(layer.matrix(), np.zeros(3))
    assert found.error(now) == pytest.approx(np.square(off).sum() / variance, rel=1e-3)


def test_what_is_broadcast_is_no_stream() -> None:
    model = made(BROADCAST)
    target = fit_target(layer_of(model, "f1"), infer_shapes(model))
    assert target.sum is None
    assert target.value.name == "f1"


def test_a_stream_and_the_bias_before_it_are_found() -> None:
    model = made(BLOCKS)
    target = fit_target(layer_of(model, "f2"), infer_shapes(model))
    assert (target.value.name, target.stream.name if target.stream else None) == ("y", "s1")


# -- passes ------------------------------------------------------------------------------------


def pruned(text: str, pipeline: str, samples: Feeds) -> PipelineResult:
    return Pipeline.parse(pipeline).run(
        made(text),
        statistics_provider=Calibrator(samples=load_samples(samples)),
        reproducer_dir=None,
    )


def error(text: str, model: ir.Model, samples: Feeds) -> float:
    pairs = [
        [
            shared_worker().evaluate(model_bytes(one), feed)["y"]
            for one in (clone(made(text)), model)
        ]
        for feed in samples
    ]
    return sum(float(np.square(wanted - found).sum()) for wanted, found in pairs)


@pytest.mark.parametrize(("text", "shape"), [(BLOCKS, (2, 30, 4)), (IMAGES, (2, 3, 6, 6))])
def test_fits_are_better_on_other_samples_too(text: str, shape: tuple[int, ...]) -> None:
    samples, others = feeds(shape, count=20), feeds(shape, count=5, seed=9)
    kind = "prune-channels" if text is IMAGES else "prune-neurons"
    left = {
        method: error(
            text,
            pruned(text, f"{kind}{{ratio=0.5 multiple=1 compensation={method}}}", samples).model,
            others,
        )
        for method in ("off", "best", "least-squares")
    }
    assert left["best"] < 0.8 * left["off"]
    assert left["least-squares"] < 0.8 * left["off"]


def test_a_later_pass_fits_again_what_an_earlier_one_cut() -> None:
    samples = feeds((2, 30, 4))
    result = pruned(
        BLOCKS,
        "prune-neurons{ratio=0.5 multiple=1 compensation=off},"
        "prune-neurons{count=1 compensation=best}",
        samples,
    )
    off = pruned(BLOCKS, "prune-neurons{ratio=0.5 multiple=1 compensation=off}", samples)
    assert error(BLOCKS, result.model, samples) < error(BLOCKS, off.model, samples)


def test_curves_of_a_later_pass_are_of_what_it_cuts_alone() -> None:
    samples = feeds((2, 30, 4))
    first, later = (
        "prune-neurons{ratio=0.5 multiple=1 compensation=off}",
        "prune-neurons{ratio=0.25 multiple=1 curves=true}",
    )
    cut = pruned(BLOCKS, first, samples).model
    provider = Calibrator(samples=load_samples(samples))
    alone = Pipeline.parse(later).run(cut, statistics_provider=provider, reproducer_dir=None)
    both = pruned(BLOCKS, f"{first},{later}", samples)
    found, wanted = (
        [error for one in result.ledger.journal.decisions[-2:] for _, error in one.curve]
        for result in (both, alone)
    )
    assert len(wanted) == 6
    assert found == pytest.approx(wanted, rel=1e-3)


def test_the_record_says_which_rows_a_fit_was_judged_by() -> None:
    samples = feeds((2, 30, 4))
    result = pruned(BLOCKS, "prune-neurons{ratio=0.5 multiple=1 compensation=best}", samples)
    fits = [fit for one in result.ledger.journal.decisions for fit in one.fits]
    assert [(fit.is_held_out, fit.rows) for fit in fits] == [(True, 120), (True, 120)]
    assert all(fit.after is not None and fit.before is not None for fit in fits)
    assert all((fit.after or 0) <= (fit.before or 0) for fit in fits)


def test_too_few_samples_to_hold_one_out_are_all_fitted_to() -> None:
    result = pruned(
        BLOCKS, "prune-neurons{ratio=0.5 multiple=1 compensation=best}", feeds((2, 30, 4), count=2)
    )
    fits = [fit for one in result.ledger.journal.decisions for fit in one.fits]
    assert [fit.is_held_out for fit in fits] == [False, False]


def test_gram_scores_choose_by_what_others_cannot_make_up_for() -> None:
    samples = feeds((2, 30, 4))
    result = pruned(BLOCKS, "prune-neurons{ratio=0.5 multiple=1 score=obs}", samples)
    random = pruned(BLOCKS, "prune-neurons{ratio=0.5 multiple=1 score=random}", samples)
    assert error(BLOCKS, result.model, samples) < error(BLOCKS, random.model, samples)


GEMMS = """g (float[B,4] x) => (float[B,3] y) <{weights}>
  { h = MatMul(x, a)  r = Relu(h)  y = Gemm(r, b, c) }"""
SCALED = """g (float[B,4] x) => (float[B,3] y) <{weights}>
  { h = MatMul(x, a)  r = Relu(h)  y = Gemm<alpha = 0.25, beta = 4.0>(r, b, c) }"""
TURNED = """g (float[B,4] x) => (float[B,3] y) <{weights}>
  { h = MatMul(x, a)  r = Relu(h)  t = Transpose<perm = [1, 0]>(r)  y = Gemm<transA = 1>(t, b, c) }"""
for _text in (GEMMS, SCALED, TURNED):
    WEIGHTS[_text] = {"a": (4, 12), "b": (12, 3), "c": (3,)}


@pytest.mark.parametrize("compensation", ["bias", "least-squares", "best"])
@pytest.mark.parametrize("text", [SCALED, TURNED])
def test_what_a_gemm_multiplies_by_and_how_it_reads_makes_no_difference(
    text: str, compensation: str
) -> None:
    plain, other = made(GEMMS), made(text)
    if text is SCALED:  # the same function
        for name, factor in (("b", 4.0), ("c", 0.25)):
            held = other.graph.initializers[name]
            assert held.const_value is not None
            held.const_value = ir.tensor(held.const_value.numpy() * np.float32(factor), name=name)
    samples = feeds((40, 4))
    outputs = []
    for model in (plain, other):
        pipeline = Pipeline.parse(f"prune-neurons{{count=5 compensation={compensation}}}")
        pipeline.run(model, statistics_provider=Calibrator(samples=load_samples(samples)))
        outputs.append(shared_worker().evaluate(model_bytes(model), samples[0])["y"])
    assert outputs[0] == pytest.approx(outputs[1], rel=1e-3, abs=1e-3)
