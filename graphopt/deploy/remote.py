"""`graphopt validate --device`: the checks of a bundle on a machine that is elsewhere.

The bundle goes there with the validator of this graphopt, never its own: nothing that lies in a
bundle is executed. What comes back is one JSON document, and what was sent is removed.
"""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from graphopt.deploy.bundle import Bundle
from graphopt.deploy.integrity import MANIFEST, SCHEMA, SIGNATURE
from graphopt.deploy.shipped_validator import schema_text, validator_text
from graphopt.deploy.tar_stream import write_member, write_tar_end
from graphopt.deploy.transports import Lost, Transport, transport_of
from graphopt.ir import external_files, load

__all__ = ["DeviceResult", "FleetDevice", "validate_on"]

MOST_AT_ONCE = 8
_SHORT_S = 30.0
_PLACE = re.compile(r"/[^\0\n]*/graphopt-[A-Za-z0-9]{8,}")
_STATUSES = ("ok", "wrong", "broken")
_ROOM = 1.1
"""Filesystems need more than the bytes of files."""


@dataclass(frozen=True, kw_only=True)
class FleetDevice:
    """A device that can be asked.

    Attributes:
        name: What tables call it.
        address: How it is reached, see `transport_of`.
        timeout_s: Seconds that pushing, and checking, may take each.
    """

    name: str
    address: str
    timeout_s: float = 600.0


@dataclass(frozen=True, kw_only=True)
class DeviceResult:
    """What one device says of a bundle.

    Attributes:
        name: The device.
        address: How it was reached.
        status: `ok`, `wrong` or `broken` as on any machine; `lost` where it did not answer.
        exit_code: 0, 1 or 2; 2 where it did not answer.
        reason: Why there is no report, or what could not be cleaned up.
        report: What its validator printed; None where it did not get so far.
        seconds: The whole visit.
    """

    name: str
    address: str
    status: str
    exit_code: int
    reason: str | None
    report: dict[str, Any] | None
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return dict(self.__dict__)


def validate_on(
    bundle: Bundle,
    devices: Sequence[FleetDevice],
    *,
    latency: bool = False,
    reference: str | os.PathLike[str] | None = None,
) -> list[DeviceResult]:
    """Check a bundle on devices, several at once.

    Args:
        bundle: It is whole, which was checked when it was loaded.
        devices: Where to.
        latency: Measure it there too.
        reference: File of the original, which goes there too, to be timed beside the model.

    Returns:
        One result for each device, in their order; nothing about a device raises.

    Raises:
        OptionError: An address is none.
        ModelLoadError: The original cannot be read.
    """
    transports = [transport_of(device.address) for device in devices]  # before anybody is visited
    files = _files(bundle, Path(reference) if reference is not None else None)
    words = ["--latency"] if latency else []
    words += ["--reference", f"original/{Path(reference).name}"] if reference is not None else []
    with ThreadPoolExecutor(MOST_AT_ONCE) as pool:
        visits = [_Visit(files, words, *pair) for pair in zip(devices, transports, strict=True)]
        return list(pool.map(_Visit.run, visits))


def _files(bundle: Bundle, reference: Path | None) -> dict[str, Path]:
    """Return what goes to a device, by its name there."""
    names = [MANIFEST, *bundle.manifest["files"]]
    names += [SIGNATURE] if (bundle.path / SIGNATURE).is_file() else []
    files = {f"bundle/{name}": bundle.path / name for name in names}
    if reference is not None:
        for path in (reference, *external_files(load(reference))):
            files[f"original/{path.name}"] = path
    return files


class _Refused(Exception):
    """The device answers, and cannot do what is asked."""


class _Visit:
    def __init__(
        self,
        files: dict[str, Path],
        words: list[str],
        device: FleetDevice,
        transport: Transport,
    ) -> None:
        self._files, self._words = files, words
        self._device, self._transport = device, transport

    def run(self) -> DeviceResult:
        start = time.monotonic()
        report, status, reason, left = None, "lost", None, None
        try:
            place = self._make_place()
            try:
                self._push(place)
                report = self._check(place)
                status = str(report["status"])
            finally:
                left = self._remove(place)
        except Lost as error:
            reason = str(error)
        except _Refused as error:
            status, reason = "broken", str(error)
        code = int(report["exit_code"]) if report else 2
        return DeviceResult(
            name=self._device.name,
            address=self._device.address,
            status=status,
            exit_code=code,
            reason="; ".join(filter(None, (reason, left))) or None,
            report=report,
            seconds=round(time.monotonic() - start, 3),
        )

    def _make_place(self) -> str:
        pattern = f"{self._transport.folder}/graphopt-XXXXXXXXXX"
        place = self._shell(f"umask 077; mktemp -d {shlex.quote(pattern)}").decode().strip()
        # It is removed at the end, whatever it is: it must be what was asked for.
        if not _PLACE.fullmatch(place):
            raise _Refused(f"no temporary folder could be made: {place!r}")
        return place

    def _push(self, place: str) -> None:
        needed = sum(path.stat().st_size for path in self._files.values())
        free = self._free_bytes(place)
        if free is not None and free < _ROOM * needed:
            raise _Refused(f"the disk is full: {free} bytes are free, {needed} are sent")
        # Into a file, not into memory: a model may be larger than that.
        with tempfile.TemporaryFile() as stream:
            for name, path in self._files.items():
                with path.open("rb") as source:
                    write_member(stream, name, path.stat().st_size, source)
            for name, text in (("validate.py", validator_text()), (SCHEMA, schema_text())):
                content = text.encode()
                write_member(stream, name, len(content), io.BytesIO(content))
            write_tar_end(stream)
            stream.seek(0)
            command = f"tar -x -f - -C {shlex.quote(place)}"
            self._shell(command, timeout_s=self._device.timeout_s, source=stream)

    def _free_bytes(self, place: str) -> int | None:
        """Return the room there; None where `df` tells nothing that is understood."""
        answer = self._transport.run(f"df -Pk {shlex.quote(place)}", timeout_s=_SHORT_S)
        columns = answer.stdout.decode(errors="replace").strip().splitlines()[-1:]
        words = columns[0].split() if columns else []
        return int(words[3]) * 1024 if len(words) > 3 and words[3].isdigit() else None  # noqa: PLR2004 - POSIX

    def _check(self, place: str) -> dict[str, Any]:
        seconds = int(self._device.timeout_s)
        program = [self._transport.python, "validate.py", "bundle", "--json", *self._words]
        command = shlex.join(program)
        # Where the connection ends, the program there must end too.
        guarded = (
            f"cd {shlex.quote(place)} && if command -v timeout >/dev/null; "
            f"then timeout {seconds} {command}; else {command}; fi"
        )
        done = self._transport.run(guarded, timeout_s=self._device.timeout_s)
        report = _parse(done.stdout)
        # Its word is believed only where program and report agree: a shell between them may fail on
        # its own.
        if report is None or done.returncode != report["exit_code"]:
            said = (done.stderr or done.stdout).decode(errors="backslashreplace").strip()
            last = said.splitlines()[-1] if said else "nothing"
            raise _Refused(f"no report, exit status {done.returncode}: {last[:200]}")
        return report

    def _remove(self, place: str) -> str | None:
        try:
            self._shell(f"rm -rf {shlex.quote(place)}")
        except (Lost, _Refused) as error:
            return f"`{place}` is left there: {error}"
        return None

    def _shell(
        self, command: str, *, timeout_s: float = _SHORT_S, source: BinaryIO | None = None
    ) -> bytes:
        done = self._transport.run(command, timeout_s=timeout_s, source=source)
        if done.returncode != 0:
            lines = done.stderr.decode(errors="backslashreplace").strip().splitlines()
            full = next((line for line in lines if "No space left" in line), None)
            if full is not None:
                raise _Refused(f"the disk is full: {full}")
            raise _Refused(f"refused: {lines[-1] if lines else command}")
        return done.stdout


def _parse(text: bytes) -> dict[str, Any] | None:
    """Return the report in what a device printed; None where it is none."""
    try:
        report = json.loads(text)
        checks = [(item["name"], item["status"], item["detail"]) for item in report["checks"]]
        figures = [
            found[key]
            for kinds in report["outputs"].values()
            for found in kinds.values()
            for key in ("error", "cosine", "sqnr_db")
        ]
        latency = dict(report["latency"] or {})
        beside = latency.pop("reference", None) or {"ratio": 1.0, "verdict": "same"}
        figures += [*latency.values(), beside["ratio"] + 0.0]
        checks.append(("latency", "", beside["verdict"]))
        is_known = report["status"] == _STATUSES[report["exit_code"]]
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
    is_text = all(isinstance(word, str) for check in checks for word in check)
    is_number = all(figure is None or isinstance(figure, int | float) for figure in figures)
    return report if is_known and is_text and is_number else None
