"""What absent providers say that they run."""

import onnx
import pytest

from graphopt.analysis import infer_shapes
from graphopt.ir import from_text
from graphopt.pipeline import Pipeline
from graphopt.targets import load_target, provider_rules, target_names

PROVIDERS = sorted(
    {load_target(name).runtime.providers[0].name for name in target_names()}
    - {"CPUExecutionProvider"}
)


def runs(provider, text):
    model = from_text(text)
    shapes, rules = infer_shapes(model), provider_rules(provider)
    return [rules.runs(node, shapes) for node in model.graph]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_every_provider_of_a_target_has_rules_with_a_source(provider):
    rules = provider_rules(provider)
    assert rules.source
    named = (rules.operators or frozenset()) | rules.lacks | rules.constant_weights | rules.joined
    named = named.union(*rules.lacks_kernels.values())
    unknown = {name for name in named - rules.contrib if not onnx.defs.has(name)}
    assert not unknown


def test_a_provider_that_nobody_described():
    assert provider_rules("MadeUpExecutionProvider") is None


def test_lists_of_what_is_there_and_of_what_is_not():
    text = "(float[2] x) => (float[2] y) { a = Exp(x) y = Sinh(a) }"
    assert runs("CUDAExecutionProvider", text) == [True, False]
    assert runs("XnnpackExecutionProvider", text) == [False, False]
    assert runs("OpenVINOExecutionProvider", text) == [True, True]


def test_open_sizes():
    assert runs("NnapiExecutionProvider", "(float[N] x) => (float[N] y) { y = Relu(x) }") == [False]
    assert runs("NnapiExecutionProvider", "(float[2] x) => (float[2] y) { y = Relu(x) }") == [True]


def test_floats_on_a_processor_of_integers():
    text = "(float[2] x) => (float[2] y) <float s = {1}> { ops }"
    bare = "y = Relu(x)"
    around = "q = QuantizeLinear(x, s) d = DequantizeLinear(q, s) y = Relu(d)"
    assert runs("QNNExecutionProvider", text.replace("ops", bare)) == [False]
    assert runs("QNNExecutionProvider", text.replace("ops", around)) == [True, True, True]


def test_types_that_a_provider_lacks():
    text = "(int64[2] x) => (int64[2] y) { y = Add(x, x) }"
    assert runs("WebGpuExecutionProvider", text) == [False]
    assert runs("WebGpuExecutionProvider", text.replace("int64", "int32")) == [True]


def test_kernels_that_a_provider_has_for_other_types_only():
    text = "(TYPE[2] x) => (int64[1] y) { y = ArgMax<axis = 0>(x) }"
    assert runs("CUDAExecutionProvider", text.replace("TYPE", "float16")) == [True]
    assert runs("CUDAExecutionProvider", text.replace("TYPE", "int32")) == [False]
    text = "(bool[2] c, TYPE[2] x) => (TYPE[2] y) { y = Where(c, x, x) }"
    assert runs("CUDAExecutionProvider", text.replace("TYPE", "float16")) == [True]
    assert runs("CUDAExecutionProvider", text.replace("TYPE", "bool")) == [False]


@pytest.mark.parametrize("name", ["cuda-fp16", "cuda-fp32"])
def test_what_the_targets_of_gpus_fuse_has_kernels_in_16_bits(name):
    texts = [candidate.pipeline for candidate in load_target(name).enabled_candidates()]
    passes = {step.name for text in filter(None, texts) for step in Pipeline.parse(text).passes()}
    assert "fuse-skip-normalization" in passes
    assert not passes & {"fuse-conv-activation", "fuse-gemm-activation"}


def test_weights_that_must_be_constant_and_products_that_must_be_flat():
    constant = (
        "(float[2, 2] x) => (float[2, 2] y) <float[2, 2] w = {1, 2, 3, 4}> { y = MatMul(x, w) }"
    )
    computed = "(float[2, 2] x, float[2, 2] w) => (float[2, 2] y) { y = MatMul(x, w) }"
    restored = (
        "(float[2, 2] x) => (float[2, 2] y) <int8[2, 2] w = {1, 2, 3, 4}, float s = {1}> "
        "{ d = DequantizeLinear(w, s) y = MatMul(x, d) }"
    )
    deep = "(float[1, 2, 2] x) => (float[1, 2, 2] y) <float[2, 2] w = {1, 2, 3, 4}> { y = MatMul(x, w) }"
    assert runs("XnnpackExecutionProvider", constant) == [True]
    assert runs("XnnpackExecutionProvider", computed) == [False]
    assert runs("XnnpackExecutionProvider", restored)[-1] is True
    assert runs("XnnpackExecutionProvider", deep) == [False]
