from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from graphopt.deploy import Bundle, BundleParts, record_golden
from graphopt.ir import from_text, save
from graphopt.runtime import shared_worker
from graphopt.targets import GateResult, load_target

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
tiny (float[N, 3] x, int64[N] row) => (float[N, 2] y, int64[N] label)
<float[3, 2] weight = {%s}, float[4, 2] table = {1, 2, 3, 4, 5, 6, 7, 8}>
{
  product = MatMul(x, weight)
  offset = Gather(table, row)
  y = Add(product, offset)
  label = ArgMax<axis = 1, keepdims = 0>(y)
}
"""


def make_gate(name="min_cosine", limit=0.99, value=0.9999, passed=True, kind="correctness"):
    status = "passed" if passed else "failed"
    return GateResult(
        name=name, kind=kind, limit=limit, value=value, passed=passed, status=status, reason=None
    )


@pytest.fixture(scope="session")
def gate():
    return make_gate


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """An original and a candidate that is almost the same."""
    folder = tmp_path_factory.mktemp("models")
    save(from_text(TEXT % "0.5, -1, 2, 0.25, -0.75, 1"), folder / "original.onnx")
    save(from_text(TEXT % "0.501, -1, 2, 0.25, -0.75, 1.002"), folder / "candidate.onnx")
    return SimpleNamespace(original=folder / "original.onnx", candidate=folder / "candidate.onnx")


@pytest.fixture(scope="session")
def feeds():
    generator = np.random.default_rng(7)
    return [
        {
            "x": generator.standard_normal((rows, 3)).astype(np.float32),
            "row": generator.integers(0, 4, rows),
        }
        for rows in (1, 4, 5)
    ]


@pytest.fixture(scope="session")
def parts(models, feeds):
    target = load_target("cpu-int8")
    golden = record_golden(
        models.original,
        models.candidate,
        feeds,
        options=target.session_options(),
        worker=shared_worker(),
    )
    return BundleParts(
        model=models.candidate,
        source=models.original,
        source_sha256="0" * 64,
        source_bytes=models.original.stat().st_size,
        target=target,
        candidate="dynamic",
        pipeline="@exact,quantize-dynamic",
        gates=[make_gate(), make_gate("max_latency_ratio", 1.0, 0.5, kind="goal")],
        golden=golden,
        measured={"size_bytes": 123, "latency_ratio": 0.5},
        report={"schema_version": 1},
        report_html="<!doctype html><title>tiny</title>",
        journal={"edits": [], "refusals": []},
    )


@pytest.fixture(scope="session")
def bundle(parts, tmp_path_factory):
    """A bundle that no test may change."""
    return Bundle.build(parts, tmp_path_factory.mktemp("bundle") / "tiny.cpu-int8")


@pytest.fixture
def copy(bundle, tmp_path) -> Path:
    """A copy of it to damage."""
    return bundle.save(tmp_path / "copy").path
