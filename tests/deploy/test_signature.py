"""Signatures: who made a bundle is checked before anything in it is read."""

import json
import shutil
import subprocess
import sys

import pytest
from minisign_keys import encoded, write_keys

from graphopt.deploy import Bundle, validate
from graphopt.deploy.agreement import Validation
from graphopt.deploy.on_device import OnnxRuntime
from graphopt.deploy.signing import sign
from graphopt.errors import OptionError

ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")

SIGNATURE = "manifest.json.minisig"


@pytest.fixture
def keys(tmp_path):
    return write_keys(tmp_path / "keys")


@pytest.fixture
def signed(bundle, keys, tmp_path):
    return bundle.save(tmp_path / "signed", secret_key=keys[0], comment="version 1.2").path


class NothingIsLoaded(OnnxRuntime):
    def open(self, path, settings):
        pytest.fail("the model was loaded")


def shipped(folder, key):
    return subprocess.run(
        [sys.executable, "-I", str(folder / "validate.py"), "--json", "--public-key", str(key)],
        capture_output=True,
        text=True,
        check=False,
    )


def assert_refused(folder, key, text):
    report = Validation(folder, NothingIsLoaded(), public_key=key.read_text()).run()
    assert (report["exit_code"], len(report["checks"])) == (2, 1)
    assert text in report["checks"][0]["detail"]
    assert validate(folder, public_key=key.read_text()).to_dict() == report
    result = shipped(folder, key)
    assert (result.returncode, json.loads(result.stdout)) == (2, report)


def test_a_signature_is_checked_first(signed, keys):
    report = validate(signed, public_key=keys[1].read_text())
    assert report.exit_code == 0
    assert report.to_dict()["checks"][0]["name"] == "signature"
    assert report.to_dict()["checks"][0]["detail"].endswith(": version 1.2")
    assert shipped(signed, keys[1]).returncode == 0
    alone = keys[1].read_text().splitlines()[1]  # the key itself, as on a command line
    assert shipped(signed, alone).returncode == 0


def test_without_a_key_a_signature_is_named_and_not_trusted(signed):
    report = validate(signed)
    assert report.exit_code == 0
    assert "signed, which was not checked" in str(report)


def test_another_key(signed, tmp_path):
    assert_refused(signed, write_keys(tmp_path / "b", identity=b"somebody")[1], "another key")


def test_another_key_of_the_same_name(signed, tmp_path):
    assert_refused(signed, write_keys(tmp_path / "b", seed=8)[1], "does not fit the manifest")


def test_a_manifest_that_was_changed(signed, keys):
    path = signed / "manifest.json"
    path.write_text(path.read_text().replace("cpu-int8", "cpu-int9"))
    assert_refused(signed, keys[1], "does not fit the manifest")


def test_a_comment_that_was_changed(signed, keys):
    path = signed / SIGNATURE
    path.write_text(path.read_text().replace("version 1.2", "version 9.9"))
    assert_refused(signed, keys[1], "the trusted comment was changed")


def test_an_unsigned_bundle(bundle, keys):
    assert_refused(bundle.path, keys[1], f"`{SIGNATURE}` is missing")


@pytest.mark.parametrize(
    "text", ["", "a\nb\nc\nd\n", "untrusted comment: x\n!\ntrusted comment: y\n!\n", "x" * 5000]
)
def test_a_signature_that_is_none(signed, keys, text):
    (signed / SIGNATURE).write_text(text)
    assert_refused(signed, keys[1], SIGNATURE)


def test_a_signature_that_is_a_link(signed, keys, tmp_path):
    shutil.move(signed / SIGNATURE, tmp_path / "moved")
    (signed / SIGNATURE).symlink_to(tmp_path / "moved")
    assert_refused(signed, keys[1], "is not a regular file of reasonable size")


def test_a_key_that_is_none(signed, tmp_path):
    (tmp_path / "pub").write_text("nonsense")
    assert validate(signed, public_key="nonsense").exit_code == 2
    assert shipped(signed, tmp_path / "pub").returncode == 2
    assert shipped(signed, tmp_path / "nowhere").returncode == 2


def test_a_legacy_signature_of_the_whole_manifest(signed, keys):
    private = ed25519.Ed25519PrivateKey.from_private_bytes(bytes([7]) * 32)
    value = private.sign((signed / "manifest.json").read_bytes())
    lines = (
        "untrusted comment: old",
        encoded(b"Ed" + b"graphopt" + value),
        "trusted comment: é",
        encoded(private.sign(value + "é".encode())),
    )
    (signed / SIGNATURE).write_text("\n".join(lines) + "\n")
    assert validate(signed, public_key=keys[1].read_text()).exit_code == 0


def test_a_signature_is_copied_with_its_bundle(signed, keys, tmp_path):
    again = Bundle.load(signed).save(tmp_path / "again.zip")
    assert validate(tmp_path / "again.zip", public_key=keys[1].read_text()).exit_code == 0
    assert (again.path / SIGNATURE).read_bytes() == (signed / SIGNATURE).read_bytes()


def test_a_protected_key_is_not_used(bundle, tmp_path):
    key, _ = write_keys(tmp_path / "b", kdf=b"Sc")
    with pytest.raises(OptionError, match="protected by a password"):
        bundle.save(tmp_path / "signed", secret_key=key)
    assert not (tmp_path / "signed").exists()


@pytest.mark.parametrize("text", ["", "comment\nAAAA\n", "comment\n!!\n"])
def test_a_secret_key_that_is_none(bundle, tmp_path, text):
    (tmp_path / "key").write_text(text)
    with pytest.raises(OptionError, match="not a secret key"):
        sign(bundle.path, tmp_path / "key")


def test_a_comment_of_two_lines(bundle, keys):
    with pytest.raises(OptionError, match="one line"):
        sign(bundle.path, keys[0], "a\nb")


@pytest.mark.skipif(shutil.which("minisign") is None, reason="minisign is not installed")
def test_minisign_itself_agrees(signed, keys, tmp_path):
    manifest = signed / "manifest.json"
    subprocess.run(["minisign", "-V", "-p", keys[1], "-m", manifest], check=True)
    (signed / SIGNATURE).unlink()
    subprocess.run(["minisign", "-S", "-s", keys[0], "-m", manifest], check=True)
    assert validate(signed, public_key=keys[1].read_text()).exit_code == 0
