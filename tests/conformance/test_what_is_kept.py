"""Loading, checkpoints, saving and `@exact` keep what a model says about itself, at every level."""

from __future__ import annotations

import onnx
import pytest
from exact_runs import parse, run_exact
from onnx import helper

from graphopt.ir import Checkpoint, load, model_bytes, save
from graphopt.pipeline import Pipeline

# Passes that round merge nodes, of which one then speaks for both.
BIT_FOR_BIT = Pipeline.parse("@lossless")

TEXT = """
<ir_version: 11, opset_import: ["" : 21, "local" : 1]>
g (float[N,2] x, bool c) => (float[N,2] z, int64[2] s)
<float[2] w = {1, 2}, float[2] u = {3, 4}, float[2] same = {3, 4}, float scale = {0.1}, float zero = {0}>
{
  [i] y = Identity(x)
  [m] a = Mul(y, w)
  [p] b = Add(a, u)
  [q] d = Add(b, same)
  [f] l = local.f(d)
  [g] k = local.f(l)
  [o] z = If(c) <
    then_branch = t () => (float[N,2] e) <float[2] inner = {5, 6}> { [j] e = Mul(k, inner) },
    else_branch = v () => (float[N,2] h) { [n] h = Neg(k) }>
  [r] s = Shape(x)
}
<domain: "local", opset_import: ["" : 21]>
f (x) => (z) { [fm] m = Relu(x) [fl] l = Exp(m) [fn] z = Neg(l) }
"""


def describe(thing, text):
    """Give a part of a model a doc string and metadata."""
    thing.doc_string = f"about {text}"
    entry = thing.metadata_props.add()
    entry.key, entry.value = f"key of {text}", text


def annotate(graph, name, **parameters):
    annotation = graph.quantization_annotation.add(tensor_name=name)
    for key, value in parameters.items():
        entry = annotation.quant_parameter_tensor_names.add()
        entry.key, entry.value = key, value


def declared(name, dims):
    info = helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, dims)
    info.type.denotation = "IMAGE"
    info.type.tensor_type.shape.dim[0].denotation = "DATA_BATCH"
    return info


@pytest.fixture(scope="module")
def talkative():
    """A model that says something about each of its parts."""
    model = parse(TEXT)
    model.producer_name, model.producer_version = "somebody", "1.2"
    model.domain, model.model_version = "org.example", 7
    describe(model, "model")
    graph = model.graph
    for info in (declared("a", ["N", 2]), declared("w", [2])):
        graph.value_info.append(info)
    graph.input[0].CopyFrom(declared("x", ["N", 2]))
    graph.output[0].CopyFrom(declared("z", ["N", 2]))
    annotate(graph, "a", SCALE_TENSOR="scale", ZERO_POINT_TENSOR="zero")
    for thing in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info):
        describe(thing, thing.name)
    for tensor in graph.initializer:
        describe(tensor, tensor.name)
    branch = graph.node[6].attribute[0]
    branch.doc_string = "about a branch"
    describe(branch.g, "branch")
    describe(branch.g.node[0], "j")
    describe(model.functions[0], "function")
    for node in model.functions[0].node:
        describe(node, node.name)
    onnx.checker.check_model(model, full_check=True)
    return model


def facts(message, path=""):
    """Return every field that is set, by where it is: parts are called by name, not by position."""
    found = {}
    for field, value in message.ListFields():
        if field.name in ("raw_data", "float_data", "int64_data", "data_location", "external_data"):
            continue
        many = (
            field.is_repeated
            if hasattr(field, "is_repeated")
            else field.label == field.LABEL_REPEATED
        )
        for index, item in enumerate(value if many else [value]):
            name = next(
                (getattr(item, n) for n in ("name", "key", "tensor_name") if getattr(item, n, "")),
                index,
            )
            here = f"{path}/{field.name}[{name}]"
            if hasattr(item, "ListFields"):
                found.update(facts(item, here))
            elif (
                item != "" or field.name != "domain"
            ):  # the default domain may be spelled or left out
                found[here] = item
    return found


def test_nothing_is_lost_by_reading_and_writing(talkative, tmp_path):
    onnx.save(talkative, tmp_path / "model.onnx")
    model = load(tmp_path / "model.onnx")
    expected = facts(talkative)
    assert facts(onnx.ModelProto.FromString(model_bytes(model))) == expected
    checkpoint = Checkpoint.take(model)
    assert facts(onnx.ModelProto.FromString(model_bytes(checkpoint.new_model()))) == expected
    checkpoint.restore(model)
    save(model, tmp_path / "again.onnx", external_data=True)
    assert facts(onnx.load(tmp_path / "again.onnx")) == expected


def test_what_is_left_still_says_what_it_said(talkative):
    exact = run_exact(talkative, pipeline=BIT_FOR_BIT)
    before, after = facts(talkative), facts(exact.result)
    gone = ("node[i]", "initializer[same]")
    lost = [key for key in before if key not in after and not any(part in key for part in gone)]
    assert lost == []
    changed = {key for key, value in before.items() if key in after and after[key] != value}
    assert changed == {"/graph[g]/node[m]/input[0]", "/graph[g]/node[q]/input[1]"}
    assert set(after) <= set(before)


def test_the_producer_of_an_output_takes_over_what_is_said_about_it():
    model = parse("(float[2] x) => (float[2] z) { [r] a = Relu(x) [i] z = Identity(a) }")
    model.graph.output[0].CopyFrom(declared("z", [2]))
    describe(model.graph.output[0], "z")
    describe(model.graph.node[0], "r")
    exact = run_exact(model)
    assert exact.operators() == ["Relu"]
    assert facts(exact.result.graph.output[0]) == facts(model.graph.output[0])
    assert exact.result.graph.node[0].doc_string == "about r"


def test_annotated_values_and_their_parameters_stay():
    model = parse(
        """(float[2] x) => (float[2] z) <float[1] s = {0.5}, float[1] t = {0.5}, float[1] unread = {0.5}>
        { a = Identity(x) b = Mul(a, s) c = Max(b, t) d = Identity(c) z = Relu(d) }"""
    )
    annotate(model.graph, "a", SCALE_TENSOR="unread")
    annotate(model.graph, "d", SCALE_TENSOR="t")
    exact = run_exact(model)
    assert exact.operators() == ["Identity", "Mul", "Max", "Identity", "Relu"]
    assert {tensor.name for tensor in exact.result.graph.initializer} >= {"t", "unread"}
    assert len(exact.result.graph.quantization_annotation) == 2
