"""Devices over SSH, here a server on loopback: there and back, and everything that goes wrong."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from device_bundles import rewrite
from ssh_server import can_mount, ssh_server

from graphopt.cli.main import main
from graphopt.deploy import Bundle, FleetDevice, FleetReport, validate, validate_on


@pytest.fixture(scope="module")
def server(device, libraries, tmp_path_factory):
    folder = device("sshd")
    if os.geteuid() == 0 and not can_mount():
        pytest.skip("root may not have a mount namespace here")
    place = tmp_path_factory.mktemp("sshd")
    before = os.environ.get("GRAPHOPT_SSH")
    os.environ["GRAPHOPT_SSH"] = f"ssh -F {place}/ssh_config"
    with ssh_server(folder / "usr/sbin/sshd", place, libraries(folder)) as address:
        yield address
    os.environ.pop("GRAPHOPT_SSH")
    if before is not None:
        os.environ["GRAPHOPT_SSH"] = before


@pytest.fixture
def place(tmp_path):
    """Where temporary folders are made on the device; nothing may stay there."""
    folder = tmp_path / "there"
    folder.mkdir()
    yield folder
    assert [*folder.iterdir()] == []


@pytest.fixture
def interpreter(tmp_path):
    """Write a program that stands in for the device's Python."""

    def write(script):
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    return write


def visit(bundle, server, place, python=sys.executable, timeout_s=60.0, **options):
    address = f"{server}?python={python}&folder={place}"
    device = FleetDevice(name="board", address=address, timeout_s=timeout_s)
    return validate_on(Bundle.load(bundle), [device], **options)[0]


def test_there_and_back(server, place, bundle):
    result, here = visit(bundle, server, place), validate(bundle).to_dict()
    assert (result.status, result.exit_code, result.reason) == ("ok", 0, None)
    assert result.report["outputs"] == here["outputs"]
    assert result.report["manifest_sha256"] == here["manifest_sha256"]


def test_latency_is_measured_there(server, place, bundle):
    assert visit(bundle, server, place, latency=True).report["latency"]["median_ms"] > 0


def test_the_original_is_timed_there(server, place, bundle):
    report = visit(bundle, server, place, reference=bundle.parent / "original.onnx").report
    assert report["latency"]["reference"]["verdict"] in {"same", "faster", "slower", "too-noisy"}


def test_wrong_numbers_there(server, place, copy):
    name = "golden/model/0.npz"
    recorded = dict(np.load(copy / name))
    np.savez(copy / name, **{**recorded, "y": -recorded["y"]})
    rewrite(copy, rehash=[name])
    result = visit(copy, server, place)
    assert (result.status, result.exit_code) == ("wrong", 1)


def test_the_bundles_own_program_is_not_run(server, place, copy, tmp_path):
    mark = tmp_path / "executed"
    (copy / "validate.py").write_text(f"open({str(mark)!r}, 'w')")
    rewrite(copy, rehash=["validate.py"])
    assert visit(copy, server, place).status == "ok"
    assert not mark.exists()


def test_no_server(place, bundle):
    result = visit(bundle, "ssh://nobody@127.0.0.1:1", place)
    assert (result.status, result.exit_code, result.report) == ("lost", 2, None)
    assert "Connection refused" in result.reason


def test_no_ssh(place, bundle, monkeypatch):
    monkeypatch.setenv("GRAPHOPT_SSH", "/nowhere/ssh")
    result = visit(bundle, "ssh://nobody@127.0.0.1:1", place)
    assert "`/nowhere/ssh` cannot be run" in result.reason


def test_no_python(server, place, bundle):
    result = visit(bundle, server, place, python="/nowhere/python")
    assert (result.status, result.exit_code) == ("broken", 2)
    assert "/nowhere/python" in result.reason


def test_no_folder(server, place, bundle):
    result = visit(bundle, server, place / "nowhere")
    assert (result.status, result.exit_code) == ("broken", 2)
    assert "No such file" in result.reason


@pytest.mark.parametrize(
    "output",
    ["", "{}", "[]", "nonsense", '{"status": "ok", "exit_code": 0}',
     '{"status": "ok", "exit_code": 7, "checks": [], "outputs": {}, "latency": null}',
     ('{"status": "ok", "exit_code": 0, "checks": [{"name": 1, "status": 2, "detail": 3}], '
      '"outputs": {}, "latency": null}')],
)  # fmt: skip
def test_what_is_no_report(server, place, bundle, interpreter, output):
    result = visit(bundle, server, place, python=interpreter(f"echo '{output}'"))
    assert (result.status, result.report) == ("broken", None)
    assert "no report" in result.reason


def test_a_device_that_takes_too_long(server, place, bundle, interpreter):
    script = f"echo $$ > {place.parent}/pid; exec sleep 90"
    result = visit(bundle, server, place, python=interpreter(script), timeout_s=5.0)
    assert (result.exit_code, result.report) == (2, None)
    # `timeout` there ends what the connection left behind.
    number, end = int((place.parent / "pid").read_text()), time.monotonic() + 30
    while Path(f"/proc/{number}").exists():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_connection_that_is_lost(server, place, bundle, interpreter, tmp_path):
    script = f"echo $PPID > {tmp_path}/pid; sleep 30"

    def cut():
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            time.sleep(0.05)
        number = int((tmp_path / "pid").read_text())
        while True:  # up to the server's process of this connection
            status = Path(f"/proc/{number}/status").read_text()
            if status.startswith("Name:\tsshd"):
                break
            number = int(status.split("PPid:\t")[1].split()[0])
        os.kill(number, signal.SIGKILL)

    thread = threading.Thread(target=cut)
    thread.start()
    result = visit(bundle, server, place, python=interpreter(script))
    thread.join()
    assert (result.status, result.exit_code) == ("lost", 2)


@pytest.mark.skipif(not can_mount(), reason="only root can mount a small disk")
def test_a_full_disk(server, copy, tmp_path_factory, monkeypatch):
    small = next(tmp_path_factory.getbasetemp().glob("sshd*/small"))
    (copy / "report.html").write_bytes(os.urandom(512 << 10))
    rewrite(copy, rehash=["report.html"])
    result = visit(copy, server, small)
    assert (result.status, result.exit_code) == ("broken", 2)
    assert "the disk is full" in result.reason
    # A `df` that is wrong, or a disk that fills meanwhile: found when it is written.
    monkeypatch.setattr("graphopt.deploy.remote._ROOM", 0.0)
    result = visit(copy, server, small)
    assert result.reason.startswith("the disk is full: tar: ")
    assert "is left there" not in result.reason


def test_a_fleet_is_one_table(server, place, bundle, tmp_path, capsys):
    address = f"{server}?python={sys.executable}&folder={place}"
    entries = [("one", address), ("two", address), ("gone", "ssh://nobody@127.0.0.1:1")]
    text = "".join(f'[[device]]\nname = "{n}"\naddress = "{a}"\n' for n, a in entries)
    (tmp_path / "fleet.toml").write_text(text)
    assert main(["validate", str(bundle), "--fleet", str(tmp_path / "fleet.toml")]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[2:5]] == [
        ["one", "ok"],
        ["two", "ok"],
        ["gone", "lost"],
    ]
    words = ["validate", str(bundle), "--json", "--device", address]
    assert main(words) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["devices"][0]["report"]["outputs"] == document["host"]["outputs"]


def test_a_damaged_bundle_goes_nowhere(copy, capsys):
    (copy / "report.html").write_text("changed")
    assert main(["validate", str(copy), "--device", "ssh://nobody@127.0.0.1:1"]) == 2
    assert "was changed" in capsys.readouterr().out


@pytest.mark.parametrize("key", ["-oProxyCommand=touch x", "a b"])
def test_addresses_that_are_options_are_refused(bundle, key, capsys):
    assert main(["validate", str(bundle), "--device", f"ssh://{key}"]) == 2
    assert "is not the address of a device" in capsys.readouterr().err


def test_what_a_device_says_is_shown_and_not_obeyed():
    from graphopt.deploy import DeviceResult

    report = {
        "checks": [{"name": "load", "status": "failed", "detail": "\x1b[2J"}],
        "outputs": {"\x1b]0;": {"model": {"error": None, "cosine": 1, "sqnr_db": None}}},
        "latency": None,
    }
    result = DeviceResult(
        name="board",
        address="",
        status="broken",
        exit_code=2,
        reason=None,
        report=report,
        seconds=1.0,
    )
    text = str(
        FleetReport({"status": "ok", "checks": [], "outputs": {}, "latency": None}, [result])
    )
    assert "\x1b" not in text
    assert "\\x1b[2J" in text


def test_adb_is_spoken_like_ssh(bundle, place, tmp_path, monkeypatch):
    """Against a stand-in that runs what it is given: no Android device was at hand."""
    program = tmp_path / "bin" / "adb"
    program.parent.mkdir()
    program.write_text(
        '#!/bin/sh\n[ "$1 $2 $3 $4" = "-s Board-7 shell -T" ] || { echo "adb: wrong" >&2; exit 1; }\nexec sh -c "$5"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    settings = f"?python={sys.executable}&folder={place}"
    good = FleetDevice(name="phone", address=f"adb://Board-7{settings}")
    gone = FleetDevice(name="gone", address=f"adb://Board-8{settings}")
    results = validate_on(Bundle.load(bundle), [good, gone])
    assert [result.status for result in results] == ["ok", "lost"]
    assert results[1].reason == "adb: wrong"
    assert subprocess.run(["adb"], check=False, capture_output=True).returncode == 1
