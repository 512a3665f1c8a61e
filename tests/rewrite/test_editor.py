"""The editor: atomic transactions, the journal, names, and what it protects."""

import numpy as np
import onnx
import pytest

from graphopt import ir as gir
from graphopt.errors import PassError
from graphopt.rewrite import Editor, Journal, can_replace

CHAIN = "(float[N] x) => (float[N] z) { u = Exp(x)  v = Neg(u)  z = Relu(v) }"
TWO_OUTPUTS = "(float[N] x) => (float[N] y, float[N] z) { y = Exp(x)  z = Identity(y) }"
BRANCH = """
(bool c, float[2] x) => (float[2] z)
{ u = Exp(x)
  z = If(c) <then_branch = yes () => (float[2] a) { a = Neg(u) },
             else_branch = no () => (float[2] b) { b = Abs(u) }> }
"""


def edit(text, limit=None):
    model = gir.from_text(text)
    return model, Editor(model, pass_name="test", journal=Journal(limit=limit))


def by_type(model, op_type):
    return next(node for node in gir.nodes(model) if node.op_type == op_type)


def check(model):
    onnx.checker.check_model(onnx.load_from_string(gir.model_bytes(model)))


def test_a_rewrite_replaces_an_output_under_its_public_name():
    model, editor = edit(CHAIN)
    relu = by_type(model, "Relu")
    with editor.rewrite(relu, because="test") as change:
        y = change.node("Softplus", [relu.inputs[0]])
        change.replace(relu.outputs[0], y)
        change.remove(relu)
    assert [node.op_type for node in model.graph] == ["Exp", "Neg", "Softplus"]
    assert [value.name for value in model.graph.outputs] == ["z"]
    assert model.graph.outputs[0].shape == model.graph.inputs[0].shape
    check(model)
    (entry,) = editor.journal.edits
    assert (entry.number, entry.pass_name, entry.because) == (1, "test", "test")
    assert entry.where == "Relu `z_Relu`"
    assert entry.removed == ("z_Relu",)


def test_a_block_that_raises_changes_nothing():
    model, editor = edit(CHAIN)
    before = gir.model_bytes(model)
    relu = by_type(model, "Relu")
    with pytest.raises(ZeroDivisionError), editor.rewrite(relu, because="test") as change:
        change.replace(relu.outputs[0], change.node("Abs", [relu.inputs[0]]))
        change.remove(relu)
        raise ZeroDivisionError
    assert gir.model_bytes(model) == before
    assert not editor.journal.edits


def test_transactions_beyond_the_limit_are_counted_and_discarded():
    model, editor = edit(CHAIN, limit=1)
    for op_type in ("Neg", "Exp"):
        node = by_type(model, op_type)
        with editor.rewrite(node, because="test") as change:
            change.replace(node.outputs[0], change.node("Abs", [node.inputs[0]]))
            change.remove(node)
    assert [node.op_type for node in model.graph] == ["Exp", "Abs", "Relu"]
    assert editor.journal.transactions == 2
    assert [entry.number for entry in editor.journal.edits] == [1]
    check(model)


def test_an_empty_rewrite_is_no_edit():
    model, editor = edit(CHAIN)
    with editor.rewrite(model.graph[0], because="test"):
        pass
    assert editor.journal.transactions == 0


def test_inserting_after_a_value_does_not_loop_back():
    model, editor = edit(CHAIN)
    u = by_type(model, "Exp").outputs[0]
    with editor.rewrite(u, because="test") as change:
        first = change.node("Abs", [u])
        second = change.node("Sqrt", [first])
        change.replace(u, second)
    assert [node.op_type for node in model.graph] == ["Exp", "Abs", "Sqrt", "Neg", "Relu"]
    assert by_type(model, "Abs").inputs[0] is u
    check(model)


def test_new_names_are_unique_across_scopes_and_reproducible():
    texts = set()
    for _ in range(2):
        model, editor = edit(BRANCH)
        neg = by_type(model, "Neg")
        with editor.rewrite(neg, because="test") as change:
            y = change.node("Abs", [neg.inputs[0]], name="u")
            change.replace(neg.outputs[0], y)
            change.remove(neg)
            change.initializer(np.zeros(2, np.float32), name="x")
        check(model)
        texts.add(gir.to_text(model))
    assert len(texts) == 1
    assert "x_1" in texts.pop()


def test_removing_a_node_with_branches_releases_what_they_capture():
    model, editor = edit(BRANCH)
    branch, exp = by_type(model, "If"), by_type(model, "Exp")
    with editor.rewrite(branch, because="test") as change:
        y = change.node("Abs", [model.graph.inputs[1]])
        change.replace(branch.outputs[0], y)
        change.remove(branch)
    assert not exp.outputs[0].uses()
    editor.remove(exp, because="unused")
    check(model)


def test_what_may_take_the_place_of_an_output():
    model, _ = edit(TWO_OUTPUTS)
    y, z = (node.outputs[0] for node in model.graph)
    assert not can_replace(z, y)  # `y` is returned itself: its name would be lost
    assert not can_replace(z, model.graph.inputs[0])
    model, _ = edit(BRANCH)
    assert not can_replace(by_type(model, "Neg").outputs[0], by_type(model, "Exp").outputs[0])


def test_an_impossible_replacement_is_an_error_and_not_another_model():
    model, editor = edit(TWO_OUTPUTS)
    y, z = (node.outputs[0] for node in model.graph)
    with pytest.raises(PassError), editor.rewrite(z, because="test") as change:
        change.replace(z, y)


def test_weights_inputs_attributes_and_opsets_can_be_changed():
    model, editor = edit("(float[N] x) => (float[N] z) <float[1] w = {1.0}> { z = Add(x, w) }")
    add = model.graph[0]
    with editor.rewrite(add, because="test") as change:
        change.set_tensor(add.inputs[1], np.array([2.0], np.float32))
        change.set_operator(add, "Mul")
        change.set_opset("com.microsoft", 1)
    assert gir.constant_array(add.inputs[1]).tolist() == [2.0]
    assert add.op_type == "Mul"
    assert model.opset_imports["com.microsoft"] == 1
    with editor.rewrite(add, because="test") as change:
        change.set_operator(add, "Softmax")
        change.set_input_count(add, 1)
        change.set_attributes(add, {"axis": 0})
        change.remove_initializer(model.graph.initializers["w"])
    check(model)
    assert not model.graph.initializers
    with editor.rewrite(add, because="test") as change:
        change.set_attributes(add, {"axis": None})
    assert not add.attributes


def test_a_constant_inside_a_function_is_a_node():
    model, editor = edit("""
<ir_version: 10, opset_import: ["" : 20, "local" : 1]>
g (float[N] x) => (float[N] z) { z = local.twice(x) }
<domain: "local", opset_import: ["" : 20]>
twice (a) => (b) { b = Add(a, a) }
""")
    (function,) = model.functions.values()
    add = function.graph[0]
    with editor.rewrite(add, because="test") as change:
        change.set_input(add, 1, change.initializer(np.ones(1, np.float32), name="one"))
    assert [node.op_type for node in function.graph] == ["Constant", "Add"]
    check(model)


def test_a_refusal_is_recorded_once():
    model, editor = edit(CHAIN)
    for _ in range(3):
        editor.refuse(model.graph[0], "some-reason", why="because")
    (refusal,) = editor.journal.refusals
    assert (refusal.slug, refusal.where) == ("some-reason", "Exp `u_Exp`")
