"""Several versions of a model for several sizes in one bundle."""

import json

import numpy as np
import pytest

import graphopt
from graphopt.deploy import Bundle
from graphopt.deploy.variants import combine, variant_name
from graphopt.deploy.variants_page import MARK, page_with_variants
from graphopt.errors import BundleError, OptionError
from graphopt.ir import external_files, from_text, load, save

TEXT = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[N, 64] x) => (float[N, 64] y) <float[64, 64] w = {%s}>
{ a = MatMul(x, w) b = Shape(x) c = ConstantOfShape(b) d = Add(a, c) y = Relu(d) }
"""
SIZES = {"two": "N=2", "five": "N=5"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model, and a bundle of it for each of two sizes."""
    folder = tmp_path_factory.mktemp("variants")
    weights = np.random.default_rng(0).standard_normal(64 * 64)
    save(from_text(TEXT % ", ".join(f"{one:.4f}" for one in weights)), folder / "m.onnx")
    bundles = {
        name: graphopt.optimize(
            folder / "m.onnx",
            target="cpu-fp32",
            dims=(dims,),
            output=folder / name,
            latency_budget_s=None,
        ).bundle
        for name, dims in SIZES.items()
    }
    return folder, bundles


@pytest.fixture
def both(made, tmp_path):
    return combine(made[1], tmp_path / "both")


def test_weights_are_stored_once_and_the_table_says_what_fits(both, made):
    table = both.manifest["variants"]
    assert [entry["name"] for entry in table] == ["two", "five"]
    assert [entry["inputs"][0]["dims"] for entry in table] == [[2, 64], [5, 64]]
    assert [entry["file"] for entry in table] == ["model.onnx", "model.five.onnx"]
    assert both.manifest["model"]["file"] == "model.onnx"
    weights = both.path / "model.onnx.data"
    assert weights.stat().st_size == 64 * 64 * 4
    for entry in table:
        (data,) = external_files(load(both.path / entry["file"]))
        assert data == weights


def test_every_variant_is_checked_against_its_own_records(both):
    report = graphopt.validate(both.path)
    assert report.exit_code == 0
    assert any("1 more variants agree" in check["detail"] for check in report.checks)


def test_every_variant_gives_what_the_original_gives(both, made):
    import onnxruntime as ort

    original = ort.InferenceSession(made[0] / "m.onnx", providers=["CPUExecutionProvider"])
    for entry in both.manifest["variants"]:
        session = ort.InferenceSession(
            both.path / entry["file"], providers=["CPUExecutionProvider"]
        )
        feed = {"x": np.random.default_rng(1).random(entry["inputs"][0]["dims"], np.float32)}
        (found,), (expected,) = session.run(None, feed), original.run(None, feed)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_wrong_record_of_a_variant_is_found(both):
    record = both.path / "variants/five/golden/original/0.npz"
    with np.load(record) as held:
        changed = {name: held[name] + 1 for name in held.files}
    np.savez(record, **changed)
    rewrite_digest(both, "variants/five/golden/original/0.npz")
    report = graphopt.validate(both.path)
    assert report.exit_code == 1
    assert any("variant five" in check["detail"] for check in report.checks)


def rewrite_digest(bundle, name):
    from graphopt.deploy.integrity import file_sha256

    path = bundle.path / "manifest.json"
    manifest = json.loads(path.read_text())
    file = bundle.path / name
    manifest["files"][name] = {"sha256": file_sha256(file), "size_bytes": file.stat().st_size}
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda table: table[1].update(file="../m.onnx"), "not among the files"),
        (lambda table: table[1].update(name="two"), "two variants have one name"),
        (lambda table: table.reverse(), "the first variant is not the model"),
        (lambda table: table[1]["golden"].update(samples=99), "more recorded samples than files"),
        (lambda table: table[1].pop("golden"), "is missing"),
        (lambda table: table[1].update(golden={"samples": 1}), "is missing"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(both, change, why):
    path = both.path / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest["variants"])
    path.write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=why):
        Bundle.load(both.path)


def test_what_cannot_be_combined(made, tmp_path):
    bundles = made[1]
    with pytest.raises(OptionError, match="cannot be combined"):
        combine({"two": bundles["two"]}, tmp_path / "one")
    other = Bundle(bundles["five"].path, {**bundles["five"].manifest, "target": "cpu-int8"})
    with pytest.raises(OptionError, match="cannot be combined"):
        combine({"two": bundles["two"], "five": other}, tmp_path / "mixed")


def test_names_of_variants():
    assert variant_name(["batch=1", "Sequence=128"]) == "batch-1-sequence-128"
    assert variant_name(["input_ids:1=128"]) == "input-ids-1-128"


def test_the_report_leads_to_every_variant(both):
    page = (both.path / "report.html").read_text()
    assert page.count("<h2>Variants</h2>") == 1
    assert "<td>x 2 x 64</td>" in page
    assert '<a href="variants/five/report.html">five</a>' in page
    assert (both.path / "variants/five/report.html").is_file()
    assert "<h2>Variants</h2>" not in (both.path / "variants/five/report.html").read_text()


def test_the_table_of_variants_says_what_failed_and_obeys_no_name():
    entry = {
        "name": "<b>", "file": "model.onnx", "inputs": [{"name": "<x>", "dims": ["N", 2]}],
        "recipe": {"candidate": "exact"}, "measured": {"latency_ratio": 0.5},
        "gates": [{"name": "max_size_ratio", "passed": False}],
    }  # fmt: skip
    unranked = {**entry, "inputs": [{"name": "y", "dims": None}, {"name": "z", "dims": [None]}]}
    page = page_with_variants(f"a{MARK}b", [unranked])
    assert "y of any rank\nz ?" in page
    page = page_with_variants(f"a{MARK}b", [entry, entry])
    assert page.count("<td>FAILS max_size_ratio</td><td>0.500</td>") == 2
    assert "&lt;x&gt; N x 2" in page
    assert "<b>" not in page
    assert page_with_variants("no mark", [entry]) == "no mark"
