"""Measure models beside each other: latency in turns, outputs, size, leftovers."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

Feed = Mapping[str, NDArray[Any]]
FLOAT_TYPES = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}


@dataclass(frozen=True)
class Latency:
    """Milliseconds per feed, averaged over the feeds; each feed counts with its best round.

    The best of many interleaved rounds is what the model costs; everything above it is other
    work on the machine. CPU time does not see waiting at all.
    """

    wall_ms: float
    cpu_ms: float


def load_feeds(folder: Path) -> list[dict[str, NDArray[Any]]]:
    """Return the feeds of a folder of `.npz` files, in order of name."""
    feeds = [dict(np.load(path)) for path in sorted(folder.glob("*.npz"))]
    if not feeds:
        raise FileNotFoundError(f"no .npz in {folder}: run prepare.py first")
    return feeds


def open_session(path: Path, threads: int) -> ort.InferenceSession:
    """Open a model as a user does: every setting at its default but the threads."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def measure_latencies(
    sessions: Mapping[str, ort.InferenceSession], feeds: Sequence[Feed], rounds: int
) -> dict[str, Latency]:
    """Run every session on every feed in turns and keep the best round of each pair."""
    best = {name: np.full((len(feeds), 2), np.inf) for name in sessions}
    order = list(sessions)
    for turn in range(rounds + 1):  # the first round warms up
        for number, feed in enumerate(feeds):
            for name in order:
                wall, cpu = time.perf_counter(), time.process_time()
                sessions[name].run(None, feed)
                spent = time.perf_counter() - wall, time.process_time() - cpu
                if turn:
                    best[name][number] = np.minimum(best[name][number], spent)
        order = order[1:] + order[:1]  # nobody always runs after the same neighbour
    means = {name: 1000 * table.mean(axis=0) for name, table in best.items()}
    return {name: Latency(float(wall), float(cpu)) for name, (wall, cpu) in means.items()}


def embedding(output: NDArray[Any], feed: Feed) -> NDArray[Any]:
    """Return what a user takes from the first output: token states pooled over the mask."""
    if output.ndim == 3 and "attention_mask" in feed:
        weight = feed["attention_mask"][..., None].astype(output.dtype)
        return (output * weight).sum(axis=1) / weight.sum(axis=1)
    return output


def cosines(
    reference: ort.InferenceSession, candidate: ort.InferenceSession, feeds: Sequence[Feed]
) -> list[float]:
    """Return the cosine between the embeddings of two models, one per feed."""
    found = []
    for feed in feeds:
        a, b = (
            embedding(session.run(None, feed)[0], feed).ravel().astype(np.float64)
            for session in (reference, candidate)
        )
        found.append(float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b))))
    return found


def size_bytes(path: Path) -> int:
    """Return the bytes of a model file and of the external data that it names."""
    model = onnx.load(path, load_external_data=False)
    names = {
        entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return path.stat().st_size + sum((path.parent / name).stat().st_size for name in names)


def largest_float_tensor(path: Path) -> int:
    """Return the number of elements of the largest floating-point weight of the main graph."""
    graph = onnx.load(path, load_external_data=False).graph
    constants = [
        attribute.t
        for node in graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.HasField("t")
    ]
    sizes = [
        int(np.prod(tensor.dims))
        for tensor in (*graph.initializer, *constants)
        if tensor.data_type in FLOAT_TYPES
    ]
    return max(sizes, default=0)
