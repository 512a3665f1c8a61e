"""Going on from values that were held: the same numbers, and nothing computed twice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphopt.calibration import Calibrator, SampleMeasure, load_samples
from graphopt.calibration.held_values import HeldValues, needed_part
from graphopt.compression.relay import values_to_hold
from graphopt.ir import from_text
from graphopt.pipeline import Pipeline

BLOCKS = """(float[B,S,4] x, int64[B,S] attention_mask) => (float[B,S,4] y) {
  c = Constant<value_float = 0.5>()  d = Neg(c)
  a1 = Mul(x, c)  b1 = Tanh(a1)  s1 = Add(x, b1)
  a2 = Mul(s1, d)  b2 = Tanh(a2)  s2 = Add(s1, b2)
  a3 = Exp(s2)  y = Add(a3, s1) }"""
BRANCH = """(float[B,4] x, bool t) => (float[B,4] y) {
  a = Neg(x)  b = Abs(a)
  y = If(t) <then_branch = g () => (float[B,4] u) { u = Exp(a) },
             else_branch = h () => (float[B,4] v) { v = Identity(b) }> }"""


def named(model: Any, *names: str) -> list[Any]:
    found = {value.name: value for node in model.graph for value in node.outputs}
    return [found[name] for name in names]


def test_what_is_read_later_is_held_and_no_more() -> None:
    model = from_text(BLOCKS)
    reached, ahead = named(model, "s2"), named(model, "y")
    assert values_to_hold(model.graph, reached, ahead) == ["s1", "s2"]
    assert values_to_hold(model.graph, named(model, "s1"), named(model, "s2")) == ["s1"]


def test_what_a_change_to_come_leads_to_is_not_held() -> None:
    """A stream may hold what a layer adds that is fitted only later."""
    model = from_text(BLOCKS)
    (change,) = named(model, "a2")
    reached, ahead = named(model, "s2"), named(model, "y")
    assert values_to_hold(model.graph, reached, ahead, {change.producer()}) == ["s1"]


def test_what_branches_read_is_held() -> None:
    model = from_text(BRANCH)
    assert values_to_hold(model.graph, named(model, "b"), named(model, "y")) == ["a", "b"]


def feeds(count: int = 6) -> list[dict[str, Any]]:
    rng = np.random.default_rng(5)
    found = []
    for number in range(count):
        mask = np.ones((2, 5), np.int64)
        x = rng.normal(size=(2, 5, 4)).astype(np.float32)
        if number % 2:  # what stands behind the end says nothing
            mask[1, 3:], x[1, 3:] = 0, 7.0
        found.append({"x": x, "attention_mask": mask})
    return found


def test_moments_from_held_values_are_those_from_the_beginning() -> None:
    model, measure = from_text(BLOCKS), SampleMeasure(samples=load_samples(feeds()))
    names = values_to_hold(model.graph, named(model, "s1"), named(model, "y"))
    held = measure.hold(model, names)
    assert held is not None
    held = measure.hold(model, ["s1", "s2"], held)
    assert held is not None
    pairs = [("s2", "y"), ("y", "s1"), ("a3", "s2")]
    plain = measure.cross(model, model, pairs)
    again = measure.cross(model, model, pairs, held=(held, held))
    one_sided = measure.cross(model, model, pairs, held=(None, held))
    assert sum("were left out" in note for note in measure.notes) == 1
    for first, *others in zip(plain, again, one_sided, strict=True):
        assert first is not None
        assert first.first.count == 2 * 5 * 6 - 3 * 2
        for other in others:
            assert other is not None
            assert other.first.count == first.first.count
            assert other.product == pytest.approx(first.product, rel=1e-6)
            assert other.first.gram == pytest.approx(first.first.gram, rel=1e-6)


def test_nothing_before_held_values_runs_again() -> None:
    model, measure = from_text(BLOCKS), SampleMeasure(samples=load_samples(feeds()))
    held = measure.hold(model, ["s1", "s2"])
    part = needed_part(model, ["y"], held)
    assert sorted(node.op_type for node in part.graph) == ["Add", "Exp", "Identity", "Identity"]
    assert [value.name for value in part.graph.outputs] == ["y"]


def test_what_takes_too_much_room_is_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphopt.calibration.held_values._MOST_BYTES", 600)
    model, runs = from_text(BLOCKS), list[int]()
    measure = SampleMeasure(samples=load_samples(feeds()))
    assert measure.hold(model, ["s1"]) is None
    add = HeldValues.add

    def counted(held: HeldValues, values: Any) -> bool:
        runs.append(1)
        return add(held, values)

    monkeypatch.setattr(HeldValues, "add", counted)
    monkeypatch.setattr("graphopt.calibration.held_values._MOST_BYTES", 100)
    assert measure.hold(model, ["s1"]) is None
    assert len(runs) == 1  # that all together are too large shows at once


LAYERS = """(float[B,S,4] x) => (float[B,S,4] y)
<float[4,16] a1 = {%s}, float[16,4] b1 = {%s}, float[4,16] a2 = {%s}, float[16,4] b2 = {%s}> {
  h1 = MatMul(x, a1)  r1 = Relu(h1)  f1 = MatMul(r1, b1)  s1 = Add(f1, x)
  h2 = MatMul(s1, a2)  r2 = Relu(h2)  f2 = MatMul(r2, b2)  y = Add(s1, f2) }"""


@pytest.mark.parametrize("compensation", ["least-squares", "best"])
def test_layers_are_fitted_as_they_are_from_the_beginning(
    compensation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each layer is fitted to what enters it then: were an old value held, the second would not."""

    def fitted() -> list[Any]:
        rng = np.random.default_rng(0)
        text = LAYERS % tuple(", ".join(f"{n:.4f}" for n in rng.normal(size=64)) for _ in range(4))
        model = from_text(text)
        samples = [
            {"x": np.random.default_rng(n).normal(size=(2, 30, 4)).astype(np.float32)}
            for n in range(10)
        ]
        pipeline = f"prune-neurons{{ratio=0.5 multiple=1 compensation={compensation}}}"
        statistics = Calibrator(samples=load_samples(samples))
        Pipeline.parse(pipeline).run(model, statistics_provider=statistics, reproducer_dir=None)
        values = [value for value in model.graph.initializers.values() if value.const_value]
        return [value.const_value.numpy() for value in values if value.const_value is not None]

    found = fitted()
    monkeypatch.setattr(SampleMeasure, "hold", lambda *_: None)
    plain = fitted()
    assert len(found) == len(plain) >= 6
    for one, other in zip(found, plain, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
