"""Checkpoints, digests, constants and ONNX text."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from graphopt import ir as gir
from graphopt.errors import InvalidModelError

BRANCHES = """
<ir_version: 10, opset_import: ["" : 20]>
g (bool c, float[2] x, float[2] w) => (float[2] z)
<float[2] w = {1.0, 2.0}, float[2] k = {3.0, 4.0}>
{
  z = If(c) <
    then_branch = yes () => (float[2] a) { a = Add(x, k) },
    else_branch = no () => (float[2] b) { b = Mul(x, w) }
  >
}
"""


def test_weights_that_lie_where_others_lay_are_told_apart():
    model = gir.from_text(BRANCHES)
    weight = model.graph.initializers["k"]
    found = set()
    for number in range(50):
        weight.const_value = None  # the tensor before is gone, and its place is free
        weight.const_value = ir.tensor(np.full(2, number, np.float32), name="k")
        found.add(gir.structure_digest(model))
    assert len(found) == 50
    assert gir.structure_digest(gir.clone(model)) in found


def test_restoring_brings_back_the_same_bytes_and_shares_the_weights():
    model = gir.from_text(BRANCHES)
    before = gir.model_bytes(model)
    weight = model.graph.initializers["k"].const_value
    checkpoint = gir.Checkpoint.take(model)
    model.graph.remove(model.graph[0])
    model.metadata_props["note"] = "changed"
    assert gir.model_bytes(model) != before
    checkpoint.restore(model)
    assert gir.model_bytes(model) == before
    assert model.graph.initializers["k"].const_value is weight


def test_renaming_in_a_clone_leaves_the_original():
    model = gir.from_text(BRANCHES)
    before = gir.model_bytes(model)
    copy = gir.clone(model)
    copy.graph.initializers["k"].name = "renamed"
    assert gir.model_bytes(model) == before
    assert "renamed" in gir.to_text(copy)


def test_digests_see_structure_weights_and_the_sign_of_zero():
    digests = set()
    for text in (BRANCHES, BRANCHES.replace("3.0", "0.0"), BRANCHES.replace("3.0", "-0.0")):
        digests.add(gir.model_digest(gir.from_text(text)))
    digests.add(gir.model_digest(gir.from_text(BRANCHES.replace("Add", "Sub"))))
    assert len(digests) == 4


def test_an_overridable_initializer_is_not_a_constant():
    model = gir.from_text(BRANCHES)
    assert gir.constant_tensor(model.graph.initializers["w"]) is None
    np.testing.assert_array_equal(gir.constant_array(model.graph.initializers["k"]), [3.0, 4.0])
    assert gir.constant_array(model.graph.initializers["k"], max_elements=1) is None
    assert gir.constant_tensor(model.graph.inputs[0]) is None


@pytest.mark.parametrize(
    ("attribute", "expected"),
    [
        ("value = float[2] {1.5, 2.5}", [1.5, 2.5]),
        ("value_float = 1.5", 1.5),
        ("value_ints = [1, 2]", [1, 2]),
        ('value_string = "a"', b"a"),
    ],
)
def test_every_form_of_constant_node_is_a_constant(attribute, expected):
    model = gir.from_text(f"(float x) => (float y) {{ k = Constant<{attribute}>() y = Relu(x) }}")
    assert gir.constant_array(model.graph[0].outputs[0]).tolist() == expected


def test_graphs_come_innermost_first():
    model = gir.from_text(BRANCHES)
    assert [graph.name for graph in gir.graphs(model)] == ["yes", "no", "g"]


def test_loading_names_every_node_and_merges_the_default_domain():
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["ai.onnx" : 17]> '
        "g (float[1] x) => (float[1] z) { y = Relu(x)  z = Exp(y) }"
    )
    model = gir.normalise(ir.from_proto(proto))
    assert model.opset_imports == {"": 17}
    assert [node.name for node in model.graph] == ["y_Relu", "z_Exp"]


def test_no_value_of_a_subgraph_is_called_like_an_outer_one():
    model = gir.from_text(
        """(int64 n, bool go, float[2] x) => (float[2] y, float[2] z) {
          y = Loop(n, go, x) <body = b (int64 i, bool c, float[2] x) => (bool c2, float[2] z) {
            c2 = Identity(c)
            z = If(c) <then_branch = t () => (float[2] u) <float[2] x = {1, 2}> { u = Neg(x) },
                       else_branch = e () => (float[2] y) { y = Relu(x) }>
          }>
          z = Abs(x) }"""
    )
    names = [value.name for graph in gir.graphs(model) for value in graph.inputs]
    names += [name for graph in gir.graphs(model) for name in graph.initializers]
    names += [value.name for node in gir.nodes(model) for value in node.outputs]
    assert len(names) == len(set(names))
    assert [value.name for value in model.graph.inputs] == ["n", "go", "x"]
    assert [value.name for value in model.graph.outputs] == ["y", "z"]


def test_text_round_trips_and_leaves_out_large_weights():
    model = gir.from_text(BRANCHES)
    again = gir.from_text(gir.to_text(model))
    assert gir.to_text(again) == gir.to_text(model)
    assert "{3,4}" in gir.to_text(model)
    assert "{3,4}" not in gir.to_text(model, max_elements=1)


def test_text_that_is_not_a_model_is_refused():
    with pytest.raises(InvalidModelError, match="cannot be parsed"):
        gir.from_text("g (float x) => { nonsense")
