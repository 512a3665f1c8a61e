"""`validate.mjs` in Node.js: the verdicts of `validate.py`."""

import json
import shutil

import numpy as np
import pytest
from bundle_damage import DAMAGE, MISFITS, SIGNATURE_DAMAGE, WRONG_RECORDS, record_wrongly
from device_bundles import rewrite
from minisign_keys import write_keys
from same_documents import assert_same

from graphopt.deploy import Bundle, validate
from graphopt.deploy.signing import sign


def check(node, folder, *words):
    result = node(folder / "validate.mjs", folder, "--json", *words)
    assert result.stdout, result.stderr
    report = json.loads(result.stdout, parse_constant=pytest.fail)
    assert report["exit_code"] == result.returncode
    return report


@pytest.mark.parametrize(
    ("fixture", "words"), [("bundle", ()), ("bundle", ("--latency",)), ("variants", ())]
)
def test_a_good_bundle_gives_the_document_that_python_gives(node, fixture, words, request):
    bundle = request.getfixturevalue(fixture)
    theirs = check(node, bundle, *words)
    assert theirs["status"] == "ok"
    assert_same(theirs, validate(bundle, latency=bool(words)).to_dict())


def test_latency_is_measured_on_demand(node, bundle):
    latency = check(node, bundle, "--latency")["latency"]
    assert 0 < latency["p10_ms"] <= latency["median_ms"] <= latency["p99_ms"]
    assert latency["drift_ratio"] > 0


@pytest.mark.parametrize("kind", DAMAGE)
def test_what_python_refuses_is_refused(node, copy, kind):
    damage, text = DAMAGE[kind]
    program = copy.parent / "validate.mjs"  # of the bundle as it was
    (copy.parent / "manifest.schema.json").write_bytes((copy / "manifest.schema.json").read_bytes())
    program.write_bytes((copy / "validate.mjs").read_bytes())
    damage(copy)
    result = node(program, copy, "--json")
    report = json.loads(result.stdout)
    assert (result.returncode, report["exit_code"]) == (2, 2)
    assert text in report["checks"][-1]["detail"]
    assert_same(report, validate(copy).to_dict())


@pytest.mark.parametrize("golden", ["model", "original"])
@pytest.mark.parametrize("kind", WRONG_RECORDS)
def test_wrong_numbers(node, copy, kind, golden):
    record_wrongly(copy, kind, golden)
    report = check(node, copy)
    assert report["status"] == "wrong"
    assert_same(report, validate(copy).to_dict())


def test_text_form_and_usage(node, bundle):
    lines = node(bundle / "validate.mjs").stdout.splitlines()
    assert lines[-1] == "ok"
    assert node(bundle / "validate.mjs", "--help").returncode == 0
    assert node(bundle / "validate.mjs", "--wrong").returncode == 2


def test_a_runtime_that_is_not_installed(device, bundle, tmp_path):
    import subprocess

    device("node")
    result = subprocess.run(
        ["node", bundle / "validate.mjs"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert "npm install onnxruntime-node" in result.stdout


def test_signatures(node, device, libraries, copy, tmp_path):
    import subprocess

    folder = device("minisign")
    keys = ["-p", tmp_path / "key.pub", "-s", tmp_path / "key"]
    for words in (["-G", "-W", *keys], ["-S", *keys[2:], "-m", copy / "manifest.json"]):
        program = folder / "usr/bin/minisign"
        subprocess.run([program, *words], check=True, env=libraries(folder), capture_output=True)
    key = (tmp_path / "key.pub").read_text()
    ours = validate(copy, public_key=key).to_dict()
    theirs = check(node, copy, "--public-key", tmp_path / "key.pub")
    assert (ours["exit_code"], ours["checks"][0]) == (0, theirs["checks"][0])
    assert theirs["exit_code"] == 0
    path = copy / "manifest.json"
    path.write_text(path.read_text().replace("cpu-int8", "cpu-int9"))
    refused = check(node, copy, "--public-key", tmp_path / "key.pub")
    assert (refused["exit_code"], len(refused["checks"])) == (2, 1)
    assert validate(copy, public_key=key).to_dict()["checks"] == refused["checks"]


@pytest.fixture
def many(variants, tmp_path):
    shutil.copytree(variants, tmp_path / "many")
    return tmp_path / "many"


def test_every_variant_is_checked_against_its_own_records(node, variants, many):
    numbers = next(item for item in check(node, variants)["checks"] if item["name"] == "numbers")
    assert numbers["detail"].endswith("; 1 more variants agree with theirs")
    name = "variants/five/golden/original/0.npz"
    np.savez(many / name, **{key: value + 1 for key, value in np.load(many / name).items()})
    gate = {"name": "max_rel_error", "kind": "correctness", "limit": 0.01, "value": 0.0,
            "passed": True, "status": "passed", "reason": None}  # fmt: skip
    rewrite(many, lambda manifest: manifest.update(gates=[gate]), rehash=[name])
    report, ours = check(node, many), validate(many).to_dict()
    assert (report["exit_code"], ours["exit_code"]) == (1, 1)
    fault = next(item["detail"] for item in report["checks"] if item["name"] == "numbers")
    assert fault.startswith("variant five: `y` against the original: error is")
    assert fault == next(item["detail"] for item in ours["checks"] if item["name"] == "numbers")


@pytest.mark.parametrize("change", MISFITS)
def test_a_table_that_does_not_fit_is_refused(node, many, change):
    rewrite(many, lambda manifest: change(manifest["variants"]))
    report, ours = check(node, many), validate(many).to_dict()
    assert (report["exit_code"], report["checks"]) == (2, ours["checks"])


def test_raw_things_are_named_as_not_prepared(node, copy):
    told = {"file": "report.json", "samples": 0, "vector": None, "note": None}
    (copy / "golden/raw.json").write_text("[]")
    rewrite(copy, lambda manifest: manifest.update(preprocessing=told), rehash=["golden/raw.json"])
    report = check(node, copy)
    names = [item["name"] for item in report["checks"]]
    place = names.index("inputs")
    assert names[place - 1 : place + 2] == ["numbers", "inputs", "memory"]
    assert (report["checks"][place]["status"], report["status"]) == ("skipped", "ok")
    rewrite(copy, lambda manifest: manifest["files"].pop("golden/raw.json"))
    (copy / "golden/raw.json").unlink()
    report = check(node, copy)
    assert report["exit_code"] == 2
    assert report["checks"] == validate(copy).to_dict()["checks"]


@pytest.fixture
def signed(copy, tmp_path):
    """A signed bundle, and the key that signed it."""
    secret, public = write_keys(tmp_path / "keys")
    sign(copy, secret, "version 1.2")
    return copy, public


def test_a_signature_made_here(node, signed):
    folder, key = signed
    report, ours = (
        check(node, folder, "--public-key", key),
        validate(folder, public_key=key.read_text()),
    )
    assert (report["exit_code"], report["checks"][0]) == (0, ours.checks[0])
    alone = key.read_text().splitlines()[1]
    assert check(node, folder, "--public-key", alone)["checks"][0] == ours.checks[0]
    assert "signed, which was not checked" in check(node, folder)["checks"][1]["detail"]


@pytest.mark.parametrize("damage", SIGNATURE_DAMAGE)
def test_a_wrong_signature(node, signed, damage):
    folder, key = signed
    path = folder / "manifest.json.minisig"
    text, public = damage(path.read_text(), key)
    path.write_text(text)
    (key.parent / "used.pub").write_text(public)
    report = check(node, folder, "--public-key", key.parent / "used.pub")
    assert (report["exit_code"], len(report["checks"])) == (2, 1)
    assert report["checks"] == validate(folder, public_key=public).checks


def test_an_archive_is_not_unpacked(node, bundle, tmp_path):
    Bundle.load(bundle).save(tmp_path / "tiny.zip")
    result = node(bundle / "validate.mjs", tmp_path / "tiny.zip", "--json")
    assert (result.returncode, [*tmp_path.iterdir()]) == (2, [tmp_path / "tiny.zip"])
    assert json.loads(result.stdout)["checks"][0]["name"] == "manifest"


def test_the_hash_that_browsers_lack(node, bundle, tmp_path):
    """BLAKE2b beside that of Python, at the borders of its blocks."""
    import hashlib

    lengths = [0, 1, 127, 128, 129, 256, 1000]
    program = tmp_path / "hash.mjs"
    program.write_text(
        f"import {{ blake2b512 }} from {json.dumps((bundle / 'validate.mjs').as_uri())};\n"
        f"for (const length of {lengths}) console.log(Buffer.from(blake2b512("
        "Uint8Array.from({ length }, (_, index) => index * 7))).toString('hex'));\n"
    )
    expected = [
        hashlib.blake2b(bytes(index * 7 % 256 for index in range(length))).hexdigest()
        for length in lengths
    ]
    assert node(program).stdout.split() == expected
