"""Ways to a device: a shell command, a file, nothing else. SSH and the Android debug bridge."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO, Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

from graphopt.errors import OptionError

__all__ = ["Adb", "Lost", "Ssh", "Transport", "transport_of"]

CONNECT_TIMEOUT_S = 10
_LOST_STATUS = 255  # of ssh itself; what it runs may use every other one
_HOST = re.compile(r"[\w.:%][-\w.:%]*")  # never what a program takes for an option
_KNOWN_SETTINGS = frozenset({"python", "folder"})


class Lost(Exception):
    """The device cannot be reached, or not any more, or not in time."""


class Transport(Protocol):
    """What `validate_on` asks of a way to a device."""

    @property
    def python(self) -> str:
        """The interpreter there."""
        ...

    @property
    def folder(self) -> str:
        """Where temporary folders are made there."""
        ...

    def run(
        self, command: str, *, timeout_s: float, source: BinaryIO | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a shell command there; `source` becomes its standard input.

        Raises:
            Lost: There was no connection, or none any more, or it took longer.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Ssh:
    """The system's `ssh`, with its configuration, keys and known hosts; it never asks.

    The environment variable `GRAPHOPT_SSH` replaces the program, as words: `ssh -F my.config`.
    """

    host: str
    user: str | None = None
    port: int | None = None
    python: str = "python3"
    folder: str = "/tmp"  # noqa: S108 - `mktemp` makes a folder of its own there

    def run(
        self, command: str, *, timeout_s: float, source: BinaryIO | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a shell command on the host; see `Transport`."""
        options = {
            "BatchMode": "yes",
            "ConnectTimeout": CONNECT_TIMEOUT_S,
            # A device that was switched off answers nothing for ever; 15 seconds of silence end the
            # visit.
            "ServerAliveInterval": 5,
            "ServerAliveCountMax": 3,
        }
        words = shlex.split(os.environ.get("GRAPHOPT_SSH", "ssh"))
        words += [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
        words += ["-p", str(self.port)] if self.port else []
        words += ["-l", self.user] if self.user else []
        # What the other end takes for a command is one string, for its shell.
        done = _call([*words, "--", self.host, command], timeout_s, source)
        if done.returncode == _LOST_STATUS:
            raise Lost(_last_line(done.stderr) or "the connection was lost")
        return done


@dataclass(frozen=True, kw_only=True)
class Adb:
    """An Android device by its serial number; needs `adb`, and a Python with onnxruntime there.

    Attributes:
        serial: As `adb devices` lists it.
    """

    serial: str
    python: str = "python3"
    folder: str = "/data/local/tmp"

    def run(
        self, command: str, *, timeout_s: float, source: BinaryIO | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a shell command on the device; see `Transport`."""
        # `exec-in` would lose the exit status; `shell` has had the shell protocol since Android 7.
        done = _call(["adb", "-s", self.serial, "shell", "-T", command], timeout_s, source)
        if done.returncode != 0 and done.stderr.startswith((b"adb: ", b"error: ")):
            raise Lost(_last_line(done.stderr))
        return done


def _call(
    words: Sequence[str], timeout_s: float, source: BinaryIO | None
) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            words,
            stdin=source or subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Lost(f"no answer within {timeout_s:g} s") from None
    except OSError as error:
        raise Lost(f"`{words[0]}` cannot be run: {error.strerror}") from error


def _last_line(text: bytes) -> str:
    lines = text.decode(errors="backslashreplace").strip().splitlines()
    return lines[-1] if lines else ""


def transport_of(address: str) -> Transport:
    """Return the way to a device.

    Args:
        address: `ssh://[user@]host[:port]` or `adb://serial`, with `?python=PATH` where the
            interpreter that has onnxruntime is another than `python3`, and `&folder=PATH` where
            temporary files go elsewhere than usual.

    Raises:
        OptionError: It is none.
    """
    parts = urlsplit(address)
    settings = dict(parse_qsl(parts.query, keep_blank_values=True))
    try:
        port = parts.port
    except ValueError:
        port = -1
    host = unquote(parts.hostname or "")
    is_plain = _HOST.fullmatch(host) and parts.path in {"", "/"} and port != -1
    if not is_plain or set(settings) - _KNOWN_SETTINGS or not all(settings.values()):
        raise _wrong(address)
    if parts.scheme == "ssh" and not parts.password and not (parts.username or "").startswith("-"):
        return Ssh(host=host, user=parts.username, port=port, **settings)
    if parts.scheme == "adb" and parts.username is None:
        # A serial is told by its case, which the parser of addresses does not keep.
        return Adb(serial=parts.netloc, **settings)
    raise _wrong(address)


def _wrong(address: str) -> OptionError:
    return OptionError(
        f"`{address}` is not the address of a device",
        why="expected `ssh://[user@]host[:port]` or `adb://serial`",
        hint="for example `ssh://pi@board.local?python=/opt/venv/bin/python`; keys and hosts are "
        "those of your `ssh`",
    )
