"""Small bundles for devices, and a way to change them."""

import hashlib
import json

import numpy as np

from graphopt.deploy import Bundle, BundleParts, record_golden
from graphopt.deploy.variants import combine
from graphopt.ir import from_text, save
from graphopt.runtime import shared_worker
from graphopt.targets import load_target

TEXT = """
<ir_version: 8, opset_import: ["" : %d]>
tiny (float[N, 3] x, int64[N] row) => (float[N, 2] y, float16[N, 2] half, int64[N] label, bool[N, 2] sign)
<float[3, 2] weight = {%s}, float[4, 2] table = {1, 2, 3, 4, 5, 6, 7, 8}>
{
  product = MatMul(x, weight)
  offset = Gather(table, row)
  y = Add(product, offset)
  half = Cast<to = 10>(y)
  label = ArgMax<axis = 1, keepdims = 0>(y)
  zero = Constant<value_float = 0.0>()
  sign = Greater(product, zero)
}
"""


WIDE_TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
wide (float[%(rows)d, 64] x) => (float[%(rows)d, 64] y) <float[64, 64] weight = {%(weight)s}>
{ product = MatMul(x, weight) y = Relu(product) }
"""


def make_variants(folder):
    """Write a bundle for two sizes, which share a weight in a file of its own."""
    weight = ", ".join(f"{one:.4f}" for one in np.random.default_rng(0).standard_normal(64 * 64))
    made = {}
    for name, rows in (("two", 2), ("five", 5)):
        path = folder / f"{name}.onnx"
        save(from_text(WIDE_TEXT % {"rows": rows, "weight": weight}), path)
        feed = {"x": np.random.default_rng(rows).standard_normal((rows, 64), np.float32)}
        made[name] = _built(path, path, [feed], folder / name)
    return combine(made, folder / "variants").path


def make_bundle(folder, name="tiny", opset=17):
    """Write a bundle whose model is almost its original, with outputs of four types."""
    original, candidate = folder / "original.onnx", folder / "candidate.onnx"
    save(from_text(TEXT % (opset, "0.5, -1, 2, 0.25, -0.75, 1")), original)
    save(from_text(TEXT % (opset, "0.501, -1, 2, 0.25, -0.75, 1.002")), candidate)
    generator = np.random.default_rng(7)
    feeds = [
        {
            "x": generator.standard_normal((rows, 3)).astype(np.float32),
            "row": generator.integers(0, 4, rows),
        }
        for rows in (1, 4, 5)
    ]
    return _built(original, candidate, feeds, folder / name).path


def _built(original, candidate, feeds, path):
    target = load_target("cpu-int8")
    golden = record_golden(
        original, candidate, feeds, options=target.session_options(), worker=shared_worker()
    )
    parts = BundleParts(
        model=candidate,
        source=original,
        source_sha256="0" * 64,
        source_bytes=original.stat().st_size,
        target=target,
        candidate="dynamic",
        pipeline="@exact",
        gates=[],
        golden=golden,
        report={"schema_version": 1},
        report_html="<!doctype html><title>tiny</title>",
    )
    return Bundle.build(parts, path)


def rewrite(folder, change=lambda manifest: None, *, rehash=()):
    """Change the manifest, and let it fit files that were changed."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    for name in rehash:
        content = (folder / name).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        manifest["files"][name] = {"sha256": digest, "size_bytes": len(content)}
    change(manifest)
    path.write_text(json.dumps(manifest))
