"""LSTM layers in integers compute what they computed in floats."""

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.ir import as_tensor, from_text, model_bytes
from graphopt.pipeline import Pipeline
from graphopt.runtime import shared_worker

INPUTS, HIDDEN = 48, 32
FORMS = {
    "plain": ("forward", "", "x, w, r"),
    "with everything": ("forward", ", clip = 2.0, input_forget = 0", "x, w, r, b, s, h, c, p"),
    "backwards": ("reverse", "", "x, w, r, b"),
    "both ways": ("bidirectional", "", "x, w, r, b, , h, c"),
}


def model(direction, attributes, operands):
    count = 2 if direction == "bidirectional" else 1
    shapes = {
        "w": (count, 4 * HIDDEN, INPUTS),
        "r": (count, 4 * HIDDEN, HIDDEN),
        "b": (count, 8 * HIDDEN),
        "p": (count, 3 * HIDDEN),
    }
    text = f"""(float[S,N,{INPUTS}] x, int32[N] s, float[{count},N,{HIDDEN}] h, float[{count},N,{
        HIDDEN
    }] c)
    => (float[S,{count},N,{HIDDEN}] y, float[{count},N,{HIDDEN}] last)
    <{
        ", ".join(
            f"float[{','.join(map(str, shape))}] {name} = {{{numbers(shape)}}}"
            for name, shape in shapes.items()
        )
    }>
    {{ y, last = LSTM<hidden_size = {HIDDEN}, direction = "{direction}"{attributes}>({
        operands
    }) }}"""
    found = from_text(text)
    rng = np.random.default_rng(0)
    for name, shape in shapes.items():
        value = (rng.uniform(-1, 1, shape) / np.sqrt(HIDDEN)).astype(np.float32)
        if name in found.graph.initializers:
            found.graph.initializers[name].const_value = as_tensor(value, name)
    return found


def numbers(shape):
    return ", ".join(["0.0"] * int(np.prod(shape)))


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_outputs_are_near(form):
    original = model(*form)
    rng = np.random.default_rng(1)
    count = original.graph.inputs[2].shape[0]
    feed = {
        "x": rng.standard_normal((7, 3, INPUTS)).astype(np.float32),
        "s": np.array([7, 4, 6], np.int32),
        "h": rng.uniform(-1, 1, (count, 3, HIDDEN)).astype(np.float32),
        "c": rng.uniform(-1, 1, (count, 3, HIDDEN)).astype(np.float32),
    }
    expected = outputs(original, feed)
    Pipeline.parse("quantize-dynamic{minimum_elements=8}").run(original, verify="structure")
    assert [node.op_type for node in original.graph] == ["DynamicQuantizeLSTM"]
    found = outputs(original, feed)
    for name, wanted in expected.items():
        error = found[name] - wanted
        assert 10 * np.log10(np.square(wanted).mean() / np.square(error).mean()) > 30


def outputs(source: ir.Model, feed):
    with shared_worker().load(model_bytes(source)) as session:
        known = {spec.name for spec in session.inputs}
        return session.run({name: array for name, array in feed.items() if name in known})
