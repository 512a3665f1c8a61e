"""What a model file holds: nodes of every graph, operators, bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx

LARGE_TENSOR_BYTES = 1024


def nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield every node: main graph, subgraphs, and the body of each function once."""
    for container in (model.graph, *model.functions):
        yield from _nodes(container)


def _nodes(container: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.NodeProto]:
    for node in container.node:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _nodes(graph)


def operator_name(node: onnx.NodeProto) -> str:
    """Return the operator's name, with its domain where that is not the standard one."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    return f"{domain}::{node.op_type}" if domain else node.op_type


def data_files(model: onnx.ModelProto, folder: Path) -> set[Path]:
    """Return the external data files that initializers name."""
    locations = {
        entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return {folder / location for location in locations}


def describe(path: Path) -> dict[str, Any]:
    """Return nodes, operators (counts by name) and bytes (external data included) of a file.

    External data that is not there counts nothing; such a model does not load, and its verdict
    says so.
    """
    model = onnx.load(path, load_external_data=False)
    operators = Counter(map(operator_name, nodes(model)))
    files = {path, *data_files(model, path.parent)}
    return {
        "nodes": operators.total(),
        "operators": dict(operators.most_common()),
        "bytes": sum(file.stat().st_size for file in files if file.exists()),
    }


def write_structure(path: Path, out: Path) -> None:
    """Write a model without the values of its large initializers, to look at."""
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        if tensor.ByteSize() > LARGE_TENSOR_BYTES:
            for field in ("raw_data", "float_data", "int32_data", "int64_data", "double_data"):
                tensor.ClearField(field)
            tensor.data_location = onnx.TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="left-out")
    out.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, out)
