"""`validate.py` where there is no network at all, not even a loopback that is up."""

import json
import shutil
import subprocess
import sys

import pytest


@pytest.fixture(scope="module")
def without_network():
    """Return the words before a program that runs it in a network namespace of its own."""
    if shutil.which("unshare") is None:
        pytest.skip("`unshare` is not installed")
    for words in (["unshare", "--net"], ["unshare", "--map-root-user", "--net"]):
        if subprocess.run([*words, "true"], capture_output=True, check=False).returncode == 0:
            return words
    pytest.skip("network namespaces cannot be made here")


def test_there_is_none(without_network):
    program = "import socket; socket.create_connection(('127.0.0.1', 9), timeout=5)"
    result = subprocess.run(
        [*without_network, sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Network is unreachable" in result.stderr or "ENETUNREACH" in result.stderr


@pytest.mark.parametrize("damaged", [False, True])
def test_the_program_of_a_bundle(without_network, copy, damaged):
    if damaged:
        (copy / "report.html").write_text("other")
    words = [sys.executable, "-I", str(copy / "validate.py"), "--json"]
    alone = subprocess.run(words, capture_output=True, text=True, check=False)
    result = subprocess.run([*without_network, *words], capture_output=True, text=True, check=False)
    assert result.returncode == alone.returncode == (2 if damaged else 0), result.stderr
    found, expected = json.loads(result.stdout), json.loads(alone.stdout)
    for document in (found, expected):
        for check in document["checks"]:
            if check["name"] == "memory":
                del check["detail"]  # bytes differ from run to run
    assert found == expected
