"""What is declared of an input is known at once to tables that were made before."""

import onnx_ir as ir
import pytest

from graphopt.analysis import KeptShapes
from graphopt.ir import from_text
from graphopt.pipeline import Pipeline
from graphopt.rewrite import Editor, Facts, Journal, ValueShape

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 4] x) => (float[M, 4] y) { a = Relu(x)  %s y = Neg(a) }
"""
SEQUENCE = "s = SequenceConstruct(a)"  # not among what our own inference covers


@pytest.mark.parametrize("beside", ["", SEQUENCE])
def test_sizes_that_are_fixed_are_known(beside):
    model = from_text(TEXT % beside)
    kept = KeptShapes(model).renewed(model)
    assert kept.of(model.graph.inputs[0]) == ValueShape(ir.DataType.FLOAT, ("N", 4))
    (fix,) = Pipeline.parse('specialize-shapes{dims=["N=1"]}').passes()
    edit = Editor(model, pass_name=fix.name, journal=Journal(touched=kept.touched))
    fix.run(model, edit, Facts(shapes=kept))
    for value in (*model.graph.inputs, *model.graph.outputs):
        assert kept.renewed(model).of(value) == ValueShape(ir.DataType.FLOAT, (1, 4))


def test_a_type_that_is_declared_is_known():
    model = from_text(TEXT % "")
    kept = KeptShapes(model).renewed(model)
    edit = Editor(model, pass_name="test", journal=Journal(touched=kept.touched))
    with edit.rewrite(model.graph, because="test") as change:
        change.set_value_info(model.graph.inputs[0], dtype=ir.DataType.FLOAT16)
        change.set_value_info(model.graph.outputs[0], dtype=ir.DataType.FLOAT16)
    assert kept.renewed(model).of(model.graph.outputs[0]).dtype == ir.DataType.FLOAT16
