"""Runs a program, and ends with it whatever it started. Linux only.

Usage:
    python reaper.py MEMORY_BYTES PROGRAM [ARGUMENT ...]

A script of its own that needs nothing of graphopt. A process group ends what stays in it; a child
in a session of its own outlives it. Here such orphans come to this process, which takes them along:
`prctl(2)`, PR_SET_CHILD_SUBREAPER (Linux 3.4). SIGTERM ends everything at once; so does the end of
what started this process. MEMORY_BYTES limits what each process may allocate; 0: as much as there
is. The exit status is that of the program; where a signal ended it, this process ends likewise.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
import time
from pathlib import Path
from types import FrameType

_PARENT_DEATH, _SUBREAPER = 1, 36  # `linux/prctl.h`
_CANNOT_RUN = 127  # as shells have it
_ROUNDS, _ROUND_S = 1000, 0.005
_NOT_CAUGHT = (signal.SIGKILL, signal.SIGSTOP)


def adopt_orphans() -> None:
    """Become the parent of what descendants leave behind, and end with the own parent."""
    library = ctypes.CDLL(None, use_errno=True)
    library.prctl(_SUBREAPER, 1, 0, 0, 0)
    library.prctl(_PARENT_DEATH, signal.SIGTERM, 0, 0, 0)


def start(words: list[str], memory_bytes: int) -> int:
    """Start a program in this process group; return its number."""
    number = os.fork()
    if number:
        return number
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if memory_bytes:
        # Not the address space: libraries reserve far more of it than they use.
        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    try:
        os.execvp(words[0], words)  # noqa: S606 - to run a program is what it is for
    except OSError as error:
        os.write(2, f"{words[0]}: {error.strerror}\n".encode())
    os._exit(_CANNOT_RUN)


def wait_for(number: int) -> int:
    """Return how a child ended, as `os.waitpid` tells it; orphans that end before are let go."""
    while True:
        ended, status = os.wait()
        if ended == number:
            return status


def children() -> list[int]:
    """Return the numbers of the processes whose parent is this one."""
    own, found = os.getpid(), []
    for place in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            # The name, in parentheses, may hold anything; the parent is the second field behind it.
            if int(place.read_text(errors="replace").rpartition(")")[2].split()[1]) == own:
                found.append(int(place.parent.name))
    return found


def end_all() -> None:
    """End every descendant: children of what ends come here, and are ended in the next round."""
    for _ in range(_ROUNDS):
        for number in children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                continue
        except ChildProcessError:
            return
        time.sleep(_ROUND_S)


def stop(_signal: int, _frame: FrameType | None) -> None:
    """End everything, and this process."""
    end_all()
    os._exit(128 + signal.SIGTERM)


def main() -> int:
    """Run a program; return its exit status."""
    adopt_orphans()
    signal.signal(signal.SIGTERM, stop)
    status = wait_for(start(sys.argv[2:], int(sys.argv[1])))
    end_all()
    if os.WIFSIGNALED(status):
        ended_by = os.WTERMSIG(status)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # one dump is enough
        if ended_by not in _NOT_CAUGHT:
            signal.signal(ended_by, signal.SIG_DFL)
        os.kill(os.getpid(), ended_by)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main())
