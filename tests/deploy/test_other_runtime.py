"""Checking a bundle in another Python environment."""

import json
import subprocess
import sys

import pytest

from graphopt.deploy import other_runtime
from graphopt.deploy.other_runtime import interpreter_for, validate_with
from graphopt.errors import OptionError


def test_another_interpreter_gives_the_same_verdict(bundle):
    document = validate_with(bundle.path, sys.executable).to_dict()
    assert (document["status"], document["exit_code"]) == ("ok", 0)
    assert "device" in [check["name"] for check in document["checks"]]


def test_a_runtime_that_is_too_old_is_caught_by_the_contract(copy):
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["device"]["minimum_onnxruntime"] = "99.0"
    (copy / "manifest.json").write_text(json.dumps(manifest))
    document = validate_with(copy, sys.executable).to_dict()
    assert (document["status"], document["exit_code"]) == ("broken", 2)
    assert "onnxruntime 99.0 or newer is needed" in document["checks"][-1]["detail"]


def test_nothing_of_the_bundle_is_executed(copy):
    (copy / "validate.py").write_text("raise SystemExit('executed')")
    document = validate_with(copy, sys.executable).to_dict()
    assert document["status"] == "broken"  # the file was changed, and only read
    assert "validate.py" in document["checks"][-1]["detail"]


@pytest.mark.parametrize("text", ["newest", "1", "1.2.3.4", "missing/python", ""])
def test_what_is_neither_a_release_nor_an_interpreter(text):
    with pytest.raises(OptionError, match="is no runtime"):
        interpreter_for(text)


def test_a_program_that_says_nothing_is_no_verdict(bundle):
    # Status 1 would say of the bundle that its numbers are wrong.
    with pytest.raises(OptionError, match="ended without a verdict") as caught:
        validate_with(bundle.path, "/bin/true")
    assert caught.value.exit_code == 2


def test_what_cannot_be_installed_is_told_in_whole_lines(tmp_path, monkeypatch):
    said = [f"ERROR: line {number} " + "of many words " * 20 for number in range(9)]
    failed = subprocess.CompletedProcess([], 1, stdout="", stderr="\n".join(said))
    monkeypatch.setattr(other_runtime, "_run", lambda *_: failed)
    with pytest.raises(OptionError, match=r"onnxruntime 9\.9\.9 cannot be installed") as caught:
        interpreter_for("9.9.9", tmp_path)
    assert caught.value.why.splitlines() == [line.strip() for line in said[-5:]]


def test_an_environment_is_made_once(tmp_path):
    folder = tmp_path / f"onnxruntime-9.9.9-py{sys.version_info.minor}"
    (folder / "bin").mkdir(parents=True)
    (folder / "ready").touch()
    assert interpreter_for("9.9.9", tmp_path) == folder / "bin" / "python"


def test_an_archive_has_to_be_unpacked_before(tmp_path):
    (tmp_path / "bundle.zip").touch()
    with pytest.raises(OptionError, match="is no folder"):
        validate_with(tmp_path / "bundle.zip", sys.executable)


def test_a_bundle_that_must_be_signed_and_is_not(bundle):
    found = validate_with(bundle.path, sys.executable, public_key="not a key")
    assert found.exit_code == 2
    assert found.checks[-1]["name"] == "signature"
