"""Ctrl-C and termination end the program wherever they meet it."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

__all__ = ["TERMINATED", "interruptible"]

TERMINATED = 143
_AGAIN_S = 0.01
_SIGNALS: dict[type[BaseException], int] = {
    KeyboardInterrupt: signal.SIGINT,
    SystemExit: signal.SIGTERM,
}


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let termination unwind as `SystemExit`, and lose neither it nor `KeyboardInterrupt`.

    Python drops what is raised while an object is finalized, and goes on: what was dropped is
    sent once more.
    """
    handler = signal.signal(signal.SIGTERM, _terminate)
    hook = sys.unraisablehook

    def send_again(dropped: sys.UnraisableHookArgs) -> None:
        number = _SIGNALS.get(dropped.exc_type)
        if number is None:
            hook(dropped)
            return
        # Later, when the finalizer is over: it would be dropped here, too.
        again = threading.Timer(_AGAIN_S, _send, [number])
        # The program may end before.
        again.daemon = True
        again.start()

    sys.unraisablehook = send_again
    try:
        yield
    finally:
        sys.unraisablehook = hook
        signal.signal(signal.SIGTERM, handler)


def _send(number: int) -> None:
    if sys.platform == "win32":
        signal.raise_signal(number)
    else:  # the main thread may wait for something: wake it
        signal.pthread_kill(threading.main_thread().ident or 0, number)


def _terminate(_number: int, _frame: FrameType | None) -> None:
    # As an exception it unwinds, so that temporary files and worker processes go.
    raise SystemExit(TERMINATED)
