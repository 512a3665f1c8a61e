"""Progress on standard error: one live line, and one finished line for each stage."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from graphopt.cli.settings import Settings

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["progress_shown"]

ProgressCallback = Callable[[Any], None]


@contextmanager
def progress_shown(settings: Settings) -> Iterator[ProgressCallback | None]:
    """Yield a callback for progress events, or None where progress is not wanted.

    An event has ``stage``, ``message``, ``done`` and ``total``; the last two may be None.
    """
    if not settings.show_progress(sys.stderr):
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn

    # Names in models hold brackets, which rich would take for styles.
    columns = (SpinnerColumn(_spinner(sys.stderr)), TextColumn("{task.description}", markup=False))
    console = Console(stderr=True, no_color=not settings.use_color(sys.stderr))
    with Progress(*columns, console=console, transient=True) as live:
        lines = _StageLines(live)
        yield lines.receive
        lines.finish()


def _spinner(stream: TextIO) -> str:
    # Braille where the terminal can say it; what it cannot say would be spelled out as `\u280b`.
    try:
        "\u280b".encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return "line"
    return "dots"


class _StageLines:
    """The state between two events: the stage that is running and since when."""

    def __init__(self, live: Progress) -> None:
        self._live = live
        self._task: TaskID | None = None
        self._stage: str | None = None
        self._began = 0.0

    def receive(self, event: Any) -> None:
        """Show one event; a new stage first closes the line of the one before."""
        if event.stage != self._stage:
            self.finish()
            self._stage, self._began = event.stage, time.monotonic()
            self._task = self._live.add_task(event.stage, total=None)
        count = f" {event.done} of {event.total}" if event.total else ""
        assert self._task is not None
        text = f"{event.stage}  {event.message}{count}"
        self._live.update(self._task, description=text)

    def finish(self) -> None:
        """Replace the live line by a finished one."""
        if self._task is None:
            return
        seconds = time.monotonic() - self._began
        self._live.remove_task(self._task)
        self._live.console.print(
            f"  {self._stage:<20}{seconds:8.1f} s", markup=False, highlight=False
        )
        self._task = self._stage = None
