"""What a bundle holds, and how it is built, saved and loaded."""

import dataclasses
import json

import jsonschema
import numpy as np
import onnx_ir as ir
import pytest

from graphopt.deploy import Bundle, schema_text, validate
from graphopt.errors import BudgetExceeded, BundleError, OutputError, TargetError
from graphopt.ir import load, save


def names_in(folder):
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


def test_holds_what_the_design_lists(bundle):
    golden = [
        f"golden/{kind}/{i}.npz" for kind in ("inputs", "model", "original") for i in range(3)
    ]
    assert names_in(bundle.path) == sorted(
        [
            *golden, "journal.json", "manifest.json", "manifest.schema.json", "model.onnx",
            "report.html", "report.json", "validate.html", "validate.mjs", "validate.py",
        ]
    )  # fmt: skip
    assert bundle.model_path == bundle.path / "model.onnx"


def test_manifest_keeps_its_published_schema(bundle):
    schema = json.loads(schema_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads((bundle.path / "manifest.json").read_text()), schema)


def test_manifest_tells_what_the_device_needs(bundle, models):
    manifest = bundle.manifest
    assert manifest["device"]["opsets"] == {"": 17}
    assert manifest["device"]["operators"] == {"": ["Add", "ArgMax", "Gather", "MatMul"]}
    assert manifest["device"]["minimum_onnxruntime"] == "1.20"  # the target asks for more than 1.16
    assert manifest["session"]["providers"] == [{"name": "CPUExecutionProvider", "options": {}}]
    assert manifest["source"]["name"] == models.original.name
    assert manifest["verified_on"]["provider"] == "CPUExecutionProvider"
    assert manifest["recipe"]["pipeline"] == "@exact,quantize-dynamic"
    assert manifest["model"]["inputs"][1] == {"name": "row", "dtype": "int64", "dims": ["N"]}
    assert manifest["model"]["outputs"][0] == {"name": "y", "dtype": "float32", "dims": ["N", 2]}
    assert str(models.original.parent) not in json.dumps(manifest)


def test_an_unknown_rank_is_not_written_as_a_scalar(parts, tmp_path):
    model = load(parts.model)
    model.graph.outputs[0].shape = None
    save(model, tmp_path / "model.onnx")
    unranked = dataclasses.replace(parts, model=tmp_path / "model.onnx")
    manifest = Bundle.build(unranked, tmp_path / "bundle").manifest
    assert manifest["model"]["outputs"][0]["dims"] is None
    jsonschema.validate(manifest, json.loads(schema_text()))


def test_model_is_copied_byte_for_byte(bundle, models):
    assert bundle.model_path.read_bytes() == models.candidate.read_bytes()


def test_same_parts_same_bytes(bundle, parts, tmp_path):
    again = Bundle.build(parts, tmp_path / "again")
    for name in names_in(bundle.path):
        assert (again.path / name).read_bytes() == (bundle.path / name).read_bytes(), name


def test_external_data_is_shipped_under_the_threshold_of_the_target(parts, models, tmp_path):
    model = load(models.candidate)
    model.graph.initializers["weight"].const_value = ir.tensor(np.ones((3, 2), np.float32))
    big = np.zeros((4, 1024), np.float32)[:, :2].copy()
    model.graph.initializers["table"].const_value = ir.tensor(big)
    package = dataclasses.replace(parts.target.package, external_data_threshold_bytes=8)
    target = dataclasses.replace(parts.target, package=package)
    made = Bundle.build(dataclasses.replace(parts, model=model, target=target), tmp_path / "made")
    assert {"model.onnx", "model.onnx.data"} <= made.manifest["files"].keys()


def test_external_data_of_a_file_comes_along(parts, models, tmp_path):
    model = load(models.candidate)
    model.graph.initializers["table"].const_value = ir.tensor(np.ones((4096, 2), np.float32))
    save(model, tmp_path / "wide.onnx", external_data=True)
    made = Bundle.build(dataclasses.replace(parts, model=tmp_path / "wide.onnx"), tmp_path / "made")
    assert len([name for name in made.manifest["files"] if name.endswith(".data")]) == 1
    checks = validate(made.path).to_dict()["checks"]
    assert [check["name"] for check in checks if check["status"] == "failed"] == ["numbers"]


def test_files_that_the_target_includes(parts, tmp_path):
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    package = dataclasses.replace(parts.target.package, include=("labels.txt",))
    target = dataclasses.replace(parts.target, package=package, path=tmp_path / "board.toml")
    made = Bundle.build(dataclasses.replace(parts, target=target), tmp_path / "made")
    assert (made.path / "labels.txt").read_text() == "cat\ndog\n"
    assert "labels.txt" in made.manifest["files"]


@pytest.mark.parametrize("name", ["../secret", "validate.py", "manifest.json", "missing.txt"])
def test_files_that_a_target_cannot_include(parts, tmp_path, name):
    (tmp_path / "targets").mkdir()
    for file in ("secret", "targets/validate.py", "targets/manifest.json"):
        (tmp_path / file).write_text("x")
    package = dataclasses.replace(parts.target.package, include=(name,))
    target = dataclasses.replace(
        parts.target, package=package, path=tmp_path / "targets" / "board.toml"
    )
    with pytest.raises(TargetError):
        Bundle.build(dataclasses.replace(parts, target=target), tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_load_gives_the_same_bundle(bundle):
    assert Bundle.load(bundle.path).manifest == bundle.manifest


def test_load_refuses_a_changed_file(copy):
    (copy / "report.html").write_text("better")
    with pytest.raises(BundleError, match=r"report\.html"):
        Bundle.load(copy)


def test_save_refuses_a_source_that_changed(bundle, copy, tmp_path):
    loaded = Bundle.load(copy)
    (copy / "model.onnx").write_bytes(b"other")
    with pytest.raises(BundleError):
        loaded.save(tmp_path / "shipped")
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_save_refuses_what_exists_and_replaces_with_force(bundle, copy):
    with pytest.raises(OutputError):
        bundle.save(copy)
    (copy / "report.html").write_text("older")
    assert bundle.save(copy, force=True).manifest == bundle.manifest
    assert Bundle.load(copy).manifest == bundle.manifest


def test_force_replaces_nothing_but_bundles(bundle, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.txt").write_text("ten years")
    with pytest.raises(OutputError, match="not replaced"):
        bundle.save(home, force=True)
    assert (home / "thesis.txt").read_text() == "ten years"


def test_a_missed_goal_is_saved_on_demand_only(parts, gate, tmp_path):
    missed = gate("max_latency_ratio", 0.01, 0.5, passed=False, kind="goal")
    made = Bundle.build(dataclasses.replace(parts, gates=[gate(), missed]), tmp_path / "made")
    with pytest.raises(BudgetExceeded, match="max_latency_ratio"):
        made.save(tmp_path / "shipped")
    assert not (tmp_path / "shipped").exists()
    shipped = made.save(tmp_path / "shipped", allow_missed_goals=True)
    report = validate(shipped.path)
    assert report.exit_code == 1
    assert "max_latency_ratio" in str(report)
