"""Sizes of what windows slide over: those that are said to be equal are equal whatever goes in."""

import itertools

import pytest

from graphopt.analysis import infer_shapes
from graphopt.analysis.symbolic_table import SymbolicTable
from graphopt.analysis.typed_shapes import TypedShapes
from graphopt.ir import from_text

SIZES = (5, 6, 7, 8, 11)
WINDOWS = [
    f"Conv<strides = [{stride}], pads = [{pad}, {more}], dilations = [{dilation}]>(x, {weight})"
    for stride, pad, more, dilation, weight in itertools.product(
        (1, 2), (0, 1), (1, 2), (1, 2), ("v", "w")
    )
] + [
    'Conv<auto_pad = "VALID", strides = [2]>(x, w)',
    'Conv<auto_pad = "SAME_UPPER", strides = [2]>(x, w)',
    'Conv<auto_pad = "SAME_LOWER">(x, w)',
    "MaxPool<kernel_shape = [2], strides = [2], ceil_mode = 1>(x)",
    "MaxPool<kernel_shape = [2], strides = [2]>(x)",
    "MaxPool<kernel_shape = [3], pads = [1, 1], strides = [2]>(x)",
    "AveragePool<kernel_shape = [3], pads = [1, 1], dilations = [2]>(x)",
    'com.microsoft.FusedConv<strides = [2], activation = "Relu">(x, w)',
]


def last_sizes(length, *, symbolic):
    """Return the last dimension of what each window makes of a row of so many elements."""
    body = "".join(f"y{index} = {window}\n" for index, window in enumerate(WINDOWS))
    model = from_text(
        f"""<ir_version: 10, opset_import: ["" : 20, "com.microsoft" : 1]>
        g (float[N,1,{length}] x) => (float z) <float[1,1,1] v = {{1}}, float[1,1,3] w = {{1, 2, 3}}>
        {{ {body} z = ReduceSum(y0) }}"""
    )
    table = infer_shapes(model)
    table = SymbolicTable(model, table) if symbolic else table
    values = [node.outputs[0] for node in model.graph][: len(WINDOWS)]
    return [table.of(value).dims[-1] for value in values]


def test_equal_names_are_equal_sizes():
    names = last_sizes("H", symbolic=True)
    runs = [last_sizes(size, symbolic=False) for size in SIZES]
    same = [
        pair
        for pair in itertools.combinations(range(len(WINDOWS)), 2)
        if len({*map(names.__getitem__, pair)}) == 1
    ]
    assert same
    for (first, second), run in itertools.product(same, runs):
        assert run[first] == run[second], (WINDOWS[first], WINDOWS[second])


@pytest.mark.parametrize(
    ("window", "size"),
    [
        ("Conv<strides = [1], pads = [1, 1], dilations = [1]>(x, w)", "H"),
        ("Conv<strides = [1], pads = [1, 2], dilations = [2]>(x, w)", "-1+H"),
    ],
)
def test_what_moves_step_by_step_is_as_long_but_for_its_edges(window, size):
    assert last_sizes("H", symbolic=True)[WINDOWS.index(window)].replace(" ", "") == size


def test_as_many_windows_by_different_ways():
    names = dict(zip(WINDOWS, last_sizes("H", symbolic=True), strict=True))
    wide = names["Conv<strides = [2], pads = [1, 1], dilations = [1]>(x, w)"]
    assert wide == names["MaxPool<kernel_shape = [3], pads = [1, 1], strides = [2]>(x)"]
    assert wide != names["Conv<strides = [2], pads = [0, 1], dilations = [1]>(x, w)"]


ROUNDED_UP = [
    f"{kind}Pool<kernel_shape = [{kernel}], strides = [{stride}], pads = [{pad}, {more}], "
    f"dilations = [{dilation}], ceil_mode = 1>(x)"
    for kind, kernel, stride, (pad, more), dilation in itertools.product(
        ("Max", "Average"), (2, 3, 9), (1, 2, 4, 9), ((0, 0), (0, 1), (1, 0), (1, 1)), (1, 2)
    )
]


@pytest.mark.parametrize("length", [1, 2, 5, 7])
def test_windows_rounded_up_and_whole_images_are_known_without_inference(length, monkeypatch):
    windows = [*ROUNDED_UP, *(f"Global{kind}Pool(x)" for kind in ("Average", "Lp", "Max"))]
    body = "".join(f"y{index} = {window}\n" for index, window in enumerate(windows))
    model = from_text(
        f"""<ir_version: 10, opset_import: ["" : 22]>
        g (float[N,3,{length}] x) => (float z) {{ {body} z = ReduceSum(y0) }}"""
    )
    values = [node.outputs[0] for node in model.graph][: len(windows)]
    inferred = infer_shapes(model)
    monkeypatch.setattr(TypedShapes, "ask_inference", lambda *_: None)
    known = TypedShapes(model)
    told = 0
    for window, value in zip(windows, values, strict=True):
        size = known.dims(value)[-1]
        if isinstance(size, int):
            told += 1
            assert size == inferred.of(value).dims[-1], window
        assert known.shape(value).dims[:2] == ("N", 3)
    # The rest begin in the padding, or do not fit.
    assert told >= len(windows) // 2
    assert [known.dims(value)[-1] for value in values[-3:]] == [1, 1, 1]


@pytest.mark.parametrize(
    "window",
    [
        "Conv<strides = [0]>(x, w)",
        'Conv<auto_pad = "SAME_UPPER", strides = [0]>(x, w)',
        "MaxPool<kernel_shape = [3], strides = [-1]>(x)",
    ],
)
def test_of_windows_that_go_nowhere_nothing_is_said(window):
    model = from_text(
        f"(float[1,1,8] x) => (float z) <float[1,1,3] w = {{1, 2, 3}}> {{ z = {window} }}"
    )
    assert not isinstance(TypedShapes(model).dims(model.graph.outputs[0])[-1], int)
