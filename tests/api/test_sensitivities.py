"""What each quantized operator alone costs, as `inspect` shows it."""

import json

import numpy as np
import pytest

from graphopt import api
from graphopt import ir as gir
from graphopt.cli.main import main
from graphopt.errors import UnknownNameError

WIDTH = 40
# What the second layer computes is small beside the rest, so that its rounding does not matter.
MODEL = f"""<ir_version: 10, opset_import: ["" : 20]>
g (float[N,{WIDTH}] x) => (float[N,{2 * WIDTH}] y)
<float[{WIDTH},{WIDTH}] a, float[{WIDTH},{WIDTH}] b, float s = {{0.001}}>
{{
  [loud] p = MatMul(x, a)
  h = Tanh(x)
  [quiet] q = MatMul(h, b)
  r = Mul(q, s)
  y = Concat<axis = 1>(p, r)
}}"""


@pytest.fixture(name="place")
def fixture_place(tmp_path):
    rng = np.random.default_rng(5)
    weights = {name: rng.standard_normal((WIDTH, WIDTH)) for name in "ab"}
    text = MODEL
    for name, array in weights.items():
        numbers = ", ".join(f"{value:.6g}" for value in array.ravel())
        text = text.replace(f"] {name}", f"] {name} = {{{numbers}}}", 1)
    gir.save(gir.from_text(text), tmp_path / "model.onnx")
    (tmp_path / "samples").mkdir()
    for number in range(4):
        feed = {"x": rng.standard_normal((6, WIDTH)).astype(np.float32)}
        np.savez(tmp_path / "samples" / f"{number}.npz", **feed)
    return tmp_path


def test_operators_are_listed_by_what_they_cost_alone(place, capsys):
    words = ["inspect", str(place / "model.onnx"), "--samples", str(place / "samples")]
    assert main([*words, "--sensitivity", "outliers", "--json"]) == 0
    costs = json.loads(capsys.readouterr().out)["sensitivities"]
    assert [(cost["nodes"], cost["operator"]) for cost in costs] == [
        (["loud"], "MatMul"),
        (["quiet"], "MatMul"),
    ]
    assert all(cost["is_measured"] for cost in costs)
    assert costs[0]["sqnr_db"] < costs[1]["sqnr_db"] - 20
    assert 0.99 < costs[0]["cosine"] < costs[1]["cosine"]


def test_where_time_runs_out_it_is_said(place):
    costs = api.inspect_sensitivities(
        place / "model.onnx", place / "samples", "outliers", budget_s=0.0
    )
    assert [cost.to_dict()["is_measured"] for cost in costs] == [False, False]


def test_unknown_candidates_and_missing_samples_are_errors(place, capsys):
    with pytest.raises(UnknownNameError, match="candidate of `cpu-int8` `outlier`") as told:
        api.inspect_sensitivities(place / "model.onnx", place / "samples", "outlier")
    assert "`outliers`" in (told.value.hint or "")
    assert main(["inspect", str(place / "model.onnx"), "--sensitivity", "outliers"]) == 2
    assert "--samples" in capsys.readouterr().err
