"""Run other optimizers in processes of their own, with limits."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphopt.errors import MissingExtraError, PassError
from graphopt.runtime.limited_process import LimitExceeded, most_memory, run_limited

__all__ = ["Limits", "Took", "run_foreign"]

_SCRIPT = Path(__file__).with_name("foreign_worker.py")
_NOT_INSTALLED = 3  # `foreign_worker.NOT_INSTALLED`; the script stands alone


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
    told = {**(options or {}), "memory_bytes": limits.memory_bytes or most_memory()}
    words = [interpreter or sys.executable, str(_SCRIPT), tool, str(source), str(out)]
    try:
        ended = run_limited(
            [*words, json.dumps(told)], folder=out.parent, timeout_s=limits.timeout_s
        )
    except LimitExceeded as error:
        raise PassError(f"{tool} {error}") from error
    if ended.status == _NOT_INSTALLED:
        raise MissingExtraError(
            f"{tool} is not installed",
            why=ended.said.strip(),
            hint="`pip install 'graphopt[tools]'`, or name a Python that has it: "
            "option `interpreter`",
        )
    if ended.status:
        raise PassError(f"{tool} {ended.reason()}")
    if not out.exists():
        raise PassError(f"{tool} wrote nothing", why="it ended as if all went well")
    return Took(**json.loads(Path(f"{out}.json").read_text(encoding="utf-8")))
