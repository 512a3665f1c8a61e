"""Plain models are read and written in ways of our own: as the IR does it, byte for byte."""

import importlib
import warnings

import onnx
import onnx_ir as ir
import pytest

from graphopt.ir import HAS_NO_ANNOTATIONS, from_text, load, take_structure
from graphopt.ir.file_tensor import stored_bytes
from graphopt.ir.reading import read_model
from graphopt.ir.writing import plain_pieces

loading = importlib.import_module("graphopt.ir.load")
saving = importlib.import_module("graphopt.ir.save")


def _joined(found):
    pieces, weights, size = found
    data = b"".join(stored_bytes(weights[p]) if isinstance(p, int) else p for p in pieces)
    assert len(data) == size
    return data


def _by_the_ir(model):
    return _joined(saving._inline(take_structure(model)))


def _cases():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = importlib.import_module("onnx.backend.test.case.node").collect_testcases(None)
    return [case.model for case in found if case.model is not None][::40]


def test_operators_of_the_specification(tmp_path, monkeypatch):
    file = tmp_path / "model.onnx"
    for proto in _cases():
        file.write_bytes(proto.SerializeToString())
        mine = load(file)
        with monkeypatch.context() as patch:
            patch.setattr(loading, "read_model", lambda *_: None)
            theirs = load(file)
        assert _by_the_ir(mine) == _by_the_ir(theirs)
        written = plain_pieces(mine)
        if mine.meta.get(HAS_NO_ANNOTATIONS) and not mine.functions:
            assert _joined(written) == _by_the_ir(mine)


TEXTS = [
    "(float[N] x) => (float[N] z) <float[2] w = {1, 2}> { y = Relu(x)  z = Mul(y, w) }",
    "(float x) => (float z) { c = Constant<value = float {-0.0}>()  z = Max(x, c) }",
    "(float x) => (float z) { z = LeakyRelu<alpha = -0.0>(x) }",
    "(float x) => (float z) { z = LeakyRelu<alpha = 0.0>(x) }",
    (
        "(bool b, float x) => (float z) { z = If(b) <"
        " then_branch = t () => (float y) { y = Relu(x) },"
        " else_branch = e () => (float w) <float k = {2}> { w = Mul(x, k) }> }"
    ),
    '(float x) => (float z) { z = own.domain.Op<texts = ["a", "b"], numbers = [1.5, -0.0]>(x) }',
    "(float x) => (float z) { z, mask = Dropout(x) }",
    "(float x) => (float z) { z = Clip(x, , x) }",
]


@pytest.mark.parametrize("text", TEXTS)
def test_forms_of_text(text, tmp_path):
    head = '<ir_version: 10, opset_import: ["" : 20, "own.domain" : 1]> g '
    file = tmp_path / "model.onnx"
    file.write_bytes(onnx.parser.parse_model(head + text).SerializeToString())
    model = load(file)
    assert _joined(plain_pieces(model)) == _by_the_ir(model)


SHAPES = ["", "[]", "[0]", "[3, 128, 70000]", "[N, 2]", "[?, 4]"]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["float", "bool", "int4", "string"])
def test_declared_types(kind, shape):
    declared = f"{kind}{shape}"
    text = f"({declared} x) => ({declared} z) <{declared} y> {{ y = Identity(x)  z = Identity(y) }}"
    model = from_text('<ir_version: 10, opset_import: ["" : 21]> g ' + text)
    model.meta[HAS_NO_ANNOTATIONS] = True
    middle = model.graph[0].outputs[0]
    middle.metadata_props.update({"b": "x" * 300, "a": ""})
    assert _joined(plain_pieces(model)) == _by_the_ir(model)
    if middle.shape is not None and middle.shape:
        middle.shape.set_denotation(0, "BATCH")
        assert _joined(plain_pieces(model)) == _by_the_ir(model)


def _dressed(large):
    """Return a model with all that may be said of its parts beside what they compute."""
    array = [1.0] * (2000 if large else 2)
    tensor = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [len(array)], array)
    tensor.doc_string = "weights"
    tensor.metadata_props.add(key="b", value="1")
    tensor.metadata_props.add(key="a", value="2")
    node = onnx.helper.make_node("Mul", ["x", "w"], ["y"], "mul", doc_string="product")
    node.metadata_props.add(key="from", value="here")
    for size in (0, 127, 128, 16_383, 16_384, 2_100_000):  # lengths of one byte to four
        node.metadata_props.add(key=f"of {size}", value="x" * size)
    held = onnx.helper.make_tensor("", onnx.TensorProto.FLOAT, [len(array)], array)
    constant = onnx.helper.make_node("Constant", [], ["c"], value=held)
    constant.attribute[0].doc_string = "a constant"
    add = onnx.helper.make_node("Add", ["y", "c"], ["u"])
    last = onnx.helper.make_node("Relu", ["u"], ["z"])
    alike = onnx.helper.make_tensor_value_info("u", onnx.TensorProto.FLOAT, ["N"], "of that type")
    alike.metadata_props.add(key="origin", value="a sum")
    value = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N"], "between")
    said = onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [len(array)])
    said.type.tensor_type.shape.dim[0].denotation = "DATA_CHANNEL"
    sides = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["N"]) for n in "xz"]
    sides[0].type.denotation = "TENSOR"
    graph = onnx.helper.make_graph(
        [node, constant, add, last],
        "g",
        sides[:1],
        sides[1:],
        [tensor],
        "a graph",
        [value, alike, said],
    )
    graph.metadata_props.add(key="graph", value="yes")
    model = onnx.helper.make_model(graph, producer_name="p", doc_string="a model")
    model.metadata_props.add(key="model", value="yes")
    model.model_version = 3
    return model


@pytest.mark.parametrize("large", [False, True])
def test_what_is_said_of_parts_is_kept(tmp_path, large):
    file = tmp_path / "model.onnx"
    proto = _dressed(large)
    file.write_bytes(proto.SerializeToString())
    model = load(file)
    written = onnx.ModelProto.FromString(_joined(plain_pieces(model)))
    assert _joined(plain_pieces(model)) == _by_the_ir(model)
    assert written.graph.node[0].doc_string == "product"
    assert written.graph.value_info[0].type.tensor_type.shape.dim[0].denotation == "DATA_CHANNEL"
    assert [entry.key for entry in written.graph.initializer[0].metadata_props] == ["a", "b"]
    said = {info.name: info for info in written.graph.value_info}
    assert (said["y"].doc_string, said["u"].doc_string) == ("between", "of that type")
    assert [entry.value for entry in said["u"].metadata_props] == ["a sum"]
    assert not said["y"].metadata_props


def _proto(text):
    return onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 20]> ' + text)


@pytest.mark.parametrize(
    "text",
    [
        "g (float x) => (float z) { z = Relu(missing) }",
        "g (float x) => (float z) { y = Relu(x) }",
        "g (float x) => (float z) { z = Relu(x)  z = Exp(x) }",
        'g (float x) => (float z) { z = l.f(x) } <domain: "l"> f (a) => (b) { b = Relu(a) }',
    ],
)
def test_what_is_unusual_is_left_to_the_ir(text):
    def tensor(proto):
        return ir.serde.deserialize_tensor(proto)

    assert read_model(_proto(text), tensor) is None


def test_annotations_are_left_to_the_ir():
    model = from_text("g (float x) => (float z) { z = Relu(x) }")
    assert plain_pieces(model) is None  # nobody has said that there is none
    model.meta[HAS_NO_ANNOTATIONS] = True
    assert _joined(plain_pieces(model)) == _by_the_ir(model)
