"""Models as text, serialized, and a worker that the tests of one file share."""

from __future__ import annotations

import onnx.parser
import pytest

from graphopt.runtime import Worker


def serialized(graph: str, *, opset: int = 17) -> bytes:
    text = f'<ir_version: 10, opset_import: ["": {opset}]> {graph}'
    return onnx.parser.parse_model(text).SerializeToString()


@pytest.fixture(scope="session")
def model_bytes():
    return serialized


@pytest.fixture(scope="module")
def worker():
    with Worker(timeout_s=60) as shared:
        yield shared
