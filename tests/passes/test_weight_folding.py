"""Folding into weights that are too large for the text of goldens."""

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.ir import clone, from_text, model_bytes
from graphopt.pipeline import Pipeline

SCALED = """(float[N,32] x, int64[M] i, float[32,64] w) => (float[N,64] z, float[M,64] e) <float s = {2}>
{ a = MatMul(x, w)  z = Mul(a, s)  e = Gather(w, i) }"""
ALONE = """(float[N,512] x, float[512,256] w, float[256] s) => (float[N,256] z)
{ a = MatMul(x, w)  z = Mul(a, s) }"""


def model_of(text, **weights):
    model = from_text(text)
    for name, array in weights.items():
        value = next(value for value in model.graph.inputs if value.name == name)
        model.graph.inputs.remove(value)
        value.const_value = ir.tensor(array, name=name)
        model.graph.register_initializer(value)
    return model


def values(*dims):
    return np.random.default_rng(0).normal(size=dims).astype(np.float32)


def test_weight_with_other_readers_is_not_copied():
    model = model_of(SCALED, w=values(32, 64))
    ledger = Pipeline.parse("fold-scales").run(model, reproducer_dir=None).ledger
    assert not ledger.edits
    assert [refusal.slug for refusal in ledger.journal.refusals] == ["shared-weight"]


def test_large_weight_is_multiplied_when_it_is_read():
    weight, factors = values(512, 256), values(256)
    model = model_of(ALONE, w=weight, s=factors)
    Pipeline.parse("fold-scales,eliminate-dead-nodes").run(model, reproducer_dir=None)
    (found,) = [value.const_value for value in model.graph.initializers.values()]
    assert isinstance(found, ir.LazyTensor)
    np.testing.assert_array_equal(found.numpy(), weight * factors)
    assert model_bytes(clone(model)) == model_bytes(model)


@pytest.mark.parametrize("annotated", ["w", "a"])
def test_annotated_values_stay_what_they_are(annotated):
    model = model_of(ALONE, w=values(512, 256), s=values(256))
    found = {value.name: value for node in model.graph for value in (*node.inputs, *node.outputs)}
    found[annotated].meta["quant_parameter_tensor_names"] = {"SCALE_TENSOR": "scale"}
    assert (
        not Pipeline.parse("fold-scales").run(model, verify="off", reproducer_dir=None).ledger.edits
    )
