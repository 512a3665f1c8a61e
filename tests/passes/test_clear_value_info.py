"""What ONNX text cannot say of an intermediate value: doc strings, metadata, denotations."""

import onnx
import onnx_ir as ir
import pytest

from graphopt.ir import from_text, model_bytes, normalise
from graphopt.passes.clear_value_info import ClearValueInfo


def documented(info):
    info.doc_string = "pixels"


def annotated(info):
    info.metadata_props.add(key="unit", value="metre")


def denoted(info):
    info.type.denotation = "IMAGE"


def denoted_dimension(info):
    info.type.tensor_type.shape.dim[0].denotation = "DATA_BATCH"


@pytest.mark.parametrize("say", [documented, annotated, denoted, denoted_dimension])
def test_what_says_more_than_a_type_stays(say):
    text = "(float[N] x) => (float[N] z) <float[N] u, float[N] v> { u = Exp(x) v = Neg(u) z = Relu(v) }"
    proto = ir.to_proto(from_text(text))
    assert [info.name for info in proto.graph.value_info] == ["u", "v"]
    say(proto.graph.value_info[0])
    model = normalise(ir.from_proto(proto))
    ClearValueInfo()(model)
    after = onnx.ModelProto.FromString(model_bytes(model))
    assert list(after.graph.value_info) == [proto.graph.value_info[0]]
    onnx.checker.check_model(after, full_check=True)
