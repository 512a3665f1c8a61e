"""`validate.mjs` in Node.js: the verdicts of `validate.py`."""

import json

import numpy as np
import pytest
from bundle_damage import DAMAGE
from device_bundles import rewrite

from graphopt.deploy import validate


def check(node, folder, *words):
    result = node(folder / "validate.mjs", folder, "--json", *words)
    assert result.stdout, result.stderr
    report = json.loads(result.stdout, parse_constant=pytest.fail)
    assert report["exit_code"] == result.returncode
    return report


def test_a_good_bundle_gives_the_document_that_python_gives(node, bundle):
    theirs, ours = check(node, bundle), validate(bundle).to_dict()
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
    report, ours = json.loads(result.stdout), validate(copy).to_dict()
    assert (result.returncode, ours["exit_code"]) == (2, 2)
    names = [[item["name"] for item in document["checks"]] for document in (ours, report)]
    assert names[0] == names[1]
    assert text in report["checks"][-1]["detail"]


@pytest.mark.parametrize("output", ["y", "half", "label", "sign"])
@pytest.mark.parametrize("kind", ["model", "original"])
def test_wrong_numbers(node, copy, output, kind):
    name = f"golden/{kind}/2.npz"
    recorded = dict(np.load(copy / name))
    wrong = recorded[output]
    recorded[output] = ~wrong if wrong.dtype == bool else wrong * 3 + wrong.dtype.type(1)
    np.savez_compressed(copy / name, **recorded)
    rewrite(
        copy,
        lambda manifest: manifest.update(
            gates=[{"name": "max_rel_error", "kind": "correctness", "limit": 0.01, "value": 0.001,
                    "passed": True, "status": "passed", "reason": None}]
        ),
        rehash=[name],
    )  # fmt: skip
    report, ours = check(node, copy), validate(copy).to_dict()
    assert (report["status"], ours["status"]) == ("wrong", "wrong")
    fault = next(item["detail"] for item in report["checks"] if item["name"] == "numbers")
    assert f"`{output}` against the {kind}" in fault


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
