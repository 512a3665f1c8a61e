"""Which models may move to opset 13 as they are."""

import pytest

from graphopt.compression import opset_obstacle
from graphopt.ir import from_text


def model(body, opset=11):
    return from_text(
        f'<ir_version: 6, opset_import: ["" : {opset}]>\ng (float[1,1,4,4] x) => (float[N] y) {body}'
    )


@pytest.mark.parametrize(
    "body",
    [
        "{ a = Relu(x)  y = Reshape(a, s) }".replace("(a, s)", "(a, x)"),
        "{ y = BatchNormalization(x, x, x, x, x) }",
        '{ y = Resize<mode = "nearest">(x, x, x) }',
    ],
)
def test_operators_that_stay_the_same(body):
    assert opset_obstacle(model(body), 13) is None


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ("{ y = Softmax(x) }", "Softmax"),
        ("{ y = Squeeze<axes = [0]>(x) }", "Squeeze"),
        ("{ y = Dropout(x) }", "Dropout"),
        ("{ y = ReduceSum<axes = [0]>(x) }", "ReduceSum"),
        (
            '{ y = Resize<coordinate_transformation_mode = "tf_half_pixel_for_nn">(x, x, x) }',
            "Resize",
        ),
    ],
)
def test_operators_that_change(body, name):
    assert f"`{name}` changes between opset 11 and 13" in opset_obstacle(model(body), 13)


def test_operator_whose_attributes_became_inputs():
    assert opset_obstacle(model("{ y = Clip<max = 6.0>(x) }", opset=10), 13) is not None
    assert opset_obstacle(model("{ y = Clip(x) }", opset=11), 13) is None


@pytest.mark.parametrize(
    "body",
    [
        "{ a = Relu(x)  y = Reshape(a, x) }",
        "{ y = BatchNormalization(x, x, x, x, x) }",
        "{ y, z = Split(x, x) }",
        "{ y = AveragePool<kernel_shape = [2, 2]>(x) }",
        "{ a = Cast<to = 1>(x)  b = Where(a, a, a)  y = Pad(b, a) }",
    ],
)
def test_operators_that_stay_the_same_up_to_21(body):
    assert opset_obstacle(model(body, opset=13), 21) is None


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ("{ y = ReduceMean<axes = [0]>(x) }", "ReduceMean"),
        ("{ y, z = Split(x) }", "Split"),
        ("{ y = AveragePool<kernel_shape = [2, 2], ceil_mode = 1>(x) }", "AveragePool"),
        (
            "{ y, z, w = BatchNormalization<training_mode = 1>(x, x, x, x, x) }",
            "BatchNormalization",
        ),
        ("{ y = GridSample(x, x) }", "GridSample"),
        ("{ y = RoiAlign(x, x, x) }", "RoiAlign"),
    ],
)
def test_operators_that_change_up_to_21(body, name):
    opset = 16 if name == "GridSample" else 14 if name == "BatchNormalization" else 13
    assert f"`{name}` changes" in opset_obstacle(model(body, opset=opset), 21)


def test_both_steps_count():
    assert opset_obstacle(model("{ y = Relu(x) }", opset=11), 21) is None
    assert opset_obstacle(model("{ y = Softmax(x) }", opset=11), 21) is not None
    assert opset_obstacle(model("{ y = ReduceMean<axes = [0]>(x) }", opset=11), 21) is not None


def test_nothing_to_do():
    assert opset_obstacle(model("{ y = Softmax(x) }", opset=13), 13) is None
