"""Programs of others: they end with their time, and what they say is kept in short."""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

__all__ = ["Ended", "LimitExceeded", "most_memory", "run_limited"]

_REAPER = Path(__file__).with_name("reaper.py")
_TAIL_BYTES = 4000
_BLOCK_BYTES, _BLOCKS = 1 << 16, 64
_LOOK_S = 0.1
_END_S = 10.0
"""For the reaper to end what it watches over; then it is ended itself."""
_SPARED = 0.05
"""The share of the free room on the disk that programs have to leave."""
_SHARE_OF_MEMORY = 0.8


class LimitExceeded(Exception):
    """A program took more than it may: time, or room on the disk. The text says what."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a process ended.

    Attributes:
        status: Its exit status; negative: the signal that ended it.
        said: The end of what it wrote to its standard error.
    """

    status: int
    said: str

    def reason(self) -> str:
        """Return in one line why it failed."""
        lines = [line.strip() for line in self.said.splitlines() if line.strip()]
        how = "failed"
        if self.status < 0:
            how = f"ended by {signal.Signals(-self.status).name}"
        return ": ".join((how, *lines[-1:]))


def most_memory() -> int:
    """Return the bytes that a program may allocate unless told: 80 % of the machine's memory."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return int(pages * _SHARE_OF_MEMORY)


def run_limited(
    words: Sequence[str],
    *,
    folder: Path,
    timeout_s: float,
    memory_bytes: int = 0,
    environment: Mapping[str, str] | None = None,
) -> Ended:
    """Run a program, and end with it all that it started.

    Its temporary files go to a folder within `folder`, which is removed. On Linux processes that it
    leaves behind are ended wherever they hide (`reaper`), elsewhere those of its process group.

    Args:
        words: The program and its arguments.
        folder: Where it runs: programs leave files where they stand.
        timeout_s: Most seconds.
        memory_bytes: What each process may allocate, on Linux; 0: no limit.
        environment: Variables beside those of this process.

    Raises:
        LimitExceeded: It took longer, or left less than a twentieth of the room on the disk.
        OSError: The program cannot be started.
    """
    scratch = tempfile.mkdtemp(prefix="tmp", dir=folder)
    told = {**os.environ, **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), scratch)}
    process = subprocess.Popen(
        [*_reaped(memory_bytes), *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        cwd=folder,
        env={**told, **(environment or {})},
    )
    assert process.stderr is not None
    tail = bytearray()
    try:
        _wait(process, process.stderr, tail, folder, timeout_s)
    finally:
        _end(process)
        _keep_tail(process.stderr, tail)
        process.stderr.close()
        shutil.rmtree(scratch, ignore_errors=True)
    return Ended(status=process.returncode, said=tail.decode("utf-8", "replace"))


def _reaped(memory_bytes: int) -> list[str]:
    if not sys.platform.startswith("linux"):
        return []
    # Alone and without `site`: it starts in 20 ms, and nothing of the user's can change it.
    return [sys.executable, "-I", "-S", str(_REAPER), str(memory_bytes)]


def _wait(
    process: subprocess.Popen[bytes],
    pipe: IO[bytes],
    tail: bytearray,
    folder: Path,
    timeout_s: float,
) -> None:
    """Wait for the end, reading what is said: who is not heard waits for room in the pipe."""
    end, least = time.monotonic() + timeout_s, int(_free(folder) * _SPARED)
    os.set_blocking(pipe.fileno(), False)
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while process.poll() is None:
            if time.monotonic() > end:
                raise LimitExceeded(f"took more than {timeout_s:g} s")
            if _free(folder) < least:
                raise LimitExceeded(f"filled the disk: less than {least >> 20} MiB was left")
            if not selector.get_map():
                time.sleep(_LOOK_S)
            elif selector.select(_LOOK_S) and not _keep_tail(pipe, tail):
                selector.unregister(pipe)  # closed: there is nothing to wait for


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started, if it still runs."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def _keep_tail(pipe: IO[bytes], tail: bytearray) -> bool:
    """Keep the end of what can be read now; False where the pipe is closed."""
    for _ in range(_BLOCKS):  # some never stop talking
        try:
            block = os.read(pipe.fileno(), _BLOCK_BYTES)
        except BlockingIOError:
            return True
        if not block:
            return False
        tail += block
        del tail[:-_TAIL_BYTES]
    return True
