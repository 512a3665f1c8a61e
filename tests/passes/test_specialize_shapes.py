"""specialize-shapes, where ONNX text cannot say it: expressions, names that are none."""

import onnx_ir as ir
import pytest

import graphopt
from graphopt import ir as gir
from graphopt.demo import demo_files
from graphopt.errors import OptionError, RunError

TEXT = """(float[b, past] x, float[b, whole] mask, float[b, both] t, float[odd] o)
=> (float[b, whole] y, float[b, both] u, float[odd] v) { y = Relu(mask) u = Relu(t) v = Relu(o) }"""


def dims(model):
    return [
        [str(dim) for dim in value.shape] for value in (*model.graph.inputs, *model.graph.outputs)
    ]


def with_expressions():
    model = gir.from_text(TEXT)
    texts = {"whole": "past + 1", "both": "past + s", "odd": "8 past )"}
    for value in (*model.graph.inputs, *model.graph.outputs):
        value.shape = ir.Shape(
            [texts.get(str(dim), dim if isinstance(dim, int) else str(dim)) for dim in value.shape]
        )
    return model


def test_expressions_are_evaluated_once_all_of_their_symbols_are_known():
    model = with_expressions()
    graphopt.Pipeline.parse('specialize-shapes{dims=["past=4"]}').run(model)
    expected = [["b", "4"], ["b", "5"], ["b", "s + 4"], ["8 past )"]]
    assert dims(model) == [*expected, *expected[1:]]
    graphopt.Pipeline.parse('specialize-shapes{dims=["s=3","b=1"]}').run(model)
    assert dims(model)[2] == ["1", "7"]


@pytest.mark.parametrize("setting", ["batch", "batch=", "=1", "batch=-1", "batch=x"])
def test_settings_that_cannot_be_read(setting):
    with pytest.raises(OptionError, match="cannot be read"):
        graphopt.Pipeline.parse(f'specialize-shapes{{dims=["{setting}"]}}')


def test_no_dimension_twice():
    with pytest.raises(OptionError, match="`n` twice"):
        graphopt.Pipeline.parse('specialize-shapes{dims=["n=1","n=2"]}')


def test_samples_of_other_sizes_are_named(tmp_path):
    """No pass is searched for that could be guilty of it."""
    pipeline = 'specialize-shapes{dims=["batch=2"]},quantize-static'
    with pytest.raises(RunError, match="cannot run the model") as caught:
        graphopt.run_pipeline(
            demo_files().model,
            pipeline,
            tmp_path / "out.onnx",
            target="cpu-int8",
            calibration=demo_files().calibration,
        )
    assert "Got: 1 Expected: 2" in caught.value.why
    assert not list(tmp_path.iterdir())
