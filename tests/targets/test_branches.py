"""Weights inside branches reach 8 bits in every candidate that is calibrated, too."""

import numpy as np
import onnx_ir as ir
import pytest

from graphopt import ir as gir
from graphopt import run_pipeline
from graphopt.targets import load_target

WIDTH = 40
MODEL = f"""<ir_version: 10, opset_import: ["" : 20]>
g (float[N,{WIDTH}] x, bool c) => (float[N,{WIDTH}] y)
<float[{WIDTH},{WIDTH}] v, float[{WIDTH},{WIDTH}] w>
{{
  a = MatMul(x, v)
  h = Tanh(a)
  y = If(c) <
    then_branch = then_graph () => (float[N,{WIDTH}] t) {{ t = MatMul(h, w) }},
    else_branch = else_graph () => (float[N,{WIDTH}] e) {{ e = Neg(h) }}
  >
}}"""


@pytest.fixture(name="place")
def fixture_place(tmp_path):
    rng = np.random.default_rng(7)
    text = MODEL
    for name in "vw":
        numbers = ", ".join(f"{number:.6g}" for number in rng.standard_normal(WIDTH * WIDTH))
        text = text.replace(f"] {name}", f"] {name} = {{{numbers}}}", 1)
    gir.save(gir.from_text(text), tmp_path / "model.onnx")
    (tmp_path / "samples").mkdir()
    for number in range(2):
        x = rng.standard_normal((3, WIDTH)).astype(np.float32)
        np.savez(tmp_path / "samples" / f"{number}.npz", x=x, c=np.array(number == 0))
    return tmp_path


@pytest.mark.parametrize("name", ["static", "outliers", "outliers-static", "dynamic", "weights"])
def test_no_candidate_leaves_a_weight_in_float(name, place):
    target = load_target("cpu-int8")
    candidate = next(item for item in target.enabled_candidates() if item.name == name)
    out = place / "out.onnx"
    run_pipeline(
        place / "model.onnx",
        target.pipeline_text(candidate),
        out,
        target=target.name,
        calibration=place / "samples" if candidate.needs_calibration else None,
    )
    model = gir.load(out)
    weights = [
        tensor
        for graph in gir.graphs(model)
        for value in graph.initializers.values()
        if (tensor := value.const_value) is not None and tensor.size == WIDTH * WIDTH
    ]
    assert len(weights) == 2
    assert {tensor.dtype for tensor in weights} <= {ir.DataType.INT8, ir.DataType.INT16}
