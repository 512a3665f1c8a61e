"""Sessions: what goes in comes out, whatever its type; what cannot is said clearly."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest

from graphopt.errors import RunError, SessionLoadError
from graphopt.runtime import SessionOptions, TensorSpec, Worker

RELU_NEG = "g (float[N] x) => (float[N] y, float[N] z) { y = Relu(x)  z = Neg(x) }"


def test_runs_every_output_by_default(worker, model_bytes):
    session = worker.load(model_bytes(RELU_NEG))
    results = session.run({"x": np.array([1, -2], np.float32)})
    assert {name: array.tolist() for name, array in results.items()} == {"y": [1, 0], "z": [-1, 2]}


def test_runs_only_the_outputs_that_are_wanted(worker, model_bytes):
    session = worker.load(model_bytes(RELU_NEG))
    results = session.run({"x": np.array([1, -2], np.float32)}, ["z"])
    assert list(results) == ["z"]


def test_sessions_of_one_worker_are_independent(worker, model_bytes):
    relu = worker.load(model_bytes("g (float[N] x) => (float[N] y) { y = Relu(x) }"))
    neg = worker.load(model_bytes("g (float[N] x) => (float[N] y) { y = Neg(x) }"))
    x = {"x": np.array([-3], np.float32)}
    assert (relu.run(x)["y"].item(), neg.run(x)["y"].item(), relu.run(x)["y"].item()) == (0, 3, 0)


def test_describes_inputs_and_outputs(worker, model_bytes):
    graph = "g (float[N, 3, M] x, float[1] w) => (bool[N, 3, M] y) <float[1] w = {1}> { y = Less(x, w) }"
    session = worker.load(model_bytes(graph))
    assert session.inputs == (TensorSpec("x", "float32", ("N", 3, "M")),)
    assert session.outputs[0].dtype == "bool"
    assert session.outputs[0].numpy_dtype == np.dtype(bool)


@pytest.mark.parametrize(
    ("onnx_type", "array"),
    [
        ("float16", np.array([1.5, -2], np.float16)),
        ("double", np.array([1.5, -2])),
        ("uint8", np.array([0, 255], np.uint8)),
        ("int64", np.array([[2**62, -1]])),
        ("bool", np.array([[True], [False]])),
        ("bfloat16", np.array([1.5, -2], ml_dtypes.bfloat16)),
        ("float8e4m3fn", np.array([1.5, -2], ml_dtypes.float8_e4m3fn)),
        ("float8e5m2", np.array([1.5, -2], ml_dtypes.float8_e5m2)),
        ("string", np.array(["ä", "", "b\n"], dtype=object)),
        ("int32", np.zeros((0, 4), np.int32)),
        ("float", np.float32(3).reshape(())),
        ("float", np.arange(12, dtype=np.float32).reshape(3, 4).T),
        ("int16", np.array([1, -2], ">i2")),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value.dtype}{list(value.shape)}",
)
def test_identity_keeps_every_type(worker, model_bytes, onnx_type, array):
    dims = ",".join(str(dim) for dim in array.shape)
    graph = f"g ({onnx_type}[{dims}] x) => ({onnx_type}[{dims}] y) {{ y = Identity(x) }}"
    result = worker.load(model_bytes(graph, opset=19)).run({"x": array})["y"]
    assert result.dtype == array.dtype.newbyteorder("=")
    assert result.shape == array.shape
    assert result.tolist() == array.tolist()


@pytest.mark.parametrize("name", ["int4", "uint4"])
@pytest.mark.parametrize("size", [4, 5])
def test_four_bit_integers_go_in_and_out(worker, model_bytes, name, size):
    number = {"int4": onnx.TensorProto.INT4, "uint4": onnx.TensorProto.UINT4}[name]
    values = np.array([1, -8, -1, 7, 3][:size] if name == "int4" else [1, 8, 15, 7, 3][:size])
    narrow = model_bytes(
        f"g (float[N] x) => ({name}[N] y) {{ y = Cast<to={number}>(x) }}", opset=21
    )
    result = worker.load(narrow).run({"x": values.astype(np.float32)})["y"]
    assert result.dtype == getattr(ml_dtypes, name)
    assert result.astype(int).tolist() == values.tolist()
    widen = model_bytes(f"g ({name}[N] x) => (float[N] y) {{ y = Cast<to=1>(x) }}", opset=21)
    fed = {"x": values.astype(getattr(ml_dtypes, name))}
    assert worker.load(widen).run(fed)["y"].tolist() == values.tolist()


def test_sequences_are_lists(worker, model_bytes):
    graph = "g (seq(float[N]) x) => (seq(float[N]) y, int64 n) { y = Identity(x)  n = SequenceLength(x) }"
    parts = [np.array([1, 2], np.float32), np.array([3], np.float32)]
    results = worker.load(model_bytes(graph)).run({"x": parts})
    assert [part.tolist() for part in results["y"]] == [[1, 2], [3]]
    assert results["n"] == 2


def test_arrays_returned_can_be_changed(worker, model_bytes):
    result = worker.load(model_bytes(RELU_NEG)).run({"x": np.ones(2, np.float32)})["y"]
    result += 1
    assert result.tolist() == [2, 2]


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, "Required inputs"),
        ({"x": np.zeros((2, 2), np.float32)}, "Invalid rank"),
        ({"x": np.zeros(2, np.int64)}, "Unexpected input data type"),
        ({"x": [1.0, 2.0]}, "expected an array"),
    ],
)
def test_wrong_feeds_are_refused(worker, model_bytes, feeds, message):
    session = worker.load(model_bytes(RELU_NEG))
    with pytest.raises(RunError, match=message):
        session.run(feeds)
    assert session.run({"x": np.ones(1, np.float32)})["y"].item() == 1


def test_no_tensor_beside_a_type_that_numpy_lacks_is_refused(worker, model_bytes):
    """It ended the worker, and every session in it."""
    text = """g (optional(float[N]) x, float[N] z) => (bool b, bfloat16[N] y)
    { b = OptionalHasElement(x)  y = Cast<to = 16>(z) }"""
    with worker.load(model_bytes(text)) as session:
        with pytest.raises(RunError, match="cannot run the model"):
            session.run({"x": None, "z": np.ones(2, np.float32)})
        assert worker.is_alive


def test_unknown_output_is_refused(worker, model_bytes):
    with pytest.raises(RunError, match="nowhere"):
        worker.load(model_bytes(RELU_NEG)).run({"x": np.ones(1, np.float32)}, ["nowhere"])


def test_closed_session_is_refused(worker, model_bytes):
    with worker.load(model_bytes(RELU_NEG)) as session:
        pass
    with pytest.raises(RunError, match="closed"):
        session.run({"x": np.ones(1, np.float32)})


@pytest.mark.parametrize("model", [b"", b"\x89PNG not a model", "missing/model.onnx"])
def test_what_cannot_be_loaded_is_refused(worker, model):
    with pytest.raises(SessionLoadError):
        worker.load(model)


def test_missing_provider_is_an_error_and_not_replaced(worker, model_bytes):
    options = SessionOptions(providers=(("NoSuchExecutionProvider", {}),))
    with pytest.raises(SessionLoadError, match="NoSuchExecutionProvider is not available"):
        worker.load(model_bytes(RELU_NEG), options)


def test_observes_what_outputs_span(worker, model_bytes):
    session = worker.load(model_bytes(RELU_NEG))
    observed = session.observe({"x": np.array([1, -2, 5], np.float32)})
    assert observed["y"] == (0, 5, 3, 0)
    assert observed["z"] == (-5, 2, 3, 0)


def test_observing_ignores_and_counts_what_is_not_finite(worker, model_bytes):
    session = worker.load(model_bytes(RELU_NEG))
    feeds = {"x": np.array([np.inf, 1, np.nan, -2], np.float32)}
    assert session.observe(feeds, ["z"])["z"] == (-1, 2, 4, 2)
    feeds = {"x": np.array([np.nan], np.float32)}
    assert session.observe(feeds, ["z"])["z"] == (np.inf, -np.inf, 1, 1)
    assert session.observe({"x": np.zeros(0, np.float32)}, ["z"])["z"] == (np.inf, -np.inf, 0, 0)


def test_observing_text_is_refused(worker, model_bytes):
    session = worker.load(model_bytes("g (string[N] x) => (string[N] y) { y = Identity(x) }"))
    with pytest.raises(RunError, match="real numbers"):
        session.observe({"x": np.array(["a"], dtype=object)})


def test_optimization_level_is_taken(worker, model_bytes, tmp_path):
    graph = "g (float[N] x) => (float[N] y) { a = Identity(x)  b = Identity(a)  y = Relu(b) }"

    def operators(level):
        path = tmp_path / f"{level}.onnx"
        options = SessionOptions(optimization=level, optimized_model_path=path)
        worker.load(model_bytes(graph), options)
        return [node.op_type for node in onnx.load(path).graph.node]

    assert operators("disabled") == ["Identity", "Identity", "Relu"]
    assert operators("basic") == ["Relu"]


def test_profile_names_nodes_and_providers(worker, model_bytes):
    session = worker.load(
        model_bytes("g (float[N] x) => (float[N] y) { y = Relu(x) }"),
        SessionOptions(profile=True, optimization="disabled"),
    )
    session.run({"x": np.ones(3, np.float32)})
    (node,) = session.profile()
    assert (node.operator, node.provider) == ("Relu", "CPUExecutionProvider")
    assert node.duration_us >= 0


def test_profile_needs_the_option(worker, model_bytes):
    with pytest.raises(RunError, match="not profiled"):
        worker.load(model_bytes(RELU_NEG)).profile()


def test_evaluate_loads_runs_and_forgets(worker, model_bytes):
    result = worker.evaluate(model_bytes(RELU_NEG), {"x": np.array([-1], np.float32)}, ["z"])
    assert result["z"].tolist() == [1]


def test_forgotten_sessions_are_freed_in_the_worker(model_bytes):
    weights = model_bytes(
        "g (float[N] x) => (float[N] y) { w = ConstantOfShape(s)  m = ReduceMax(w)  y = Add(x, m) }".replace(
            "{ w", "<int64[1] s = {4194304}> { w", 1
        )
    )
    with Worker(timeout_s=60) as worker:
        for _ in range(10):
            worker.load(weights, SessionOptions()).close()
        freed = worker.info()["resident_bytes"]
        kept = [worker.load(weights, SessionOptions()) for _ in range(10)]
        assert worker.info()["resident_bytes"] > freed
        assert len(kept) == 10


ONLY_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def resident_bytes(worker):
    """What the worker holds, without a request to it."""
    pages = Path(f"/proc/{worker.pid}/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


@ONLY_LINUX
def test_release_frees_what_was_closed_at_once(model_bytes):
    graph = "g (float[N] x) => (float[N] y) <int64[1] s = {8388608}> { w = ConstantOfShape(s)  m = ReduceMax(w)  y = Add(w, x) }"
    with Worker(timeout_s=60) as worker:
        session = worker.load(model_bytes(graph))
        held = resident_bytes(worker)
        session.close()
        assert resident_bytes(worker) > held - (1 << 20)
        worker.release()
        assert resident_bytes(worker) < held - (24 << 20)
    worker.release()  # of one that has ended: nothing


@ONLY_LINUX
def test_an_exact_arena_goes_with_its_last_session(model_bytes):
    graph = (
        "g (float[N] x) => (float[1] y) { a = Exp(x)  b = Cos(x)  c = Add(a, b)  y = ReduceMax(c) }"
    )
    exact = SessionOptions(arena="exact", optimization="disabled")
    feed = {"x": np.linspace(-1, 1, 1 << 22, dtype=np.float32)}
    with Worker(timeout_s=60) as worker:
        expected = worker.evaluate(model_bytes(graph), feed)["y"]
        worker.release()
        before = resident_bytes(worker)
        first = worker.load(model_bytes(graph), exact)
        np.testing.assert_array_equal(first.run(feed)["y"], expected)
        assert resident_bytes(worker) > before + (24 << 20)
        second = worker.load(model_bytes(graph), exact)
        np.testing.assert_array_equal(second.run(feed)["y"], expected)
        first.close()
        np.testing.assert_array_equal(second.run(feed)["y"], expected)
        second.close()
        worker.release()
        assert resident_bytes(worker) < before + (8 << 20)


@ONLY_LINUX
def test_runs_without_a_memory_pattern_hold_less(model_bytes):
    graph = "g (float[2097152] x) => (float[1] y) <int64[1] s = {1}> { a = Exp(x)  b = Cos(x)  c = Sin(x)  d = Max(a, b, c)  e = Add(d, c)  f = MatMul(e, e)  y = Reshape(f, s) }"
    held = {}
    for has_pattern in (True, False):
        with Worker(timeout_s=60) as worker:
            session = worker.load(model_bytes(graph), SessionOptions(memory_pattern=has_pattern))
            for _ in range(3):
                (y,) = session.run({"x": np.zeros(2097152, np.float32)}).values()
            assert y.shape == (1,)
            held[has_pattern] = resident_bytes(worker)
    assert held[False] < held[True] - (4 << 20)
