"""Run other optimizers in processes of their own, with limits."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphopt.errors import MissingExtraError, PassError

__all__ = ["Limits", "Took", "run_foreign"]

_SCRIPT = Path(__file__).with_name("foreign_worker.py")
_NOT_INSTALLED = 3  # `foreign_worker.NOT_INSTALLED`; the script stands alone
_SHARE_OF_MEMORY = 0.8
_TAIL_BYTES = 4000


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a tool may take.

    Attributes:
        timeout_s: Wall time in seconds, its start included.
        memory_bytes: What it may allocate; 0: 80 % of the machine's memory.
    """

    timeout_s: float = 600.0
    memory_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Took:
    """What a tool took, from the path of the model to the saved file.

    Attributes:
        seconds: Wall time, without starting Python and importing.
        cpu_s: CPU time, likewise.
        peak_rss_bytes: Peak resident memory of the process, imports included; 0: not known.
    """

    seconds: float
    cpu_s: float
    peak_rss_bytes: int


def run_foreign(
    tool: str,
    source: Path,
    out: Path,
    *,
    options: dict[str, Any] | None = None,
    interpreter: str = "",
    limits: Limits | None = None,
) -> Took:
    """Run a tool on a model file.

    Args:
        tool: Its name in `graphopt.runtime.foreign_worker`.
        source: The model.
        out: What the tool is to write; other files may appear beside it.
        options: What it is told.
        interpreter: Python that has it; default: this one.
        limits: What it may take.

    Raises:
        MissingExtraError: It is not installed.
        PassError: It failed, took too long or too much memory, or wrote nothing.
    """
    limits = limits or Limits()
    told = {**(options or {}), "memory_bytes": limits.memory_bytes or _most_memory()}
    words = [interpreter or sys.executable, str(_SCRIPT), tool, str(source), str(out)]
    log = Path(f"{out}.log")
    with log.open("wb") as said:
        status = _wait([*words, json.dumps(told)], said.fileno(), out.parent, limits.timeout_s)
    text = _tail(log)
    if status == _NOT_INSTALLED:
        raise MissingExtraError(
            f"{tool} is not installed",
            why=text.strip(),
            hint="`pip install 'graphopt[tools]'`, or name a Python that has it: "
            "option `interpreter`",
        )
    if status:
        ended = f"ended by {signal.Signals(-status).name}" if status < 0 else "failed"
        raise PassError(": ".join(filter(None, (f"{tool} {ended}", _last_line(text)))))
    if not out.exists():
        raise PassError(f"{tool} wrote nothing", why="it ended as if all went well")
    return Took(**json.loads(Path(f"{out}.json").read_text(encoding="utf-8")))


def _wait(words: list[str], log: int, folder: Path, timeout_s: float) -> int:
    """Run in a process group of its own, which ends with the time; return the exit status."""
    nothing = subprocess.DEVNULL
    process = subprocess.Popen(
        words,
        stdin=nothing,
        stdout=nothing,
        stderr=log,
        start_new_session=True,
        cwd=folder,  # tools leave files where they stand
    )
    try:
        return process.wait(timeout_s)
    except subprocess.TimeoutExpired as error:
        raise PassError(f"{words[2]} took more than {timeout_s:g} s") from error
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _most_memory() -> int:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return int(pages * _SHARE_OF_MEMORY)


def _tail(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        return file.read().decode("utf-8", "replace")


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
