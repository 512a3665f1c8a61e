"""Scratch folders: removed at the end, and after a kill by whoever comes next."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from graphopt.ir.scratch import scratch_folder

_HOLD = """
import sys, time
from graphopt.ir.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "model.onnx").write_bytes(b"x" * 1000)
    print(folder, flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def _own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)


def _age(folder: Path) -> None:
    """Let a folder look an hour old."""
    hour_ago = time.time() - 3600
    for path in folder.iterdir():
        os.utime(path, (hour_ago, hour_ago))


def _holder() -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen([sys.executable, "-c", _HOLD], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_it_goes_at_the_end_and_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), scratch_folder() as folder:
        (folder / "file").touch()
        raise KeyError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="needs locks that end with the process")
def test_a_killed_program_leaves_nothing_for_long(tmp_path: Path) -> None:
    process, left = _holder()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert left.exists()
    _age(left)

    with scratch_folder() as folder:
        assert list(tmp_path.iterdir()) == [folder]


def test_a_folder_in_use_stays(tmp_path: Path) -> None:
    process, held = _holder()
    _age(held)
    with scratch_folder():
        assert (held / "model.onnx").exists()
    process.kill()
    process.communicate()
    assert held.exists()


def test_a_folder_that_only_has_such_a_name_stays(tmp_path: Path) -> None:
    foreign = tmp_path / "graphopt-scratch-of-mine"
    foreign.mkdir()
    (foreign / "precious").touch()
    _age(foreign)
    with scratch_folder():
        assert (foreign / "precious").exists()
