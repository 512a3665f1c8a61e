"""Ctrl-C, termination and a closed terminal end the program wherever they meet it."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

__all__ = ["interruptible"]

_BY_SIGNAL = 128  # what shells add to the number of a signal
_AGAIN_S = 0.01
_SIGNALS: dict[type[BaseException], int] = {
    KeyboardInterrupt: signal.SIGINT,
    SystemExit: signal.SIGTERM,
}


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let termination unwind as `SystemExit`, and lose neither it nor `KeyboardInterrupt`.

    So does the end of the terminal, as where a connection breaks, unless whoever started the
    program had it ignored (`nohup`).

    Python drops what is raised while an object is finalized, and goes on: what was dropped is
    sent once more.
    """
    handlers = {number: signal.signal(number, _terminate) for number in _ending()}
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
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _ending() -> list[int]:
    """Return the signals that end the program, beside Ctrl-C."""
    if sys.platform == "win32":
        return [signal.SIGTERM]
    is_heeded = signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    return [signal.SIGTERM, *([signal.SIGHUP] if is_heeded else [])]


def _send(number: int) -> None:
    if sys.platform == "win32":
        signal.raise_signal(number)
    else:  # the main thread may wait for something: wake it
        signal.pthread_kill(threading.main_thread().ident or 0, number)


def _terminate(number: int, _frame: FrameType | None) -> None:
    # As an exception it unwinds, so that temporary files and worker processes go.
    raise SystemExit(_BY_SIGNAL + number)
