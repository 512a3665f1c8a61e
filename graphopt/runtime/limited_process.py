"""Programs of others: they end with their time, and what they say is kept in short."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

__all__ = ["Ended", "run_limited"]

_TAIL_BYTES = 4000
_BLOCK_BYTES = 1 << 16


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


def run_limited(
    words: Sequence[str],
    *,
    folder: Path,
    timeout_s: float,
    environment: Mapping[str, str] | None = None,
) -> Ended:
    """Run a program in a process group of its own, and end the group with it.

    Args:
        words: The program and its arguments.
        folder: Where it runs: programs leave files where they stand.
        timeout_s: Most seconds.
        environment: Variables beside those of this process.

    Raises:
        TimeoutError: It took longer.
        OSError: The program cannot be started.
    """
    process = subprocess.Popen(
        list(words),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        cwd=folder,
        env={**os.environ, **(environment or {})},
    )
    assert process.stderr is not None
    tail = bytearray()
    reader = threading.Thread(target=_keep_tail, args=(process.stderr, tail), daemon=True)
    reader.start()
    try:
        status = process.wait(timeout_s)
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"took more than {timeout_s:g} s") from error
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        reader.join()
        process.stderr.close()
    return Ended(status=status, said=tail.decode("utf-8", "replace"))


def _keep_tail(pipe: IO[bytes], tail: bytearray) -> None:
    while block := pipe.read1(_BLOCK_BYTES):  # type: ignore[attr-defined]
        tail += block
        del tail[:-_TAIL_BYTES]
