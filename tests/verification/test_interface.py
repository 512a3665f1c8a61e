from __future__ import annotations

import onnx_ir as ir
import pytest

from graphopt.errors import StructureMismatch
from graphopt.ir import from_text
from graphopt.verification import Interface, check_interface

TEXT = """<ir_version: 8, opset_import: ["" : 17], metadata_props: ["author" : "me"]>
g (float[N, 4] x, float[4] w) => (float[N, 4] y, float[N, 4] z) <float[4] w = {1, 2, 3, 4}>
{ y = Add(x, w) z = Relu(y) }"""


def rename_input(model):
    model.graph.inputs[0].name = "x2"


def swap_outputs(model):
    model.graph.outputs.reverse()


def change_type(model):
    model.graph.outputs[0].type = ir.TensorType(ir.DataType.DOUBLE)


def refine_shape(model):
    model.graph.outputs[1].shape = ir.Shape([2, 4])


def drop_default(model):
    model.graph.initializers.pop("w")


def lose_metadata(model):
    model.metadata_props.pop("author")


def change_metadata(model):
    model.metadata_props["author"] = "you"


CHANGES = {
    rename_input: "input `x` is lost",
    swap_outputs: r"outputs are in the order \['z', 'y'\]",
    change_type: r"output `y` is tensor\(double\)\[N, 4\], was tensor\(float\)\[N, 4\]",
    refine_shape: r"output `z` is tensor\(float\)\[2, 4\]",
    drop_default: "input `w` cannot be overridden any more",
    lose_metadata: "metadata `author` is lost",
    change_metadata: "metadata `author` is `you`, was `me`",
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_every_change_is_noticed(change):
    model = from_text(TEXT)
    before = Interface.of(model)
    check_interface(before, model)
    change(model)
    with pytest.raises(StructureMismatch, match=CHANGES[change]):
        check_interface(before, model)


def test_metadata_may_be_added():
    model = from_text(TEXT)
    before = Interface.of(model)
    model.metadata_props["recipe"] = "@exact"
    check_interface(before, model)


def test_overridable_inputs_are_marked():
    inputs = Interface.of(from_text(TEXT)).inputs
    assert [(item.name, item.is_overridable) for item in inputs] == [("x", False), ("w", True)]
