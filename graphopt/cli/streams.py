"""Standard output and standard error that are closed, full, or that nobody reads any more."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

__all__ = ["open_missing_streams", "said_if_possible", "silence"]


def open_missing_streams() -> None:
    """Give the process the null device for each standard stream that it was started without.

    Python then has None in its place, which has no `flush`; and the next file that is opened, a
    model that is written perhaps, would get the number of the stream, and what native code prints.
    """
    # In the order of their numbers, the lowest free one of which `open` takes.
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            opened = Path(os.devnull).open(mode, encoding="utf-8")  # noqa: SIM115 - as long as we run
            setattr(sys, name, opened)


@contextlib.contextmanager
def said_if_possible() -> Iterator[None]:
    """Print inside; where that fails, or nobody reads it, go on without a word."""
    try:
        yield
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        silence()


def silence() -> None:
    """Let what was not written go to the null device.

    The interpreter flushes once more at exit, complains about the same fault, and ends with a
    status of its own.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
