"""The example against the C API: the verdicts of `validate.py`."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from bundle_damage import DAMAGE
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


def test_a_good_bundle_gives_the_document_that_python_gives(program, bundle):
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
    # The example unpacks nothing, so that it finds compressed records when it comes to them.
    assert names[1] == ([*names[0], "device", "load", "numbers"] if kind == "bomb" else names[0])


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
