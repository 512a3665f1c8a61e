"""Every structural rule, broken once by hand; and models that keep them all."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.errors import StructureMismatch
from graphopt.ir import from_text
from graphopt.verification import check_structure, structure_faults

HEADER = '<ir_version: 8, opset_import: ["" : 17]>\n'

GOOD = {
    "chain": "g (float[N] x) => (float[N] y) { a = Relu(x) y = Abs(a) }",
    "optional_input": """g (float[N] x) => (float[N] y)
        <float hi = {6.0}> { y = Clip(x, , hi) }""",
    "overridable": "g (float[2] x, float[2] w) => (float[2] y) <float[2] w = {1, 2}> { y = Add(x, w) }",
    "captured": """g (bool c, float[N] x) => (float[N] y) { a = Relu(x)
        y = If <then_branch = t () => (float[N] u) { u = Neg(a) },
                else_branch = e () => (float[N] u) { u = Abs(a) }> (c) }""",
    "loop_input_hides_outer": """g (int64 n, bool c, float[N] x) => (float[N] y) {
        y = Loop <body = b (int64 i, bool k, float[N] x) => (bool k2, float[N] z)
            { k2 = Identity(k) z = Relu(x) }> (n, c, x) }""",
    "output_is_input": "g (float[N] x) => (float[N] x) { }",
    "variadic": "g (float[N] x) => (float[M] y) { y = Concat <axis = 0> (x, x, x) }",
    "two_outputs_one_used": """g (float[N,8] x, int64[1] k) => (float[N,K] y)
        { y, unused = TopK (x, k) }""",
    "unknown_domain": """g (float[N] x) => (float[N] y) { y = my.ops.Anything <a = 1> (x) }""",
}


def parse(text: str, header: str = HEADER) -> ir.Model:
    return from_text(header + text)


@pytest.mark.parametrize("name", GOOD)
def test_sound_models_have_no_faults(name):
    header = HEADER.replace("17]", '17, "my.ops" : 1]') if name == "unknown_domain" else HEADER
    model = parse(GOOD[name], header)
    assert structure_faults(model) == []
    check_structure(model)


def test_function_calls_are_known_operators():
    model = from_text(
        """<ir_version: 8, opset_import: ["" : 17, "f" : 1]>
        g (float[N] x) => (float[N] y) { y = f.twice(x) }
        <domain: "f", opset_import: ["" : 17]> twice (a) => (b) { b = Add(a, a) }"""
    )
    assert structure_faults(model) == []


def test_fault_inside_a_function_is_found():
    model = from_text(
        """<ir_version: 8, opset_import: ["" : 17, "f" : 1]>
        g (float[N] x) => (float[N] y) { y = f.twice(x) }
        <domain: "f", opset_import: ["" : 17]> twice (a) => (b) { b = Relu(a) }"""
    )
    (function,) = model.functions.values()
    function[0].op_type = "Relew"
    (fault,) = structure_faults(model)
    assert "`Relew` is no operator of opset 17" in fault


SCHEMA_FAULTS = {
    "needs attribute `axis` of type INT": "{ y = Concat (x, x) }",
    "`Relu-14` has no attribute `slope`": "{ y = Relu <slope = 1.0> (x) }",
    "attribute `alpha` of `LeakyRelu-16` must be FLOAT, is INT": "{ y = LeakyRelu <alpha = 1> (x) }",
    "takes at most 1 inputs, got 2": "{ y = Relu (x, x) }",
    "needs at least 2 inputs, got 1": "{ y = Add (x) }",
    "needs input 0 (`A`), which is left out": "{ y = Add (, x) }",
    "takes at most 1 outputs, got 2": "{ y, z = Relu (x) }",
    "`Relw` is no operator of opset 17": "{ y = Relw (x) }",
    "`Upsample-10` is deprecated in this opset": "{ y = Upsample (x, x) }",
    "needs one type for input 0 (`A`) and input 1 (`B`): tensor(float), tensor(int64)": (
        "{ i = Shape(x) y = Add (x, i) }"
    ),
    "does not take tensor(int64) as input 0 (`input`)": "{ i = Shape(x) y = Softmax(i) }",
}


@pytest.mark.parametrize("fault", SCHEMA_FAULTS)
def test_schema_is_enforced(fault):
    body = SCHEMA_FAULTS[fault]
    model = parse(f"g (float[N] x) => (float[N] y) <int64[1] i> {body}")
    assert any(fault in found for found in structure_faults(model)), structure_faults(model)


def test_missing_opset_import_is_named_once():
    model = parse("g (float[N] x) => (float[N] y) { a = Relu(x) y = Abs(a) }")
    for node in model.graph:
        node.domain = "com.acme"
    (fault,) = structure_faults(model)
    assert "`com.acme`" in fault
    assert "does not import" in fault


def only_fault(model: ir.Model) -> str:
    faults = structure_faults(model)
    assert len(faults) == 1, faults
    return faults[0]


def test_dangling_value():
    model = parse("g (float[N] x) => (float[N] y) { y = Relu(x) }")
    model.graph[0].replace_input_with(0, ir.Value(name="ghost"))
    assert "`ghost`, which nothing produces" in only_fault(model)


def test_constant_that_is_not_registered():
    model = parse("g (float[2] x) => (float[2] y) { y = Add(x, x) }")
    loose = ir.Value(name="w", const_value=ir.tensor(np.ones(2, np.float32)))
    model.graph[0].replace_input_with(1, loose)
    assert "`w`, a constant that is not registered" in only_fault(model)


def test_use_before_definition():
    model = parse("g (float[N] x) => (float[N] y) { a = Relu(x) y = Abs(a) }")
    first, second = model.graph
    model.graph.remove(first)
    model.graph.insert_after(second, first)
    assert "produces only later" in only_fault(model)


def test_producer_outside_the_model():
    model = parse("g (float[N] x) => (float[N] y) { a = Relu(x) y = Abs(a) }")
    first = model.graph[0]
    model.graph.remove(first)
    assert any("is not in the model" in fault for fault in structure_faults(model))
    assert any("value `x` lists 1 uses, the model holds 0" in f for f in structure_faults(model))


def test_name_defined_twice():
    model = parse("g (float[N] x) => (float[N] y) { a = Relu(x) b = Neg(a) y = Abs(a) }")
    model.graph[1].outputs[0].name = "x"
    faults = structure_faults(model)
    assert any("name `x` is defined more than once" in fault for fault in faults)


def test_node_in_a_subgraph_hides_an_outer_value():
    model = parse(GOOD["captured"])
    branch = model.graph[1].attributes["then_branch"].as_graph()
    branch[0].outputs[0].name = "x"
    assert any("name `x` is defined more than once" in f for f in structure_faults(model))


def test_use_of_a_hidden_value():
    model = parse(GOOD["loop_input_hides_outer"])
    body = model.graph[0].attributes["body"].as_graph()
    body.inputs[2].name = "x"  # loading gave it a name of its own
    assert structure_faults(model) == []
    body[1].replace_input_with(0, model.graph.inputs[2])
    assert any("means another value here" in fault for fault in structure_faults(model))


def test_value_of_a_branch_used_outside():
    model = parse(
        """g (bool c, float[N] x) => (float[N] y) {
        a = If <then_branch = t () => (float[N] u) { u = Neg(x) },
                else_branch = e () => (float[N] v) { v = Abs(x) }> (c)
        y = Relu(a) }"""
    )
    inner = model.graph[0].attributes["then_branch"].as_graph().outputs[0]
    model.graph[1].replace_input_with(0, inner)
    assert "out of scope" in only_fault(model)


def test_subgraph_may_not_return_an_outer_value():
    model = parse(GOOD["captured"])
    branch = model.graph[1].attributes["else_branch"].as_graph()
    branch.outputs[0] = model.graph[0].outputs[0]
    assert "belongs to an outer graph" in only_fault(model)


def test_output_that_nothing_produces():
    model = parse("g (float[N] x) => (float[N] y) { y = Relu(x) }")
    model.graph.outputs.append(ir.Value(name="z", type=ir.TensorType(ir.DataType.FLOAT)))
    assert only_fault(model) == "output `z` of the graph is produced by nothing"


def test_input_without_a_type():
    model = parse("g (float[N] x) => (float[N] y) { y = Relu(x) }")
    model.graph.inputs[0].type = None
    assert only_fault(model) == "input `x` of the graph has no type"


@pytest.mark.parametrize(
    ("tensor", "fault"),
    [
        (None, "has no tensor"),
        (np.ones(2, np.int64), "is declared FLOAT and holds INT64"),
        (np.ones(3, np.float32), "is declared [2] and holds [3]"),
    ],
)
def test_initializer_and_its_tensor(tensor, fault):
    model = parse("g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { y = Add(x, w) }")
    weight = model.graph.initializers["w"]
    weight.type, weight.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([2])
    weight.const_value = None if tensor is None else ir.tensor(tensor, name="w")
    assert fault in only_fault(model)


def test_check_structure_names_the_first_fault_and_counts_the_rest():
    model = parse("g (float[N] x) => (float[N] y) { y = Relu <a = 1, b = 2> (x) }")
    with pytest.raises(StructureMismatch, match=r"no attribute `a` \(and 1 more\)") as caught:
        check_structure(model, where="m.onnx")
    assert caught.value.where == "m.onnx"
