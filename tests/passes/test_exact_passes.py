"""The exact passes together, and what ONNX text cannot say: annotations, metadata."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from goldens import Outcome, check_numerics, read_goldens

from graphopt.ir import clone, from_text, model_bytes, normalise, opset_version
from graphopt.passes.collapse_chains import CollapseChains
from graphopt.passes.eliminate_dead_nodes import EliminateDeadNodes
from graphopt.passes.eliminate_identities import EliminateIdentities
from graphopt.passes.fold_constants import FoldConstants
from graphopt.passes.merge_common_subexpressions import MergeCommonSubexpressions
from graphopt.passes.share_weights import ShareWeights
from graphopt.pipeline import Pipeline
from graphopt.verification import check_structure

PASSES = (
    EliminateDeadNodes,
    EliminateIdentities,
    FoldConstants,
    CollapseChains,
    MergeCommonSubexpressions,
    ShareWeights,
)
MODELS = [
    pytest.param(golden.text("onnx before"), id=f"{cls.name}: {golden.title}")
    for cls in PASSES
    for golden in read_goldens(
        (Path(__file__).parent / f"{cls.name.replace('-', '_')}.md").read_text(encoding="utf-8")
    )
]


@pytest.mark.parametrize("text", MODELS)
def test_the_whole_pipeline_is_exact_and_settles(text):
    before = from_text(text)
    model = clone(before)
    pipeline = Pipeline.parse("@exact")
    pipeline.run(model, verify="off", reproducer_dir=None)
    check_structure(model)
    check_numerics(Outcome({}, before=before, after=model, pipeline=pipeline))
    again = pipeline.run(model, verify="off", reproducer_dir=None)
    assert [str(edit) for edit in again.ledger.journal.edits] == []


@pytest.mark.parametrize("text", MODELS)
def test_folding_never_makes_the_file_larger(text):
    model = from_text(text)
    size = len(model_bytes(model))
    FoldConstants()(model)
    assert len(model_bytes(model)) <= size


def model_with(proto_change, text):
    """Return the model of ``text`` after ``proto_change`` was applied to its protobuf."""
    proto = ir.to_proto(from_text(text))
    proto_change(proto)
    return normalise(ir.from_proto(proto))


def run_all(model):
    for _ in range(2):
        for cls in PASSES:
            cls()(model)
    return ir.to_proto(model)


ANNOTATED = """(float[2] x) => (float[2] z)
<float[2] w = {1.0, 2.0}, float[2] v = {1.0, 2.0}, float s = {0.5}, uint8 p = {0}, float t = {0.5}>
{ a = Identity(x)  b = Add(a, w)  c = Add(a, w)  d = Mul(b, v)  e = Mul(c, v)  f = Add(d, e)  z = Mul(f, t) }"""


def annotate(*names):
    def change(proto):
        for name in names:
            annotation = proto.graph.quantization_annotation.add(tensor_name=name)
            annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="s")
            annotation.quant_parameter_tensor_names.add(key="ZERO_POINT_TENSOR", value="p")

    return change


def test_what_annotations_describe_and_refer_to_stays():
    proto = run_all(model_with(annotate("a", "c", "v"), ANNOTATED))
    kept = {annotation.tensor_name for annotation in proto.graph.quantization_annotation}
    assert kept == {"a", "c", "v"}
    names = {tensor.name for tensor in proto.graph.initializer}
    assert {"s", "p", "v"} <= names
    assert [node.op_type for node in proto.graph.node].count("Identity") == 1
    outputs = [output for node in proto.graph.node for output in node.output]
    assert {"a", "b", "c"} <= set(outputs)


def test_without_annotations_the_same_model_shrinks():
    proto = run_all(from_text(ANNOTATED))
    assert len(proto.graph.node) == 4
    assert len(proto.graph.initializer) == 2


def test_annotated_constants_and_chains_stay():
    text = """(float[2,3] x) => (float[2,3] z) <float a = {2.0}, float s = {0.5}, uint8 p = {0}>
    { c = Exp(a)  y = Transpose(x)  u = Transpose(y)  z = Mul(u, c) }"""
    proto = run_all(model_with(annotate("c", "y"), text))
    assert [node.op_type for node in proto.graph.node] == ["Exp", "Transpose", "Transpose", "Mul"]


def test_metadata_doc_strings_and_denotations_stay():
    text = """(float[N,2] x) => (float[N,2] z) <float[2] a = {1.0, 2.0}>
    { u = Identity(x)  y = Add(u, a)  v = Exp(u)  z = Relu(y) }"""

    def describe(proto):
        proto.doc_string, proto.graph.doc_string = "model", "graph"
        proto.producer_name, proto.domain, proto.model_version = "me", "org", 7
        proto.metadata_props.add(key="license", value="free")
        proto.graph.metadata_props.add(key="graph", value="kept")
        proto.graph.node[1].doc_string = "the sum"
        proto.graph.node[1].metadata_props.add(key="scope", value="layer.0")
        proto.graph.input[0].doc_string = "pixels"
        proto.graph.input[0].type.denotation = "IMAGE"
        proto.graph.input[0].type.tensor_type.shape.dim[0].denotation = "DATA_BATCH"
        proto.graph.output[0].metadata_props.add(key="unit", value="logit")

    before = ir.to_proto(model_with(describe, text))
    after = run_all(model_with(describe, text))
    assert [node.op_type for node in after.graph.node] == ["Add", "Relu"]
    assert after.graph.input == before.graph.input
    assert after.graph.output == before.graph.output
    assert after.graph.node[0].doc_string == "the sum"
    assert after.graph.node[0].metadata_props == before.graph.node[1].metadata_props
    for proto in (before, after):
        del proto.graph.node[:]
        del proto.graph.value_info[:]
        del proto.graph.initializer[:]
    assert after == before


def test_a_renamed_producer_carries_what_the_output_declared():
    text = "(float[N,2] x) => (float[batch,2] z) { y = Relu(x)  z = Identity(y) }"
    after = run_all(model_with(annotate(), text))
    (output,) = after.graph.output
    assert [dim.dim_param or dim.dim_value for dim in output.type.tensor_type.shape.dim] == [
        "batch",
        2,
    ]
    assert [node.op_type for node in after.graph.node] == ["Relu"]


def test_no_pass_changes_opset_or_ir_version():
    model = from_text(
        '<ir_version: 6, opset_import: ["" : 10]>\ng (float[N] x) => (float[N] z) { y = Identity(x)  z = Relu(y) }'
    )
    run_all(model)
    assert (model.ir_version, opset_version(model)) == (6, 10)


def test_no_weight_is_read_or_copied_but_for_sharing():
    text = "(float[N,300] x) => (float[N,7] z) <float[1] w = {0.0}> { u = Identity(x)  y = MatMul(u, w)  z = Relu(y) }"
    model = from_text(text)

    class Unreadable(ir.LazyTensor):
        def numpy(self):
            raise AssertionError("a weight was read")

        tobytes = __array__ = _evaluate = numpy

    tensor = Unreadable(lambda: None, dtype=ir.DataType.FLOAT, shape=ir.Shape((300, 7)), name="w")
    model.graph.initializers["w"].const_value = tensor
    for cls in PASSES:
        cls()(model)
    assert model.graph.initializers["w"].const_value is tensor
    assert model.graph.num_nodes() == 2


def test_weights_that_differ_only_outside_the_sample_are_told_apart():
    model = from_text(
        "(float[N,4] x) => (float[N,4] z) <float[1] a = {0.0}, float[1] b = {0.0}> { y = Add(x, a)  z = Mul(y, b) }"
    )
    first = np.zeros((4096, 4), np.float32)
    second = first.copy()
    second[1000, 1] = -0.0
    for name, array in (("a", first), ("b", second)):
        model.graph.initializers[name].const_value = ir.tensor(array, name=name)
    ShareWeights()(model)
    assert set(model.graph.initializers) == {"a", "b"}
    model.graph.initializers["b"].const_value = ir.tensor(first.copy(), name="b")
    ShareWeights()(model)
    assert set(model.graph.initializers) == {"a"}
