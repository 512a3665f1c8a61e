"""Progress: nothing on a pipe; on a terminal one finished line for each stage."""

import io
import sys
from dataclasses import dataclass

import pytest

from graphopt.cli.progress import progress_shown
from graphopt.cli.settings import Settings


@dataclass
class Event:
    stage: str
    message: str = ""
    done: int | None = None
    total: int | None = None


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_nothing_on_a_pipe(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with progress_shown(Settings()) as progress:
        assert progress is None
    assert sys.stderr.getvalue() == ""


def test_nothing_when_switched_off(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress_shown(Settings(progress=False)) as progress:
        assert progress is None


def test_one_line_for_each_finished_stage(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "dumb")
    with progress_shown(Settings(color="never")) as progress:
        progress(Event("calibrate [a]", "samples", 1, 2))
        progress(Event("calibrate [a]", "samples", 2, 2))
        progress(Event("measure", "int8"))
    lines = [line for line in sys.stderr.getvalue().splitlines() if line.rstrip().endswith(" s")]
    assert [line.split()[:-2] for line in lines] == [["calibrate", "[a]"], ["measure"]]


@pytest.mark.parametrize(("encoding", "expected"), [("utf-8", "\u280b"), ("ascii", "-")])
def test_the_spinner_is_what_the_terminal_can_say(monkeypatch, encoding, expected):
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, encoding=encoding, errors="backslashreplace")
    stream.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    with progress_shown(Settings(color="never")) as progress:
        progress(Event("measure", "int8"))
    stream.flush()
    text = written.getvalue().decode(encoding)
    assert f"{expected} measure" in text
    assert "\\u" not in text
