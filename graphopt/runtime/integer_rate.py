"""How many 8-bit multiplications this machine does a second, in the runtime's own kernel."""

from __future__ import annotations

import functools

import numpy as np

from graphopt.runtime.client import Worker
from graphopt.runtime.options import SessionOptions
from graphopt.runtime.session import time_sessions

__all__ = ["integer_rate"]

_DEPTH = _COLUMNS = 1024
_SAMPLES = 12
_LEAST_MACS = 50_000_000
_MOST_ROWS = 512

_known: dict[tuple[int, int], float] = {}


def integer_rate(worker: Worker, threads: int, rows: int) -> float:
    """Return multiply-accumulate operations a second of ``MatMulInteger``, u8 times constant s8.

    Measured once for each number of threads and size: the fastest of a dozen short samples. With
    few rows, memory sets the pace, and the rate is that of reading weights.

    Args:
        worker: Where it runs.
        threads: Threads of the session; 0 lets the runtime choose.
        rows: Rows of activations; rounded down to a power of two, at most 512.
    """
    size = min(1 << (max(1, rows).bit_length() - 1), _MOST_ROWS)
    key = (threads, size)
    if key not in _known:
        _known[key] = _measure(worker, threads, size)
    return _known[key]


def _measure(worker: Worker, threads: int, rows: int) -> float:
    macs = rows * _DEPTH * _COLUMNS
    repeats = max(1, _LEAST_MACS // macs)
    random = np.random.default_rng(0)
    feed = {"x": random.integers(0, 256, (rows, _DEPTH)).astype(np.uint8)}
    with worker.load(_product(), SessionOptions(threads=threads)) as session:
        session.prepare(feed)
        timings = time_sessions([(session, repeats)] * _SAMPLES)
    fastest_ns = min(timing.wall_ns for timing in timings)
    return macs / (fastest_ns * 1e-9)


@functools.cache
def _product() -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    weights = random.integers(-127, 128, (_DEPTH, _COLUMNS)).astype(np.int8)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["rows", _DEPTH])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, ["rows", _COLUMNS])],
        [numpy_helper.from_array(weights, "w")],
    )
    imports = [helper.make_opsetid("", 13)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    serialized: bytes = model.SerializeToString()
    return serialized
