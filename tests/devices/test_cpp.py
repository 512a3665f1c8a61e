"""The example against the C API: the verdicts of `validate.py`."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from bundle_damage import DAMAGE, MISFITS
from device_bundles import rewrite

from graphopt.deploy import validate

SOURCE = Path(__file__).parents[2] / "examples/cpp/validate.cc"


@pytest.fixture(scope="session")
def program(device, tmp_path_factory):
    """The example, built against the headers and the library that comes with Node.js's package."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    headers = device("headers") / "usr/include/onnxruntime"
    library = device("node") / "node_modules/onnxruntime-node/bin/napi-v6/linux/x64"
    folder = tmp_path_factory.mktemp("cpp")
    flags = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-isystem", headers]
    linked = [library / "libonnxruntime.so.1", f"-Wl,-rpath,{library}"]
    subprocess.run(["g++", *flags, SOURCE, "-o", folder / "validate", *linked], check=True)
    schema = SOURCE.parents[2] / "graphopt/deploy/manifest.schema.json"
    shutil.copy(schema, folder)
    return folder / "validate"


def check(program, folder):
    words = [program, folder, "--json"]
    result = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    report = json.loads(result.stdout, parse_constant=pytest.fail)
    assert report["exit_code"] == result.returncode
    return report


@pytest.mark.parametrize("fixture", ["bundle", "variants"])
def test_a_good_bundle_gives_the_document_that_python_gives(program, fixture, request):
    bundle = request.getfixturevalue(fixture)
    theirs, ours = check(program, bundle), validate(bundle).to_dict()
    assert theirs.keys() == ours.keys()
    assert theirs["status"] == "ok"
    assert theirs["manifest_sha256"] == ours["manifest_sha256"]
    for mine, other in zip(ours["checks"], theirs["checks"], strict=True):
        assert (mine["name"], mine["status"]) == (other["name"], other["status"])
        if mine["name"] in {"manifest", "files", "load", "gates", "latency"}:
            assert mine == other
    for name, kinds in ours["outputs"].items():
        for kind, found in kinds.items():
            for key, value in found.items():
                other = theirs["outputs"][name][kind][key]
                assert other == (value if value is None else pytest.approx(value, abs=1e-6))


@pytest.mark.parametrize("kind", DAMAGE)
def test_what_python_refuses_is_refused(program, copy, kind):
    DAMAGE[kind][0](copy)
    report, ours = check(program, copy), validate(copy).to_dict()
    assert (report["exit_code"], ours["exit_code"]) == (2, 2)
    names = [[item["name"] for item in document["checks"]] for document in (ours, report)]
    # The example unpacks nothing, so that no compressed record is ever loaded beside a model.
    assert names[1] == (names[0][:2] if kind == "secret-bomb" else names[0])
    if kind in {"bomb", "flipped", "longer", "missing", "extra", "link", "version", "key"}:
        assert report["checks"] == ours["checks"]


@pytest.mark.parametrize(
    "text", ["", "[" * 100_000, "[]", '{"schema_version": 1}', '"', "{", "nul"]
)
def test_a_manifest_that_is_none(program, copy, text):
    (copy / "manifest.json").write_text(text)
    assert check(program, copy)["exit_code"] == 2


@pytest.mark.parametrize("output", ["y", "half", "label", "sign"])
def test_wrong_numbers(program, copy, output):
    name = "golden/model/2.npz"
    recorded = dict(np.load(copy / name))
    wrong = recorded[output]
    recorded[output] = ~wrong if wrong.dtype == bool else wrong * 3 + wrong.dtype.type(1)
    np.savez(copy / name, **recorded)
    rewrite(copy, rehash=[name])
    report, ours = check(program, copy), validate(copy).to_dict()
    assert (report["status"], ours["status"]) == ("wrong", "wrong")
    fault = next(item["detail"] for item in report["checks"] if item["name"] == "numbers")
    assert f"`{output}` against the model" in fault


@pytest.mark.parametrize("content", [b"", b"PK\x05\x06", b"PK\x05\x06" + b"\xff" * 40])
def test_a_golden_file_that_is_none(program, copy, content):
    (copy / "golden/inputs/0.npz").write_bytes(content)
    rewrite(copy, rehash=["golden/inputs/0.npz"])
    report = check(program, copy)
    assert (report["exit_code"], report["checks"][-1]["name"]) == (2, "numbers")


def test_text_form_and_usage(program, bundle):
    result = subprocess.run([program, bundle], capture_output=True, text=True, check=False)
    assert result.stdout.splitlines()[-1] == "ok"
    assert subprocess.run([program], capture_output=True, check=False).returncode == 2


@pytest.fixture
def many(variants, tmp_path):
    shutil.copytree(variants, tmp_path / "many")
    return tmp_path / "many"


def detail_of_numbers(report):
    return next(item["detail"] for item in report["checks"] if item["name"] == "numbers")


def test_every_variant_is_checked_against_its_own_records(program, variants, many):
    detail = detail_of_numbers(check(program, variants))
    assert detail.endswith("; 1 more variants agree with theirs")
    name = "variants/five/golden/original/0.npz"
    np.savez(many / name, **{key: value + 1 for key, value in np.load(many / name).items()})
    gate = {"name": "max_rel_error", "kind": "correctness", "limit": 0.01, "value": 0.0,
            "passed": True, "status": "passed", "reason": None}  # fmt: skip
    rewrite(many, lambda manifest: manifest.update(gates=[gate]), rehash=[name])
    report, ours = check(program, many), validate(many).to_dict()
    assert (report["exit_code"], ours["exit_code"]) == (1, 1)
    assert detail_of_numbers(report) == detail_of_numbers(ours)
    assert detail_of_numbers(ours).startswith("variant five: `y` against the original: error is")


@pytest.mark.parametrize("change", MISFITS)
def test_a_table_that_does_not_fit_is_refused(program, many, change):
    rewrite(many, lambda manifest: change(manifest["variants"]))
    report, ours = check(program, many), validate(many).to_dict()
    assert (report["exit_code"], report["checks"]) == (2, ours["checks"])


def test_a_variant_that_does_not_load(program, many):
    (many / "model.five.onnx").write_bytes(b"no model")
    rewrite(many, rehash=["model.five.onnx"])
    report, ours = check(program, many), validate(many).to_dict()
    assert (report["exit_code"], ours["exit_code"]) == (2, 2)
    assert (report["checks"][-1]["name"], ours["checks"][-1]["name"]) == ("numbers", "numbers")


def test_raw_things_are_named_as_not_prepared(program, copy):
    told = {"file": "report.json", "samples": 0, "vector": None, "note": None}
    (copy / "golden/raw.json").write_text("[]")
    rewrite(copy, lambda manifest: manifest.update(preprocessing=told), rehash=["golden/raw.json"])
    report = check(program, copy)
    names = [item["name"] for item in report["checks"]]
    place = names.index("inputs")
    assert names[place - 1 : place + 2] == ["numbers", "inputs", "memory"]
    assert (report["checks"][place]["status"], report["status"]) == ("skipped", "ok")
    rewrite(copy, lambda manifest: manifest["files"].pop("golden/raw.json"))
    (copy / "golden/raw.json").unlink()
    assert check(program, copy)["checks"] == validate(copy).to_dict()["checks"]
