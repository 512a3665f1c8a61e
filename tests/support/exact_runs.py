"""Running `@exact` as a user does, and comparing what the runtime makes of both models."""

from __future__ import annotations

import functools
import itertools
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from conformance_cases import bit_difference

from graphopt.ir import load, model_bytes
from graphopt.pipeline import Ledger, Pipeline
from graphopt.runtime import SessionOptions, shared_worker
from graphopt.verification import Interface

# The runtime packs weights for kernels of their own, which round differently.
PLAIN = SessionOptions(optimization="disabled", config={"session.disable_prepacking": "1"})
SPECIAL = (0.0, -0.0, np.nan, np.inf, -np.inf, 1.0, -1.5, 3.0, 1e-40)


@functools.cache
def exact_pipeline() -> Pipeline:
    return Pipeline.parse("@exact")


@dataclass(frozen=True)
class Exact:
    """What `@exact` made of a model."""

    source: onnx.ModelProto
    result: onnx.ModelProto
    model: ir.Model
    before: Interface
    ledger: Ledger

    def operators(self) -> list[str]:
        """Return the operators of the main graph, in order."""
        return [node.op_type for node in self.result.graph.node]

    def all_operators(self) -> list[str]:
        """Return the operators of all graphs and functions, in order."""
        found = [node.op_type for node in _nodes(self.result.graph.node)]
        for function in self.result.functions:
            found += [node.op_type for node in _nodes(function.node)]
        return found


def _nodes(nodes):
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _nodes(graph.node)


def run_exact(source: onnx.ModelProto, *, pipeline: Pipeline | None = None) -> Exact:
    """Load a model from a file, run `@exact` on it, and write it again."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(source.SerializeToString())
        model = load(path)
        before = Interface.of(model)
        chosen = pipeline or exact_pipeline()
        ledger = chosen.run(model, verify="structure", reproducer_dir=None).ledger
        result = onnx.ModelProto.FromString(model_bytes(model))
    return Exact(source, result, model, before, ledger)


def parse(text: str) -> onnx.ModelProto:
    """Return a model from ONNX text; a header is supplied where it starts with a graph."""
    text = text.strip()
    if not text.startswith("<"):
        text = f'<ir_version: 10, opset_import: ["" : 20]> g {text}'
    return onnx.parser.parse_model(text)


def assert_sound(exact: Exact) -> None:
    """Assert that the checker accepts the result and that nobody sees a change from outside."""
    onnx.checker.check_model(exact.result)
    assert exact.before.differences(Interface.of(exact.model)) == []
    assert not [note for note in exact.ledger.notes if "still changed" in note or "circles" in note]


def outputs(model: onnx.ModelProto, feeds) -> dict[str, object]:
    with shared_worker().load(model.SerializeToString(), PLAIN) as session:
        return session.run(feeds)


def assert_same_outputs(exact: Exact, feed_sets=None) -> None:
    """Assert that every bit of every output agrees."""
    for feeds in feed_sets or feed_sets_of(exact.source):
        expected, found = outputs(exact.source, feeds), outputs(exact.result, feeds)
        assert list(expected) == list(found)
        for name in expected:
            assert bit_difference(expected[name], found[name]) is None, name


def feed_sets_of(model: onnx.ModelProto) -> list[dict[str, np.ndarray]]:
    """Return inputs full of special values, for two sizes of every symbolic dimension.

    Inputs with a default are left to it in the first set, and fed in the second, which the runtime
    takes since IR version 4.
    """
    defaults = {tensor.name for tensor in model.graph.initializer}
    return [
        {
            value.name: _array(value.type.tensor_type, size)
            for value in model.graph.input
            if (size == 3 and model.ir_version > 3) or value.name not in defaults
        }
        for size in (2, 3)
    ]


def _array(kind: onnx.TypeProto.Tensor, size: int) -> np.ndarray:
    dims = [dim.dim_value if dim.HasField("dim_value") else size for dim in kind.shape.dim]
    count = int(np.prod(dims))
    dtype = ir.DataType(kind.elem_type)
    if dtype == ir.DataType.STRING:
        return np.array([f"t{index}" for index in range(count)], object).reshape(dims)
    if dtype == ir.DataType.BOOL:
        return (np.arange(count + size) % 2 == 0)[size:].reshape(dims)
    if dtype.is_integer():
        return (
            np.array([(index + size) % 3 for index in range(count)])
            .astype(dtype.numpy())
            .reshape(dims)
        )
    special = itertools.islice(itertools.cycle(SPECIAL[size - 2 :]), count)
    with np.errstate(all="ignore"):
        return np.array(list(special), np.float64).astype(dtype.numpy()).reshape(dims)
