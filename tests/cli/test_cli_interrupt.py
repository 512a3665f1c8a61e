"""Ctrl-C and termination in the middle of the main job: one line, and nothing left behind."""

import os
import signal
import subprocess
import sys
import time

import pytest

from graphopt.cli.interruptions import interruptible
from graphopt.demo import demo_files

DEADLINE_S = 60


def wait_until(condition):
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)


def start(folder, scratch):
    files = demo_files()
    command = ["optimize", files.model, "--target", "cpu-int8", "--calibration", files.calibration]
    return subprocess.Popen(
        [sys.executable, "-m", "graphopt", *map(str, command), "--latency", "300"],
        cwd=folder,
        env={**os.environ, "TMPDIR": str(scratch)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Under `nohup` it is ignored, by children too, and so does whoever runs these tests so.
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # noqa: PLW1509
    )


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_interrupted_optimize_leaves_nothing(tmp_path, number, status):
    folder, scratch = tmp_path / "folder", tmp_path / "scratch"
    folder.mkdir()
    scratch.mkdir()
    with start(folder, scratch) as process:
        # A candidate on disk: its latency is measured for the next five minutes.
        wait_until(lambda: list(scratch.glob("graphopt-*/static.onnx")))
        # A terminal sends Ctrl-C to the whole group, workers included, and so it says that it is
        # closed; `kill` sends to one process.
        kill = os.kill if number is signal.SIGTERM else os.killpg
        kill(process.pid, number)
        output, error = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == status
    assert output == ""
    assert error == ("interrupted\n" if number is signal.SIGINT else "")
    assert list(folder.iterdir()) == []
    assert list(scratch.iterdir()) == []
    wait_until(lambda: not is_alive(process.pid))


def is_alive(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


class StoppedWhileItGoes:
    """What is raised while an object is finalized, Python drops."""

    def __init__(self, number):
        self.number = number

    def __del__(self):
        os.kill(os.getpid(), self.number)
        time.sleep(0.001)


@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_what_python_drops_in_a_finalizer_is_not_lost(number, raised):
    handler, hook = signal.getsignal(signal.SIGTERM), sys.unraisablehook
    with pytest.raises(raised), interruptible():
        StoppedWhileItGoes(number)
        time.sleep(DEADLINE_S)
    assert signal.getsignal(signal.SIGTERM) is handler
    assert sys.unraisablehook is hook


def test_who_is_to_outlive_the_terminal_does():
    """As under `nohup`, which has the signal ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
