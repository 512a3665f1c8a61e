"""The example against the C API: the verdicts of `validate.py`."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from bundle_damage import DAMAGE, MISFITS, SIGNATURE_DAMAGE, WRONG_RECORDS, record_wrongly
from device_bundles import rewrite
from minisign_keys import write_keys
from same_documents import assert_same

from graphopt.deploy import validate
from graphopt.deploy.signing import sign

SOURCE = Path(__file__).parents[2] / "examples/cpp/validate.cc"


@pytest.fixture(scope="session")
def build(device, tmp_path_factory):
    """Build the example against the headers and the library that comes with Node.js's package."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    headers = device("headers") / "usr/include/onnxruntime"
    library = device("node") / "node_modules/onnxruntime-node/bin/napi-v6/linux/x64"

    def make(*words):
        folder = tmp_path_factory.mktemp("cpp")
        flags = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-isystem", headers]
        linked = [library / "libonnxruntime.so.1", f"-Wl,-rpath,{library}"]
        command = ["g++", *flags, SOURCE, "-o", folder / "validate", *linked, *words]
        subprocess.run(command, check=True)
        schema = SOURCE.parents[2] / "graphopt/deploy/manifest.schema.json"
        shutil.copy(schema, folder)
        return folder / "validate"

    return make


@pytest.fixture(scope="session")
def program(build):
    """The example without a library for signatures."""
    return build()


@pytest.fixture(scope="session")
def verifier(build, device):
    """The example with libsodium in it."""
    folder = device("sodium") / "usr"
    library = next(folder.glob("lib/*/libsodium.a"))
    return build("-DGRAPHOPT_SODIUM", "-isystem", folder / "include", library)


def check(program, folder, *words):
    command = [program, folder, "--json", *words]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    report = json.loads(result.stdout, parse_constant=pytest.fail)
    assert report["exit_code"] == result.returncode
    return report


@pytest.mark.parametrize(
    ("fixture", "words"), [("bundle", ()), ("bundle", ("--latency",)), ("variants", ())]
)
def test_a_good_bundle_gives_the_document_that_python_gives(program, fixture, words, request):
    bundle = request.getfixturevalue(fixture)
    theirs = check(program, bundle, *words)
    assert theirs["status"] == "ok"
    assert_same(theirs, validate(bundle, latency=bool(words)).to_dict())


def test_latency_is_measured_on_demand(program, bundle):
    latency = check(program, bundle, "--latency")["latency"]
    assert 0 < latency["p10_ms"] <= latency["median_ms"] <= latency["p99_ms"]
    assert latency["drift_ratio"] > 0
    assert latency["runs"] >= 10


@pytest.mark.parametrize("kind", DAMAGE)
def test_what_python_refuses_is_refused(program, copy, kind):
    damage, text = DAMAGE[kind]
    damage(copy)
    report, ours = check(program, copy), validate(copy).to_dict()
    assert (report["exit_code"], ours["exit_code"]) == (2, 2)
    if kind == "secret-bomb":  # nothing is unpacked here, so that nothing is loaded beside it
        assert [item["name"] for item in report["checks"]] == ["manifest", "files"]
        return
    assert text in report["checks"][-1]["detail"]
    assert_same(report, ours)


@pytest.mark.parametrize(
    "text", ["", "[" * 100_000, "[]", '{"schema_version": 1}', '"', "{", "nul"]
)
def test_a_manifest_that_is_none(program, copy, text):
    (copy / "manifest.json").write_text(text)
    assert check(program, copy)["exit_code"] == 2


@pytest.mark.parametrize("golden", ["model", "original"])
@pytest.mark.parametrize("kind", WRONG_RECORDS)
def test_wrong_numbers(program, copy, kind, golden):
    record_wrongly(copy, kind, golden)
    report = check(program, copy)
    assert report["status"] == "wrong"
    assert_same(report, validate(copy).to_dict())


def test_a_missed_goal(program, node, copy):
    gate = {"name": "max_latency_ratio", "kind": "goal", "limit": 1.0, "value": 1.00001e-5,
            "passed": False, "status": "failed", "reason": None}  # fmt: skip
    open_gate = {**gate, "name": "max_size_ratio", "value": None}
    rewrite(copy, lambda manifest: manifest.update(gates=[gate, open_gate], gates_met=False))
    ours = validate(copy).to_dict()
    told = (
        "made with a missed goal: max_latency_ratio is 1e-05, limit 1; max_size_ratio is not known"
    )
    assert told in str(ours["checks"])
    assert_same(check(program, copy), ours)
    result = node(copy / "validate.mjs", copy, "--json")
    assert_same(json.loads(result.stdout), ours)


def test_a_count_that_is_written_with_a_point(program, node, copy):
    path = copy / "manifest.json"
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 1.0', 1))
    ours = validate(copy).to_dict()
    assert ours["exit_code"] == 0
    assert_same(check(program, copy), ours)
    assert_same(json.loads(node(copy / "validate.mjs", copy, "--json").stdout), ours)


def test_names_that_are_not_ascii(program, copy):
    name = "golden/\u00fc \u20ac \U0001f600.txt"
    (copy / name).write_text("as well")
    rewrite(copy, rehash=[name])
    assert "\\u00fc" in (copy / "manifest.json").read_text()
    assert check(program, copy)["exit_code"] == 0


def test_a_name_that_is_no_text(program, copy):
    (copy / "golden").joinpath(os.fsdecode(b"\xff\xe9")).write_text("")
    assert check(program, copy)["checks"] == validate(copy).to_dict()["checks"]


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


@pytest.fixture
def signed(copy, tmp_path):
    """A signed bundle, and the key that signed it."""
    secret, public = write_keys(tmp_path / "keys")
    sign(copy, secret, "version 1.2 \u00fc")
    return copy, public


def test_a_signature(verifier, signed):
    folder, key = signed
    ours = validate(folder, public_key=key.read_text()).to_dict()
    assert ours["exit_code"] == 0
    assert_same(check(verifier, folder, "--public-key", key), ours)
    assert_same(check(verifier, folder, "--public-key", key.read_text().splitlines()[1]), ours)
    assert "signed, which was not checked" in check(verifier, folder)["checks"][1]["detail"]


def test_a_signature_that_minisign_made(verifier, device, libraries, copy, tmp_path):
    minisign = device("minisign")
    keys = ["-p", tmp_path / "key.pub", "-s", tmp_path / "key"]
    for words in (["-G", "-W", *keys], ["-S", *keys[2:], "-m", copy / "manifest.json"]):
        command = [minisign / "usr/bin/minisign", *words]
        subprocess.run(command, check=True, env=libraries(minisign), capture_output=True)
    ours = validate(copy, public_key=(tmp_path / "key.pub").read_text()).to_dict()
    assert_same(check(verifier, copy, "--public-key", tmp_path / "key.pub"), ours)
    rewrite(copy, lambda manifest: manifest.update(target="cpu-int9"))
    refused = check(verifier, copy, "--public-key", tmp_path / "key.pub")
    assert (refused["exit_code"], len(refused["checks"])) == (2, 1)


@pytest.mark.parametrize("damage", SIGNATURE_DAMAGE)
def test_a_wrong_signature(verifier, signed, damage):
    folder, key = signed
    path = folder / "manifest.json.minisig"
    text, public = damage(path.read_text(), key)
    path.write_text(text)
    (key.parent / "used.pub").write_text(public)
    report = check(verifier, folder, "--public-key", key.parent / "used.pub")
    assert (report["exit_code"], len(report["checks"])) == (2, 1)
    assert_same(report, validate(folder, public_key=public).to_dict())


def test_who_cannot_check_a_signature_refuses(program, signed):
    folder, key = signed
    report = check(program, folder, "--public-key", key)
    assert (report["exit_code"], len(report["checks"])) == (2, 1)
    assert "needs libsodium" in report["checks"][0]["detail"]
