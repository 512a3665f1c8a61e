"""Operators on constants that are computed here give what the runtime gives, or nothing."""

import itertools

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from graphopt.analysis.exact_arithmetic import computed
from graphopt.analysis.moving_elements import moved
from graphopt.errors import RuntimeFailure
from graphopt.runtime import shared_worker

NAN = np.array([[np.nan, -0.0, 0.0], [np.inf, -np.nan, 1e-42]], np.float32)
DATA = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
INTS = np.arange(-6, 6, dtype=np.int64).reshape(3, 4)


def int64(*numbers):
    return np.array(numbers, np.int64)


def scalar(number):
    return np.array(number, np.int64)


def value(array):
    return {"value": numpy_helper.from_array(array)}


CASES = [
    ("Identity", {}, NAN),
    ("Reshape", {}, DATA, int64(0, -1)),
    ("Reshape", {}, DATA, int64(4, 0, -1)),
    ("Reshape", {}, DATA, int64(24)),
    ("Reshape", {"allowzero": 1}, DATA, int64(4, -1)),
    ("Reshape", {}, np.float32(3), int64()),
    ("Reshape", {"allowzero": 1}, np.zeros((0, 3), np.float32), int64(3, 0)),
    ("Reshape", {}, np.zeros((0, 3), np.float32), int64(0, 3)),
    ("Reshape", {}, DATA, int64(5, -1)),
    ("Transpose", {}, DATA),
    ("Transpose", {"perm": [1, 2, 0]}, DATA),
    ("Concat", {"axis": -1}, DATA, DATA[:, :, :1]),
    ("Concat", {"axis": 0}, INTS, INTS[:0]),
    ("Concat", {"axis": 1}, DATA, DATA[:1]),
    ("Gather", {"axis": 1}, DATA, np.array([[0, -1], [2, 1]], np.int64)),
    ("Gather", {}, NAN, np.array(-2, np.int32)),
    ("Gather", {"axis": -1}, INTS, int64(4)),
    ("Gather", {}, INTS, int64()),
    ("Unsqueeze", {}, INTS, int64(0, -1)),
    ("Unsqueeze", {}, INTS, int64(3, 1)),
    ("Unsqueeze", {}, INTS, int64(0, 0)),
    ("Squeeze", {}, DATA[:1, :1], int64(0, 1)),
    ("Squeeze", {}, DATA[:1, :1], int64(-2)),
    ("Squeeze", {}, DATA[:1]),
    ("Squeeze", {}, DATA, int64(0)),
    ("Expand", {}, INTS[:, :1], int64(2, 1, 5)),
    ("Expand", {}, INTS, int64(1)),
    ("Expand", {}, INTS, int64(0, 3, 4)),
    ("Expand", {}, INTS, int64(2, 3)),
    ("ConstantOfShape", {}, int64(2, 3)),
    ("ConstantOfShape", value(np.array([-7], np.int8)), int64(2, 0)),
    ("ConstantOfShape", value(np.array([True])), int64()),
    ("Where", {}, np.array([[True], [False]]), INTS[:2, :3].copy(), INTS[1:, 1:].copy()),
    ("Where", {}, np.array([True, False, True]), INTS[:, :3].copy(), int64(9)),
    ("Where", {}, np.array([[True], [False]]), DATA[0, :2], DATA[1, :2] - 40),
    ("Where", {}, np.array([True, False]), np.array([True, True]), np.array([False, True])),
    ("ScatterND", {}, DATA, np.array([[[0, 2], [1, -1]]], np.int64), -DATA[:1, :2]),
    ("ScatterND", {}, INTS, np.array([[0, 1], [-1, -2]], np.int64), int64(70, 80)),
    ("Range", {}, scalar(3), scalar(-4), scalar(-2)),
    ("Range", {}, scalar(3), scalar(4), scalar(-2)),
    ("Range", {}, scalar(0), scalar(7), scalar(3)),
    ("Cast", {"to": onnx.TensorProto.INT64}, np.array([-3, 7], np.int32)),
    ("Cast", {"to": onnx.TensorProto.DOUBLE}, np.array([True, False])),
    ("Cast", {"to": onnx.TensorProto.INT32}, np.array([255, 0], np.uint8)),
]


def node_of(operator, attributes, arrays):
    inputs = [ir.Value(name=f"i{index}") for index in range(len(arrays))]
    proto = helper.make_node(operator, [], [], **attributes)
    held = [ir.from_proto(attribute) for attribute in proto.attribute]
    return ir.Node("", operator, inputs, attributes=held, outputs=[ir.Value(name="z")])


def by_runtime(operator, attributes, arrays):
    """What the runtime computes; ``None`` where it refuses."""
    names = [f"i{index}" for index in range(len(arrays))]
    tensors = [
        numpy_helper.from_array(np.asarray(a), n) for n, a in zip(names, arrays, strict=True)
    ]
    node = helper.make_node(operator, names, ["z"], **attributes)
    graph = helper.make_graph([node], "g", [], [onnx.ValueInfoProto(name="z")], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    try:
        return shared_worker().evaluate(model.SerializeToString(), {})["z"]
    except RuntimeFailure:
        return None


def assert_agrees(operator, attributes, arrays, compute=moved):
    found = compute(node_of(operator, attributes, arrays), [np.asarray(a) for a in arrays])
    if found is None:
        return False
    expected = by_runtime(operator, attributes, arrays)
    assert expected is not None, "the runtime refuses what was computed"
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert np.ascontiguousarray(found).tobytes() == expected.tobytes()
    return True


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}")
def test_the_result_is_that_of_the_runtime(case):
    operator, attributes, *arrays = case
    assert_agrees(operator, attributes, arrays)


def test_every_operator_is_computed_in_some_case():
    computed = {
        c[0]
        for c in CASES
        if moved(node_of(c[0], c[1], c[2:]), [np.asarray(a) for a in c[2:]]) is not None
    }
    assert computed == {case[0] for case in CASES}


def test_slices_with_every_kind_of_bound():
    bounds = (-(2**63), -5, -4, -1, 0, 2, 3, 4, 5, 2**63 - 1)
    done = 0
    rng = np.random.default_rng(0)
    every = list(itertools.product(bounds, bounds, (-3, -1, 1, 2)))
    for index in rng.permutation(len(every))[:60]:
        start, end, step = every[index]
        done += assert_agrees("Slice", {}, [INTS, int64(start), int64(end), int64(-1), int64(step)])
    assert 60 > done > 40
    assert assert_agrees("Slice", {}, [DATA, int64(1, -9), int64(9, 2), int64(2, 0)])
    assert assert_agrees("Slice", {}, [DATA, int64(1), int64(2)])


@pytest.mark.parametrize(
    ("operator", "attributes", "arrays"),
    [
        ("Slice", {}, [INTS, int64(0), int64(1), int64(0), int64(0)]),
        ("Slice", {}, [INTS, int64(0, 0), int64(1, 1), int64(0, -2)]),
        ("Slice", {}, [INTS, int64(0), int64(1), int64(5)]),
        ("Slice", {}, [INTS, int64(-9), int64(2**63 - 1), int64(0), int64(-1)]),
        ("Where", {}, [np.array([True]), np.float32([-0.0]), np.float32([1])]),
        ("ScatterND", {}, [INTS, np.array([[0, 1], [0, -3]], np.int64), int64(70, 80)]),
        ("ScatterND", {}, [INTS, np.array([[3, 0]], np.int64), int64(70)]),
        ("ScatterND", {"reduction": "add"}, [INTS, np.array([[0, 1]], np.int64), int64(70)]),
        ("Where", {}, [np.array([[True], [False]]), NAN, NAN]),
        ("Range", {}, [scalar(0), scalar(5), scalar(0)]),
        ("Range", {}, [np.float32(0), np.float32(1), np.float32(0.1)]),
        ("Cast", {"to": onnx.TensorProto.INT32}, [np.array([1e30], np.float32)]),
        ("Cast", {"to": onnx.TensorProto.FLOAT}, [np.array([2**24 + 1], np.int32)]),
        ("Reshape", {}, [DATA, int64(-1, -1)]),
        ("Concat", {"axis": 3}, [DATA, DATA]),
        ("Identity", {}, [np.array(["a"], object)]),
        ("MatMul", {}, [NAN, NAN.T]),
    ],
)
def test_what_is_unusual_is_left_to_the_runtime(operator, attributes, arrays):
    assert moved(node_of(operator, attributes, arrays), arrays) is None


def test_operators_of_other_domains_are_not_taken_for_standard_ones():
    node = ir.Node("custom", "Identity", [ir.Value(name="x")], outputs=[ir.Value(name="z")])
    assert moved(node, [NAN]) is None


ODD = np.array([1 / 3, -0.0, 3e30, 1e-40, -7.25], np.float32)
ARITHMETIC = [
    *[(operator, {}, ODD[:, None], ODD[3:] / 3) for operator in ("Add", "Sub", "Mul")],
    *[(operator, {}, INTS, INTS[:1] * (2**61)) for operator in ("Add", "Sub", "Mul")],
    ("Mul", {}, ODD[3:4], ODD[3:4]),
    ("Div", {}, ODD[:4, None], ODD[2::2]),
    ("Div", {}, ODD.astype(np.float64)[:1], np.float64(3)),
    ("Sqrt", {}, np.float32(2)),
    ("Sqrt", {}, np.array([[1 / 3]])),
    ("Equal", {}, ODD, np.float32(0)),
    ("Equal", {}, INTS, INTS[0]),
    ("Equal", {}, NAN, NAN),
    ("Not", {}, np.array([True, False])),
    ("Mod", {}, INTS, int64(3, 4, 5, 7)),
    ("Mod", {"fmod": 0}, scalar(56), scalar(7)),
    ("Cast", {"to": onnx.TensorProto.FLOAT}, INTS),
    ("Cast", {"to": onnx.TensorProto.INT64}, np.array([3, -7], np.float32)),
    ("Cast", {"to": onnx.TensorProto.BOOL}, np.array([1, 0], np.float32)),
    ("Cast", {"to": onnx.TensorProto.DOUBLE}, ODD),
]


@pytest.mark.parametrize("case", ARITHMETIC, ids=lambda case: f"{case[0]}")
def test_arithmetic_is_that_of_the_runtime(case):
    operator, attributes, *arrays = case
    assert assert_agrees(operator, attributes, arrays, computed)


def test_single_operations_round_as_the_runtime_rounds():
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((2, 4096)) * 10.0 ** rng.integers(-18, 18, (2, 4096))
    for dtype in (np.float32, np.float64):
        for operator in ("Add", "Sub", "Mul", "Div"):
            arrays = [first.astype(dtype), second.astype(dtype)]
            assert assert_agrees(operator, {}, arrays, computed)
        for number in first[:20]:
            assert assert_agrees("Sqrt", {}, [dtype(abs(number))], computed)


@pytest.mark.parametrize(
    ("operator", "attributes", "arrays"),
    [
        ("Add", {}, [NAN, NAN]),
        ("Mul", {}, [ODD, np.float32(3e30)]),
        ("Div", {}, [ODD, np.float32(0)]),
        ("Div", {}, [INTS, INTS + 20]),
        ("Mod", {}, [INTS, int64(-3)]),
        ("Mod", {"fmod": 1}, [INTS, int64(3)]),
        ("Sqrt", {}, [np.float32(-1)]),
        ("Sqrt", {}, [np.ones(8, np.float32)]),
        ("Add", {"broadcast": 1, "axis": 0}, [INTS, int64(1, 2, 3)]),
        ("Add", {}, [INTS, int64(1, 2, 3)]),
        ("Add", {}, [np.array([True]), np.array([True])]),
        ("Add", {}, [np.ones(2, np.float16), np.ones(2, np.float16)]),
        ("Cast", {"to": onnx.TensorProto.FLOAT}, [int64(2**24 + 1)]),
        ("Cast", {"to": onnx.TensorProto.INT64}, [np.array([0.5], np.float32)]),
        ("Cast", {"to": onnx.TensorProto.INT64}, [np.array([np.nan, 1e30], np.float32)]),
        ("Cast", {"to": onnx.TensorProto.INT64}, [np.array([-0.0], np.float32)]),
        ("Cast", {"to": onnx.TensorProto.FLOAT}, [np.array([1 / 3])]),
        ("Cast", {"to": onnx.TensorProto.FLOAT16}, [ODD]),
        ("Exp", {}, [ODD]),
    ],
)
def test_what_could_be_rounded_in_two_ways_is_left_to_the_runtime(operator, attributes, arrays):
    assert computed(node_of(operator, attributes, arrays), [np.asarray(a) for a in arrays]) is None
