"""Run a command in a process of its own, with limits on time and memory, and count what it took."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PERIOD_S = 0.02
PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 1e6


@dataclass(frozen=True)
class Finished:
    """What a command left behind.

    Attributes:
        status: `done`, `failed`, `timeout` or `out-of-memory`.
        stdout: Everything it printed.
        stderr: Its last 2,000 characters of standard error.
        wall_s: Seconds from start to end of the process.
        tree_mb: Largest sum of the resident memory of the process and its descendants, sampled
            every 20 ms; pages of files that two of them map count twice.
    """

    status: str
    stdout: str
    stderr: str
    wall_s: float
    tree_mb: float


def run_measured(
    command: Sequence[str],
    *,
    timeout_s: float,
    memory_mb: float,
    environment: Mapping[str, str] | None = None,
) -> Finished:
    """Run a command to its end, or to the limit that it exceeds.

    Args:
        command: Program and arguments.
        timeout_s: Wall seconds after which the command and its descendants are killed.
        memory_mb: Resident memory of the process and its descendants beyond which they are.
        environment: Variables added to this process's.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        started = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdout=out,
            stderr=err,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, **(environment or {})},
        )
        watch = _Watch(process, timeout_s, memory_mb)
        process.wait()
        wall_s = time.perf_counter() - started
        watch.stop()
        status = watch.verdict or ("done" if process.returncode == 0 else "failed")
        return Finished(status, _text(out), _text(err)[-2000:], wall_s, watch.peak_mb)


class _Watch:
    """Samples the memory of a process tree and kills its session at a limit."""

    def __init__(self, process: subprocess.Popen[bytes], timeout_s: float, memory_mb: float):
        self.peak_mb = 0.0
        self.verdict: str | None = None
        self._process = process
        self._deadline = time.monotonic() + timeout_s
        self._memory_mb = memory_mb
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the sampling; whatever the process left running is killed."""
        self._ended.set()
        self._thread.join()
        self._kill()

    def _loop(self) -> None:
        while not self._ended.wait(PERIOD_S):
            self.peak_mb = max(self.peak_mb, tree_resident_mb(self._process.pid))
            if self.peak_mb > self._memory_mb:
                self.verdict = "out-of-memory"
            elif time.monotonic() > self._deadline:
                self.verdict = "timeout"
            if self.verdict:
                self._kill()
                return

    def _kill(self) -> None:
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return


def tree_resident_mb(pid: int) -> float:
    """Return the resident memory of a process and its descendants (Linux), in MB."""
    return _tree_pages(pid, None) * PAGE_MB


def _tree_pages(pid: int, owner: bytes | None) -> int:
    """Return the resident pages of a process and its descendants; `owner` is its parent's `statm`.

    Until a new process runs its own program it borrows the memory of the one that started it, and
    shows the very same numbers: these pages are there once.
    """
    try:
        own = Path(f"/proc/{pid}/statm").read_bytes()
        pages = int(own.split()[1])
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = {
            int(child) for task in tasks for child in (task / "children").read_bytes().split()
        }
    except (OSError, IndexError):  # it ended meanwhile
        return 0
    if own == owner:
        return 0
    return pages + sum(_tree_pages(child, own) for child in children)


def _text(file: object) -> str:
    file.seek(0)  # type: ignore[attr-defined]
    return file.read().decode("utf-8", "replace")  # type: ignore[attr-defined, no-any-return]
