"""What the result of a pipeline says to a person."""

from __future__ import annotations

from pathlib import Path

from graphopt import run_pipeline
from graphopt.ir import from_text, save
from graphopt.report.run_report import refusals_text
from graphopt.rewrite import Refusal

WEIGHTS = ", ".join(f"{(7 * at) % 19 / 19 - 0.5:.3f}" for at in range(64 * 64))


def test_refusals_are_told_by_reason_with_the_first_place() -> None:
    cache = [
        Refusal(pass_name="prune-heads", where=f"MatMul `m{at}`", slug="model-input", why="it is")
        for at in range(2)
    ]
    bare = Refusal(pass_name="prune-heads", where="graph `g`", slug="no-layers")
    assert refusals_text([*cache, bare]).splitlines() == [
        "refused by   times  reason       first",
        "prune-heads      2  model-input  MatMul `m0`: it is",
        "prune-heads      1  no-layers    graph `g`",
    ]


def test_what_was_not_compared_is_not_called_verified(tmp_path: Path) -> None:
    model = from_text(
        f"(float[N,64] x) => (float[N,64] y) <float[64,64] w = {{{WEIGHTS}}}> "
        "{ i = Identity(x)  y = MatMul(i, w) }"
    )
    save(model, tmp_path / "m.onnx")
    exact = run_pipeline(tmp_path / "m.onnx", "@exact")
    assert "verified: numerics, " in str(exact)
    both = run_pipeline(tmp_path / "m.onnx", "@exact,quantize-dynamic")
    assert "verified: numerics but for quantize-dynamic, " in str(both)
    assert both.to_dict()["not_compared"] == ["quantize-dynamic"]
    alone = run_pipeline(tmp_path / "m.onnx", "quantize-dynamic", verify="structure")
    assert "verified: structure, " in str(alone)  # nobody said that numbers were compared


def test_outputs_that_were_compared_by_their_form_alone_are_named(tmp_path: Path) -> None:
    model = from_text(
        "(float[N,4] x) => (float[N,4] y) "
        "{ i = Identity(x)  d = RandomNormalLike(i)  y = Add(d, x) }"
    )
    save(model, tmp_path / "m.onnx")
    report = run_pipeline(tmp_path / "m.onnx", "@exact")
    assert "note: `y` depend on random numbers: compared by type and shape only" in str(report)


def test_outputs_that_held_nothing_are_named(tmp_path: Path) -> None:
    model = from_text(
        "(float[N] x) => (int64[1,K] y) { i = Identity(x)  m = IsNaN(i)  y = NonZero(m) }"
    )
    save(model, tmp_path / "m.onnx")
    report = run_pipeline(tmp_path / "m.onnx", "@exact")
    assert (
        "note: `y` held no element, or no finite one, in any sample: no number was compared"
        in str(report)
    )
