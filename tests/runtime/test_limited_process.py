"""Programs of others end with their time, with all that they started, and leave nothing."""

import sys
import tempfile
import time
from pathlib import Path

import pytest

from graphopt.runtime import limited_process
from graphopt.runtime.limited_process import LimitExceeded, run_limited

linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")
HIDDEN = """
import os, sys, time
for _ in range(5):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execv(sys.executable, [sys.executable, "-S", "-c", "import time; time.sleep(900)", MARK])
        os._exit(0)
"""


def run(folder, script, timeout_s=60.0, **limits):
    return run_limited([sys.executable, "-c", script], folder=folder, timeout_s=timeout_s, **limits)


def running(mark):
    """Return the processes with a mark on their command line."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = place.read_bytes().split(b"\0")
        except OSError:
            continue
        if mark.encode() in words:
            found.append(place.parent.name)
    return found


@pytest.mark.parametrize(
    ("script", "status", "reason"),
    [
        ("pass", 0, "failed"),
        ("import sys; sys.exit(7)", 7, "failed"),
        ("raise ValueError('no')", 1, "failed: ValueError: no"),
        ("import os; os.abort()", -6, "ended by SIGABRT"),
        (
            "import sys; sys.stderr.write('x' * 9_000_000 + '\\nlast'); sys.exit(2)",
            2,
            "failed: last",
        ),
        ("import os; os.close(2); raise SystemExit(3)", 3, "failed"),
    ],
)
def test_how_a_program_ended_is_told(tmp_path, script, status, reason):
    ended = run(tmp_path, script)
    assert (ended.status, ended.reason()) == (status, reason)
    assert list(tmp_path.iterdir()) == []


@linux_only
@pytest.mark.parametrize("end", ["", "raise ValueError('no')", "time.sleep(900)"])
def test_children_in_sessions_of_their_own_are_ended_too(tmp_path, end):
    mark = f"--mark-of-{tmp_path.name}-{len(end)}"
    script = HIDDEN.replace("MARK", repr(mark)) + end
    started = time.monotonic()
    if end.startswith("time"):
        with pytest.raises(LimitExceeded, match="took more than 2 s"):
            run(tmp_path, script, timeout_s=2.0)
    else:
        run(tmp_path, script)
    assert running(mark) == []
    assert time.monotonic() - started < 600  # they hold its standard error, and sleep for longer


@pytest.mark.parametrize(
    "script", ["while True: pass", "import sys\nwhile True: sys.stderr.write('x' * 9999)"]
)
def test_a_program_that_never_ends_is_ended(tmp_path, script):
    with pytest.raises(LimitExceeded, match=r"took more than 1\.5 s"):
        run(tmp_path, script, timeout_s=1.5)


@linux_only
def test_who_ends_its_keeper_gains_nothing(tmp_path):
    mark = f"--mark-of-{tmp_path.name}"
    script = f"import os, sys, time\nos.kill(os.getppid(), 9)\ntime.sleep(900)  # {mark}"
    assert run(tmp_path, script).reason() == "ended by SIGKILL"
    assert running(mark) == []


@linux_only
def test_memory_is_limited(tmp_path):
    ended = run(tmp_path, "x = bytearray(700 << 20)", memory_bytes=400 << 20)
    assert ended.reason() == "failed: MemoryError"


def test_who_fills_the_disk_is_ended(tmp_path, monkeypatch):
    left = iter([100 << 30, 50 << 30])
    monkeypatch.setattr(limited_process, "_free", lambda _: next(left, 4 << 30))
    with pytest.raises(LimitExceeded, match="filled the disk: less than 5120 MiB"):
        run(tmp_path, "import time; time.sleep(900)")


def test_temporary_files_go_and_what_is_written_where_it_runs_stays(tmp_path):
    before = set(Path(tempfile.gettempdir()).iterdir())
    run(tmp_path, "import tempfile; tempfile.mkstemp(prefix='left-by-a-test'); open('here', 'w')")
    assert [item.name for item in tmp_path.iterdir()] == ["here"]
    new = set(Path(tempfile.gettempdir()).iterdir()) - before
    assert not [item for item in new if item.name.startswith("left-by-a-test")]


@linux_only
def test_a_program_that_cannot_be_started_is_told(tmp_path):
    ended = run_limited([str(tmp_path / "nobody")], folder=tmp_path, timeout_s=60.0)
    assert ended.status == 127
    assert "No such file or directory" in ended.reason()
