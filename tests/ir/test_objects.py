"""Nodes, values and attributes that show their slots."""

from __future__ import annotations

from pathlib import Path
from types import MemberDescriptorType

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from graphopt.ir import Attr, Node, Value, from_text, load, save
from graphopt.ir.objects import (
    detach_inputs,
    node_list,
    plain_attribute,
    plain_node,
    take_out,
    use_count,
)
from graphopt.ir.parsed_tensor import ParsedTensor


@pytest.mark.parametrize(
    ("kind", "field"),
    [(Node, "op_type"), (Node, "domain"), (Node, "inputs"), (Value, "const_value"), (Attr, "type")],
)
def test_fields_are_slots(kind: type, field: str) -> None:
    assert isinstance(getattr(kind, field), MemberDescriptorType)


def state(node: ir.Node) -> dict[str, object]:
    return {slot: getattr(node, slot) for slot in ir.Node.__slots__ if slot != "_attributes"}


def test_a_plain_node_is_what_the_constructor_makes() -> None:
    given, result, other = Value(name="x"), Value(name="y"), Value(name="z")
    attribute = Attr("axis", ir.AttributeType.INT, 1)
    inputs = (given, None, given)
    made = plain_node("ai.onnx", "Sum", inputs, {"axis": attribute}, (result,), name="n")
    expected = Node("ai.onnx", "Sum", inputs, [attribute], outputs=[other], name="n")
    assert state(made) | {"_outputs": ()} == state(expected) | {"_outputs": ()}
    assert made.outputs == (result,)
    assert made.attributes == expected.attributes
    assert type(made.attributes).__mro__[1] is type(expected.attributes)
    assert (result.producer(), result.index()) == (made, 0)
    assert [use.idx for use in given.uses() if use.node is made] == [0, 2]
    made.replace_input_with(0, None)
    assert [use.idx for use in given.uses() if use.node is made] == [2]


def test_a_plain_attribute_is_what_the_constructor_makes() -> None:
    made = plain_attribute("axes", ir.AttributeType.INTS, (1, 2))
    expected = Attr("axes", ir.AttributeType.INTS, [1, 2])
    assert made == expected
    assert all(getattr(made, slot) == getattr(expected, slot) for slot in ir.Attr.__slots__)


def test_loaded_models_are_made_of_them(tmp_path: Path) -> None:
    model = from_text(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[2] y)'
        " { y = Selu <alpha = 2.0> (x) }"
    )
    save(model, tmp_path / "model.onnx")
    node = load(tmp_path / "model.onnx").graph.node(0)
    assert isinstance(node, Node)
    assert isinstance(node.outputs[0], Value)
    assert isinstance(node.attributes["alpha"], Attr)
    assert node.attributes["alpha"].as_float() == 2.0


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "bool", "uint8", "float64"])
@pytest.mark.parametrize("is_raw", [True, False])
def test_parsed_tensors_hold_what_onnx_holds(dtype: str, *, is_raw: bool) -> None:
    array = np.array([[0, 1, 2], [3, 4, 5]]).astype(dtype)
    proto = onnx.numpy_helper.from_array(array, "t")
    if not is_raw:
        kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        proto = onnx.helper.make_tensor("t", kind, array.shape, array.reshape(-1).tolist())
    tensor = ParsedTensor(proto)
    assert tensor.tobytes() == tensor.tobytes() == array.tobytes()
    assert tensor.numpy().dtype == array.dtype
    assert np.array_equal(tensor.numpy(), array)
    assert not tensor.numpy().flags.writeable


def test_a_node_leaves_as_the_ir_lets_it_leave() -> None:
    text = "(float x) => (float z) { a = Relu(x)  b = Sum(x, a, x)  z = Neg(a) }"
    mine, theirs = from_text(_HEAD + text), from_text(_HEAD + text)
    for model in (mine, theirs):
        model.graph.insert_after(model.graph[0], Node("", "Abs", [], name="new"))
    leaving = mine.graph[2]
    x, a = leaving.inputs[:2]
    assert x is not None
    assert a is not None
    assert [use_count(value) for value in (x, a)] == [len(x.uses()), len(a.uses())] == [3, 2]
    detach_inputs(leaving)
    take_out(leaving)
    theirs.graph.remove(theirs.graph[2], safe=True)
    assert leaving.graph is None
    assert leaving.inputs == (None, None, None)
    assert [use_count(value) for value in (x, a)] == [len(x.uses()), len(a.uses())] == [1, 1]
    assert node_list(mine.graph) == list(mine.graph)
    names = [node.op_type for node in theirs.graph]
    assert [node.op_type for node in node_list(mine.graph)] == names == ["Relu", "Abs", "Neg"]


_HEAD = '<ir_version: 10, opset_import: ["" : 20]> g '
